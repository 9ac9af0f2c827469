//! Collects the tables that the user half reaches, and finds entries in them.

use std::collections::BTreeMap;

use pinfold_arch::{AddrRange, AnyFormat, Entry, PageCount, PageFormat, Table, VirtAddr};
use pinfold_sim::snapshot::TablePage;

use super::arch::Unhide;

/// Reads the tables one by one, from the top down; sorted by address. `read` gets the address of a
/// table and its size in bytes.
pub(super) fn collect(
    format: &AnyFormat,
    top: Table,
    mut read: impl FnMut(u64, u64) -> Result<Vec<u8>, String>,
) -> Result<Vec<TablePage>, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![top];
    while let Some(table) = open.pop() {
        let addr = table.base.raw();
        if found.contains_key(&addr) {
            continue;
        }
        let bytes = read(addr, 8 * table.entries() as u64)?;
        let mut entries: Vec<u64> = bytes.chunks_exact(8).map(|word| entry(format, word)).collect();
        if table == top {
            // The other half of the addresses is the kernel's; its tables are not collected.
            let kernels = |index: &usize| !valid(format, (*index as u64) << table.shift.raw());
            let first = (0..entries.len()).find(kernels).unwrap_or(entries.len());
            entries[first..].fill(0);
        }
        for &raw in &entries {
            if let Entry::Table(next, _) = format.decode(&table, raw) {
                open.push(next);
            }
        }
        found.insert(addr, entries);
    }
    Ok(found.into_iter().map(|(addr, entries)| TablePage { addr, entries }).collect())
}

fn entry(format: &AnyFormat, word: &[u8]) -> u64 {
    let fold = |value, &byte: &u8| value << 8 | u64::from(byte);
    if format.big_endian() { word.iter().fold(0, fold) } else { word.iter().rev().fold(0, fold) }
}

fn valid(format: &AnyFormat, va: u64) -> bool {
    let page = AddrRange::new(VirtAddr::new(va), PageCount::new(1), format.base());
    page.is_ok_and(|page| format.valid(&page))
}

/// The last entry on the way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing is mapped.
    Empty,
    /// Not present, but not empty: the frame that it would have if this is a page without access,
    /// and not a place in a swap area.
    Hidden(Option<u64>),
    /// The frame of the page.
    Frame(u64),
}

/// Tables by address, and how to read them.
pub(super) struct Tables<'a> {
    pub(super) format: AnyFormat,
    pub(super) top: Table,
    pub(super) entries: BTreeMap<u64, &'a [u64]>,
    pub(super) unhide: Unhide,
}

impl Tables<'_> {
    /// Walks as the processor would, but to the last entry.
    pub(super) fn find(&self, va: u64) -> Result<Found, String> {
        let mut table = self.top;
        loop {
            let addr = table.base.raw();
            let entries = self.entries.get(&addr);
            let entries = entries.ok_or(format!("no table at {addr:#x} for {va:#x}"))?;
            let index = table.index(VirtAddr::new(va));
            let raw = entries.get(usize::from(index)).copied();
            let raw = raw.ok_or(format!("the table at {addr:#x} ends before {va:#x}"))?;
            match self.format.decode(&table, raw) {
                Entry::Table(next, _) => table = next,
                Entry::Leaf(_) => {
                    return Ok(self.frame(&table, raw, va).map_or(Found::Empty, Found::Frame));
                }
                Entry::Absent if self.format.encode(&table, Entry::Absent) == Ok(raw) => {
                    return Ok(Found::Empty);
                }
                Entry::Absent => {
                    return Ok(Found::Hidden(self.frame(
                        &table,
                        (self.unhide)(raw, table.shift),
                        va,
                    )));
                }
                Entry::Malformed => {
                    return Err(format!("entry {raw:#x} of the table at {addr:#x} for {va:#x}"));
                }
            }
        }
    }

    /// The frame of a page, by the entry that maps it.
    fn frame(&self, table: &Table, raw: u64, va: u64) -> Option<u64> {
        let Entry::Leaf(leaf) = self.format.decode(table, raw) else { return None };
        Some((leaf.addr.raw() | va & leaf.shift.mask()) >> self.format.base().raw())
    }
}

#[cfg(test)]
mod tests {
    use pinfold_arch::{PhysAddr, X86_64};

    use super::*;

    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// Top, two tables below it, one large page and one page without access.
    fn machine(addr: u64, bytes: u64) -> Result<Vec<u8>, String> {
        let mut table = vec![0u64; usize::try_from(bytes / 8).map_err(|error| error.to_string())?];
        match addr {
            0x1000 => (table[0], table[511]) = (0x2067, 0x7067),
            0x2000 => table[1] = 0x3067,
            0x3000 => (table[0], table[2]) = (0x4067, 0x60_00e7),
            0x4000 => table[5] = !0x9000 & ADDRESS | 0x120,
            _ => return Err(format!("{addr:#x} is not a table")),
        }
        Ok(table.iter().flat_map(|entry| entry.to_le_bytes()).collect())
    }

    #[test]
    fn tables_of_the_user_half_only() {
        let x86 = X86_64::new(4, 46).expect("a format");
        let (format, top) = (AnyFormat::from(x86), x86.root(0x1018).expect("a root"));
        let found = collect(&format, top, machine).expect("all tables are there");
        let addrs: Vec<u64> = found.iter().map(|table| table.addr).collect();
        assert_eq!(addrs, [0x1000, 0x2000, 0x3000, 0x4000]);
        assert_eq!((found[0].entries[0], found[0].entries[511]), (0x2067, 0));

        let entries = found.iter().map(|table| (table.addr, table.entries.as_slice())).collect();
        let unhide: Unhide = |raw, _| raw ^ ADDRESS | 1;
        let tables = Tables { format, top, entries, unhide };
        let start = 1 << 30;
        assert_eq!(tables.find(start), Ok(Found::Empty));
        assert_eq!(tables.find(start + 5 * 4096), Ok(Found::Hidden(Some(9))));
        assert_eq!(tables.find(start + 0x40_3000), Ok(Found::Frame(0x603)));
        assert_eq!(top.base, PhysAddr::new(0x1000));
    }
}
