//! Page tables of a range, in flat memory, in any format.

use pinfold::host::{PhysMem, TableView};
use pinfold::sync::{Ordering, Word};
use pinfold::{AddrRange, PageShift, PhysAddr, Rights, Table, VirtAddr};
use pinfold_arch::addr::index;
use pinfold_arch::{Entry, Geometry, Leaf, LeafFlags};

use crate::memory::Flat;

/// Where they lie.
pub const TABLES: PhysAddr = PhysAddr::new(0x10_0000);
/// Every level begins at a multiple of this: no format has a larger table.
const ALIGNMENT: u64 = 1 << 16;
const WORD: u64 = 8;

/// Page tables that map a range, all of it.
///
/// They lie level by level, the root first, and each level in order of address: so the entries that
/// map memory are one flat array, which a floor reads too.
#[derive(Debug)]
pub struct PageTables<F> {
    format: F,
    root: Table,
    last: Table,
    words: Flat,
    leaves: std::ops::Range<usize>,
}

/// One level: its first table, how many there are, and which addresses they begin with.
#[derive(Clone, Copy, Debug)]
struct Level {
    first: Table,
    tables: u64,
    start: u64,
}

impl Level {
    /// The level of which `first` is one table, for a range.
    fn new(first: Table, range: &AddrRange) -> Self {
        let reach = first.shift.raw() + first.bits;
        let number = |va: VirtAddr| va.raw() >> reach;
        let tables = number(range.last()) - number(range.start()) + 1;
        Self { first, tables, start: number(range.start()) << reach }
    }

    /// Bytes from one table to the next.
    fn size(&self) -> u64 {
        (self.first.entries() as u64 * WORD).next_power_of_two()
    }

    /// The table that has an address.
    fn table(&self, va: VirtAddr) -> Table {
        let number = (va.raw() - self.start) >> (self.first.shift.raw() + self.first.bits);
        Table { base: PhysAddr::new(self.first.base.raw() + number * self.size()), ..self.first }
    }

    fn end(&self) -> u64 {
        self.first.base.raw() + self.tables * self.size()
    }
}

impl<F: Geometry> PageTables<F> {
    /// Maps a range with pages of size `mapped`: `addr` says where each is.
    ///
    /// # Panics
    /// If the format has no such pages or cannot translate the range, or there is no memory.
    #[must_use]
    pub fn new(
        format: F,
        range: &AddrRange,
        mapped: PageShift,
        addr: impl Fn(u64) -> PhysAddr,
    ) -> Self {
        assert!(format.valid(range), "{} cannot translate the range", format.name());
        let mut levels = vec![Level::new(format.top(TABLES), range)];
        while let Some(last) = levels.last().filter(|last| last.first.shift > mapped) {
            let base = PhysAddr::new(last.end().next_multiple_of(ALIGNMENT));
            let below = format.below(&last.first, base).expect("a size that the format has");
            levels.push(Level::new(below, range));
        }
        let last = levels[levels.len() - 1];
        assert_eq!(last.first.shift, mapped, "{} has no such pages", format.name());
        let first = word(last.table(range.start()).base, last.first.index(range.start()));
        let pages = index((range.last().raw() - range.start().raw()) >> mapped.raw()) + 1;
        let words = Flat::new(index((last.end() - TABLES.raw()) / WORD));
        let (root, last) = (levels[0].first, last.first);
        let tables = Self { format, root, last, words, leaves: first..first + pages };
        tables.fill(&levels, range, addr);
        tables
    }

    fn fill(&self, levels: &[Level], range: &AddrRange, addr: impl Fn(u64) -> PhysAddr) {
        for (depth, level) in levels.iter().enumerate() {
            let nothing = self.format.encode(&level.first, Entry::Absent);
            let nothing = self.in_memory(nothing.expect("every format has absent entries"));
            let from = word(level.first.base, 0);
            let to = index((level.end() - TABLES.raw()) / WORD);
            self.words.words()[from..to]
                .iter()
                .for_each(|one| one.store(nothing, Ordering::Relaxed));

            let shift = level.first.shift;
            let first = range.start().align_down(shift).raw();
            for (at, va) in (first..=range.last().raw()).step_by(index(shift.bytes())).enumerate() {
                let va = VirtAddr::new(va);
                let table = level.table(va);
                let rights = Rights::READ | Rights::WRITE | Rights::USER;
                let entry = match levels.get(depth + 1) {
                    Some(below) => Entry::Table(below.table(va.max(range.start())), Rights::all()),
                    None => {
                        let marks = LeafFlags::ACCESSED | LeafFlags::DIRTY;
                        let flags = marks & self.format.flags();
                        let leaf = Leaf::new(addr(at as u64), shift, rights);
                        Entry::Leaf(Leaf { flags, ..leaf })
                    }
                };
                let raw = self.format.encode(&table, entry).expect("an entry of the format");
                let place = word(table.base, table.index(va));
                self.words.words()[place].store(self.in_memory(raw), Ordering::Relaxed);
            }
        }
    }

    fn in_memory(&self, raw: u64) -> u64 {
        if self.format.big_endian() { raw.to_be() } else { raw.to_le() }
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> F {
        self.format
    }

    /// The top table.
    #[must_use]
    pub fn root(&self) -> Table {
        self.root
    }

    /// The first table whose entries map memory.
    #[must_use]
    pub fn last(&self) -> Table {
        self.last
    }
}

impl<F> PageTables<F> {
    /// The memory that they lie in.
    #[must_use]
    pub fn memory(&self) -> FlatTables<'_> {
        FlatTables { words: self.words.words() }
    }

    /// The entries that map memory, in order of address.
    #[must_use]
    pub fn leaves(&self) -> &[Word] {
        &self.words.words()[self.leaves.clone()]
    }
}

/// Number of the word of an entry.
fn word(table: PhysAddr, entry: u16) -> usize {
    index((table.raw() - TABLES.raw()) / WORD) + usize::from(entry)
}

/// Page tables from [`TABLES`] on.
#[derive(Clone, Copy, Debug)]
pub struct FlatTables<'m> {
    words: &'m [Word],
}

impl PhysMem for FlatTables<'_> {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = index(base.raw().checked_sub(TABLES.raw())? / WORD);
        Some(TableView::from_words(self.words.get(first..first.checked_add(entries)?)?))
    }
}
