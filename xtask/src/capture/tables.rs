//! Collects the page-table pages that the user half reaches, and finds entries in them.

use pinfold_sim::snapshot::TablePage;
use std::collections::BTreeMap;

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// Bits of an entry, and of the root register, that are an address.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Reads the tables one by one, from the root down; sorted by address.
pub(super) fn collect(
    root: u64,
    levels: u8,
    mut read: impl FnMut(u64) -> Result<Vec<u64>, String>,
) -> Result<Vec<TablePage>, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![(root & ADDRESS, levels)];
    while let Some((addr, level)) = open.pop() {
        if found.contains_key(&addr) {
            continue;
        }
        let mut entries = read(addr)?;
        if level == levels {
            // The kernel's half; its tables are not collected.
            entries[256..].fill(0);
        }
        let tables = entries.iter().filter(|&&entry| level > 1 && is_table(entry, level, levels));
        open.extend(tables.map(|entry| (entry & ADDRESS, level - 1)));
        found.insert(addr, entries);
    }
    Ok(found.into_iter().map(|(addr, entries)| TablePage { addr, entries }).collect())
}

fn is_table(entry: u64, level: u8, levels: u8) -> bool {
    let can_be_large = level <= 3 && level < levels;
    entry & PRESENT != 0 && !(can_be_large && entry & LARGE != 0)
}

/// The last entry on the way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing is mapped.
    Empty,
    /// Not present, but not empty: the entry and the frame it would have if its address bits are
    /// stored inverted, as Linux does for pages without access.
    Hidden(u64),
    /// The frame of the page.
    Frame(u64),
}

/// Walks as the processor would, but to the last entry.
pub(super) fn find(
    tables: &BTreeMap<u64, &[u64]>,
    root: u64,
    levels: u8,
    va: u64,
) -> Result<Found, String> {
    let mut addr = root & ADDRESS;
    for level in (1..=levels).rev() {
        let shift = 12 + 9 * u32::from(level - 1);
        let table = tables.get(&addr).ok_or(format!("no table at {addr:#x} for {va:#x}"))?;
        let index = va >> shift & 0x1ff;
        let entry = *usize::try_from(index).ok().and_then(|index| table.get(index)).unwrap_or(&0);
        let inside = (va & ((1 << shift) - 1)) >> 12;
        if entry == 0 {
            return Ok(Found::Empty);
        }
        if entry & PRESENT == 0 {
            return Ok(Found::Hidden(((!entry & ADDRESS) >> shift << shift >> 12) + inside));
        }
        if level == 1 || !is_table(entry, level, levels) {
            return Ok(Found::Frame(((entry & ADDRESS) >> shift << shift >> 12) + inside));
        }
        addr = entry & ADDRESS;
    }
    Ok(Found::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root, two tables below it, one large page and one page without access.
    fn machine(addr: u64) -> Result<Vec<u64>, String> {
        let mut table = vec![0; 512];
        match addr {
            0x1000 => (table[0], table[511]) = (0x2067, 0x7067),
            0x2000 => table[1] = 0x3067,
            0x3000 => (table[0], table[2]) = (0x4067, 0x60_00e7),
            0x4000 => table[5] = !0x9000 & ADDRESS | 0x120,
            _ => return Err(format!("{addr:#x} is not a table")),
        }
        Ok(table)
    }

    #[test]
    fn tables_of_the_user_half_only() {
        let found = collect(0x1018, 4, machine).expect("all tables are there");
        let addrs: Vec<u64> = found.iter().map(|table| table.addr).collect();
        assert_eq!(addrs, [0x1000, 0x2000, 0x3000, 0x4000]);
        assert_eq!(found[0].entries[511], 0);

        let tables = found.iter().map(|table| (table.addr, table.entries.as_slice())).collect();
        let find = |va| find(&tables, 0x1018, 4, va);
        let start = 1 << 30;
        assert_eq!(find(start), Ok(Found::Empty));
        assert_eq!(find(start + 5 * 4096), Ok(Found::Hidden(9)));
        assert_eq!(find(start + 0x40_3000), Ok(Found::Frame(0x603)));
    }
}
