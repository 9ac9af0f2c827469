//! The captured page tables: one tree, all of it captured, every leaf inside a mapping.

use std::collections::{BTreeMap, BTreeSet};

use pinfold::{AnyFormat, PageFormat, PageShift, Rights, Table, VirtAddr};
use pinfold_arch::{Entry, Leaf};

use super::ReplicaError;
use super::maps::{self, Map};
use crate::format::{TableFormat, reachable};
use crate::snapshot::{Snapshot, TablePage};

/// A leaf of the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapped {
    pub(super) va: VirtAddr,
    pub(super) leaf: Leaf,
    /// Which mapping it is in.
    pub(super) map: usize,
}

/// What the tables say.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) format: AnyFormat,
    pub(super) root: Table,
    /// By address, no two of them overlap.
    pub(super) leaves: Vec<Mapped>,
    /// Base pages, by address, whose entry is neither present nor empty although the process may
    /// use them: swapped out, if the kernel says so too.
    pub(super) away: Vec<VirtAddr>,
}

impl Tree {
    /// The leaf that maps an address.
    pub(super) fn leaf(&self, va: VirtAddr) -> Option<(usize, &Mapped)> {
        let at = self.leaves.partition_point(|leaf| leaf.va <= va).checked_sub(1)?;
        let mapped = &self.leaves[at];
        (va.align_down(mapped.leaf.shift) == mapped.va).then_some((at, mapped))
    }
}

struct Reader<'a> {
    format: AnyFormat,
    maps: &'a [Map],
    tables: BTreeMap<u64, &'a TablePage>,
    reached: BTreeSet<u64>,
    leaves: Vec<Mapped>,
    away: Vec<VirtAddr>,
}

pub(super) fn read(
    snapshot: &Snapshot,
    (format, root): (AnyFormat, Table),
    maps: &[Map],
) -> Result<Tree, ReplicaError> {
    let tables = snapshot.tables.iter().map(|table| (table.addr, table)).collect();
    let reached = BTreeSet::new();
    let mut reader = Reader { format, maps, tables, reached, leaves: Vec::new(), away: Vec::new() };
    apart(&snapshot.tables, format.base())?;
    reader.table(&root, 0)?;
    let unreached = snapshot.tables.iter().find(|table| !reader.reached.contains(&table.addr));
    if let Some(table) = unreached {
        return Err(ReplicaError::Table { addr: table.addr, what: "nothing leads to it" });
    }
    if reader.reached.len() != snapshot.tables.len() {
        return Err(ReplicaError::Table { addr: root.base.raw(), what: "a table is there twice" });
    }
    Ok(Tree { format, root, leaves: reader.leaves, away: reader.away })
}

impl Reader<'_> {
    /// Reads what is below a table. The format's tables become smaller with every step down.
    fn table(&mut self, table: &Table, start: u64) -> Result<(), ReplicaError> {
        let addr = table.base.raw();
        let page = self.tables.get(&addr);
        let page = *page.ok_or(ReplicaError::Table { addr, what: "it was not captured" })?;
        if !self.reached.insert(addr) {
            return Err(ReplicaError::Table { addr, what: "several entries lead to it" });
        }
        if usize::from(table.first) != 0 || table.entries() != 1 << table.bits {
            return Err(ReplicaError::Table {
                addr,
                what: "it is cut short, which is not supported",
            });
        }
        if page.entries.len() != table.entries() {
            return Err(ReplicaError::Table { addr, what: "another number of entries is needed" });
        }
        let empty = self.format.encode(table, Entry::Absent);
        for (index, raw) in page.entries.iter().enumerate().filter(|(_, raw)| Ok(**raw) != empty) {
            // What all tables on the way index together fits an address.
            let at = start + ((index as u64) << table.shift.raw());
            if at >= self.format.end().raw() {
                return Err(wrong(VirtAddr::new(at), *raw, "it is of the kernel's half"));
            }
            self.entry(table, VirtAddr::new(at), *raw)?;
        }
        Ok(())
    }

    fn entry(&mut self, table: &Table, va: VirtAddr, raw: u64) -> Result<(), ReplicaError> {
        let wrong = |what| Err(wrong(va, raw, what));
        match self.format.decode(table, raw) {
            Entry::Malformed => wrong("malformed"),
            Entry::Table(next, _) => self.table(&next, va.raw()),
            Entry::Leaf(leaf) => {
                let Some(at) = maps::find(self.maps, va) else {
                    return wrong("it is in no mapping");
                };
                let map = &self.maps[at];
                let last = VirtAddr::new(va.raw() | leaf.shift.mask());
                if !map.vma.range.contains(last) {
                    return wrong("it reaches beyond its mapping");
                }
                let granted = map.vma.rights(true) | Rights::EXECUTE;
                let open = reachable(leaf.rights);
                if open && (map.no_access() || !granted.contains(leaf.rights)) {
                    return wrong("it grants more than its mapping");
                }
                // Some kernels keep a page without access as an entry that is for them alone.
                if !open && !map.no_access() {
                    return wrong("it is not the process's");
                }
                self.leaves.push(Mapped { va, leaf, map: at });
                Ok(())
            }
            Entry::Absent => match maps::find(self.maps, va) {
                // The kernel keeps a page without access as an entry that is not present.
                Some(at) if self.maps[at].no_access() => Ok(()),
                Some(at) if table.shift == self.format.base() && self.maps[at].may_swap() => {
                    self.away.push(va);
                    Ok(())
                }
                Some(_) => wrong("the page is on its way, which is not supported"),
                None => wrong("it is in no mapping"),
            },
        }
    }
}

/// Looks whether tables overlap, or lie across frames that are not theirs.
fn apart(tables: &[TablePage], base: PageShift) -> Result<(), ReplicaError> {
    let mut behind = 0;
    for TablePage { addr, entries } in tables {
        let wrong = |what| Err(ReplicaError::Table { addr: *addr, what });
        let bytes = entries.len() as u64 * 8;
        let Some(end) = addr.checked_add(bytes) else { return wrong("it has no end") };
        let offset = addr & base.mask();
        if offset != 0 && offset + bytes > base.bytes() {
            return wrong("it is larger than what is left of its frame");
        }
        if *addr < behind {
            return wrong("it overlaps the one before it, or is not in order");
        }
        behind = end;
    }
    Ok(())
}

fn wrong(at: VirtAddr, raw: u64, what: &'static str) -> ReplicaError {
    ReplicaError::Entry { at, raw, what }
}

impl Tree {
    /// Base pages that a leaf maps.
    pub(super) fn pages_of(&self, leaf: &Leaf) -> u64 {
        leaf.shift.pages(self.format.base()).raw()
    }
}
