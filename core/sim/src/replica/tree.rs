//! The captured page tables: one tree, all of it captured, every leaf inside a mapping.

use std::collections::{BTreeMap, BTreeSet};

use pinfold::{PageFormat, PageShift, Rights, Table, VirtAddr, X86_64};
use pinfold_arch::{Entry, Leaf};

use super::ReplicaError;
use super::maps::{self, Map};
use crate::format::TableFormat;
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
    pub(super) format: X86_64,
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
    format: X86_64,
    maps: &'a [Map],
    tables: BTreeMap<u64, &'a TablePage>,
    reached: BTreeSet<u64>,
    leaves: Vec<Mapped>,
    away: Vec<VirtAddr>,
}

pub(super) fn read(
    snapshot: &Snapshot,
    (format, root): (X86_64, Table),
    maps: &[Map],
) -> Result<Tree, ReplicaError> {
    let tables = snapshot.tables.iter().map(|table| (table.addr, table)).collect();
    let reached = BTreeSet::new();
    let mut reader = Reader { format, maps, tables, reached, leaves: Vec::new(), away: Vec::new() };
    for table in &snapshot.tables {
        let wrong = |what| Err(ReplicaError::Table { addr: table.addr, what });
        if table.addr & format.base().mask() != 0 {
            return wrong("it does not begin with a frame");
        }
    }
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
        if page.entries.len() != table.entries() {
            return Err(ReplicaError::Table { addr, what: "another number of entries is needed" });
        }
        for (index, raw) in page.entries.iter().enumerate().filter(|(_, raw)| **raw != 0) {
            // An index has 9 bits and a root of five levels maps 57: this does not overflow.
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
                if map.no_access() || !granted.contains(leaf.rights) {
                    return wrong("it grants more than its mapping");
                }
                if !leaf.rights.contains(Rights::USER) {
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

fn wrong(at: VirtAddr, raw: u64, what: &'static str) -> ReplicaError {
    ReplicaError::Entry { at, raw, what }
}

/// Base pages that a leaf maps.
pub(super) fn pages_of(leaf: &Leaf) -> u64 {
    leaf.shift.pages(PageShift::SIZE_4K).raw()
}
