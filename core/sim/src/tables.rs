//! Page tables in the machine's memory, in a format's own entries.
//!
//! Only the machine writes them, one thread at a time; walkers read them at any time.

use pinfold::host::TableView;
use pinfold::{PhysAddr, Rights, Table, VirtAddr};
use pinfold_arch::{Entry, Leaf};

use crate::format::TableFormat;
use crate::ram::Ram;

/// Where the way to an address ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spot {
    /// The last table on the way.
    pub(crate) table: Table,
    /// The entry in it.
    pub(crate) index: usize,
    /// What the entry says: never a table.
    pub(crate) entry: Entry,
}

/// Reads and writes entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables<'m, F> {
    ram: &'m Ram,
    format: F,
}

impl<'m, F: TableFormat> Tables<'m, F> {
    pub(crate) fn new(ram: &'m Ram, format: F) -> Self {
        Self { ram, format }
    }

    pub(crate) fn format(&self) -> F {
        self.format
    }

    /// The table's entries; `None` outside memory.
    pub(crate) fn view(&self, base: PhysAddr, entries: usize) -> Option<TableView<'m>> {
        self.ram.words(base, entries).map(TableView::from_words)
    }

    fn of(&self, table: &Table) -> TableView<'m> {
        self.view(table.base, table.entries()).expect("the machine's tables lie in its memory")
    }

    /// An entry's value as it stands in memory, or the other way round.
    pub(crate) fn in_memory(&self, raw: u64) -> u64 {
        if self.format.big_endian() { raw.to_be() } else { raw.to_le() }
    }

    pub(crate) fn load_raw(&self, table: &Table, index: usize) -> u64 {
        self.in_memory(self.of(table).load(index).expect("an index of the table"))
    }

    pub(crate) fn load(&self, table: &Table, index: usize) -> Entry {
        self.format.decode(table, self.load_raw(table, index))
    }

    /// Writes an entry. It must be one that the format can say: see
    /// [`closest`](TableFormat::closest).
    pub(crate) fn store(&self, table: &Table, index: usize, entry: Entry) {
        let raw = self.format.encode(table, entry).expect("the machine writes what the format has");
        self.swap_raw(table, index, raw);
    }

    /// Replaces an entry and returns the old value. A full barrier: who clears an entry and then
    /// looks for pins relies on it.
    pub(crate) fn swap_raw(&self, table: &Table, index: usize, raw: u64) -> u64 {
        let old = self.of(table).swap(index, self.in_memory(raw));
        self.in_memory(old.expect("an index of the table"))
    }

    /// The value of an entry that says nothing.
    pub(crate) fn absent(&self, table: &Table) -> u64 {
        self.format.encode(table, Entry::Absent).expect("every format can say nothing")
    }

    /// Makes an entry say nothing and returns the old value.
    pub(crate) fn clear(&self, table: &Table, index: usize) -> u64 {
        self.swap_raw(table, index, self.absent(table))
    }

    /// Follows the way to `va` to its end.
    pub(crate) fn spot(&self, root: Table, va: VirtAddr) -> Spot {
        let mut table = root;
        loop {
            let index = usize::from(table.index(va));
            match self.load(&table, index) {
                Entry::Table(next, _) => table = next,
                entry => return Spot { table, index, entry },
            }
        }
    }

    /// The tables on the way to `va`, from the root on, each with the index of the entry in it.
    pub(crate) fn path(&self, root: Table, va: VirtAddr) -> Vec<(Table, usize)> {
        let mut path = Vec::new();
        let mut table = root;
        loop {
            let index = usize::from(table.index(va));
            path.push((table, index));
            match self.load(&table, index) {
                Entry::Table(next, _) => table = next,
                _ => return path,
            }
        }
    }

    /// Points an entry at the next table, which allows everything.
    pub(crate) fn link(&self, table: &Table, index: usize, next: Table) {
        self.store(table, index, Entry::Table(next, Rights::all()));
    }

    /// Whether no entry of the table says anything.
    pub(crate) fn is_empty(&self, table: &Table) -> bool {
        let absent = self.absent(table);
        (usize::from(table.first)..table.entries())
            .all(|index| self.load_raw(table, index) == absent)
    }

    /// Every leaf below `root`, in order of addresses, with the address it maps and its place.
    pub(crate) fn leaves(&self, root: Table) -> Vec<(VirtAddr, Spot, Leaf)> {
        let mut found = Vec::new();
        self.leaves_below(&root, 0, &mut found);
        found
    }

    fn leaves_below(&self, table: &Table, start: u64, found: &mut Vec<(VirtAddr, Spot, Leaf)>) {
        // The machine maps the lower half only.
        let entries = table.entries();
        for index in usize::from(table.first)..entries {
            let va = start + ((index as u64) << table.shift.raw());
            match self.load(table, index) {
                Entry::Table(next, _) => self.leaves_below(&next, va, found),
                entry @ Entry::Leaf(leaf) => {
                    found.push((VirtAddr::new(va), Spot { table: *table, index, entry }, leaf));
                }
                Entry::Absent | Entry::Malformed => {}
            }
        }
    }

    /// Every table below `root` and the root itself.
    pub(crate) fn all(&self, root: Table) -> Vec<Table> {
        let mut tables = vec![root];
        for index in usize::from(root.first)..root.entries() {
            if let Entry::Table(next, _) = self.load(&root, index) {
                tables.extend(self.all(next));
            }
        }
        tables
    }

    /// Fills a table with one value.
    pub(crate) fn fill(&self, table: &Table, entry: Entry) {
        for index in usize::from(table.first)..table.entries() {
            self.store(table, index, entry);
        }
    }
}
