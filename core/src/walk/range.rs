//! A range in one pass.

use pinfold_arch::addr::index;
use pinfold_arch::format::MAX_LEVELS;
use pinfold_arch::{
    AddrRange, Entry, Leaf, PageCount, PageFormat, PageShift, Pfn, Rights, Table, VirtAddr,
};

use super::WalkError;
use crate::host::{PhysMem, TableView};

/// A stretch of the range, at most as long as one table reaches.
#[derive(Clone, Copy, Debug)]
pub enum Extent<'m> {
    /// Nothing is present.
    Hole {
        /// First address.
        va: VirtAddr,
        /// Length.
        pages: PageCount,
    },
    /// Consecutive frames with the same rights.
    Leaf(LeafRun<'m>),
}

/// Consecutive frames behind consecutive addresses, from neighbouring entries of one table.
#[derive(Clone, Copy, Debug)]
pub struct LeafRun<'m> {
    /// First address.
    pub va: VirtAddr,
    /// First frame.
    pub pfn: Pfn,
    /// Length.
    pub pages: PageCount,
    /// What all entries on the way allow together.
    pub rights: Rights,
    /// Size of the pages that map it.
    pub shift: PageShift,
    /// Where the entries stand, and what was in them.
    entries: Entries<'m>,
}

/// Neighbouring entries in which the address grows by one page from each to the next and all else
/// is the same, and the entry above that led to their table.
#[derive(Clone, Copy, Debug)]
struct Entries<'m> {
    view: TableView<'m>,
    first: u16,
    /// The first entry, in host byte order.
    raw: u64,
    /// Base pages of the first leaf before the run begins.
    skipped: PageCount,
    big_endian: bool,
    volatile: u64,
    parent: Option<(TableView<'m>, u16, u64)>,
}

impl LeafRun<'_> {
    /// Whether the entries behind `pages` pages from page `from` of the run, and the entry above
    /// them, still say what they said. Compares only; marks that hardware sets by itself do not
    /// count.
    ///
    /// Loads are sequentially consistent: whoever takes a count with a sequentially consistent
    /// operation and then asks this, against whoever clears an entry likewise and then looks at
    /// the count, cannot both miss the other.
    #[inline]
    #[must_use]
    pub fn unchanged(&self, from: PageCount, pages: PageCount, base: PageShift) -> bool {
        let entries = &self.entries;
        let order = self.shift.order(base).raw();
        let first = (entries.skipped.raw() + from.raw()) >> order;
        let last = (entries.skipped.raw() + from.raw() + pages.raw() - 1) >> order;
        let same = |view: TableView<'_>, at: usize, expected: u64, volatile: u64| {
            view.load_again(at).is_some_and(|raw| {
                (host_order(raw, entries.big_endian) ^ expected) & !volatile == 0
            })
        };
        let parent = entries
            .parent
            .is_none_or(|(view, at, raw)| same(view, usize::from(at), raw, entries.volatile));
        parent
            && (first..=last).all(|i| {
                let expected = entries.raw.wrapping_add(i << self.shift.raw());
                same(
                    entries.view,
                    usize::from(entries.first) + index(i),
                    expected,
                    entries.volatile,
                )
            })
    }
}

#[inline]
fn host_order(raw: u64, big_endian: bool) -> u64 {
    if big_endian { u64::from_be(raw) } else { u64::from_le(raw) }
}

/// One table on the way down.
#[derive(Clone, Copy, Debug)]
struct Level<'m> {
    table: Table,
    view: TableView<'m>,
    /// What the entries above it allow together.
    rights: Rights,
    parent: Option<(TableView<'m>, u16, u64)>,
}

/// Walks a range: see the [module above](super).
#[derive(Debug)]
pub struct RangeWalk<'m, F, M> {
    format: F,
    memory: &'m M,
    base: PageShift,
    big_endian: bool,
    volatile: u64,
    levels: heapless::Vec<Level<'m>, MAX_LEVELS>,
    va: u64,
    left: u64,
    /// An entry that was decoded and belongs to the next extent: its index, value and meaning.
    ahead: Option<(u16, u64, Entry)>,
    tables: u64,
    entries: u64,
}

impl<'m, F: PageFormat, M: PhysMem> RangeWalk<'m, F, M> {
    /// A walk of `range` from the table `root` down.
    ///
    /// # Errors
    /// [`WalkError::NotTranslatable`] if the format cannot translate the range,
    /// [`WalkError::OutsideMemory`] for the root.
    pub fn new(format: F, root: Table, memory: &'m M, range: AddrRange) -> Result<Self, WalkError> {
        let at = range.start();
        if !format.valid(&range) || range.base() != format.base() {
            return Err(WalkError::NotTranslatable { at });
        }
        let mut walk = Self {
            format,
            memory,
            base: format.base(),
            big_endian: format.big_endian(),
            volatile: format.volatile_bits(),
            levels: heapless::Vec::new(),
            va: at.raw(),
            left: range.pages().raw(),
            ahead: None,
            tables: 0,
            entries: 0,
        };
        walk.descend(root, Rights::all(), None)?;
        Ok(walk)
    }

    /// Tables visited so far.
    #[must_use]
    pub fn tables(&self) -> u64 {
        self.tables
    }

    /// Entries decoded so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    fn descend(
        &mut self,
        table: Table,
        rights: Rights,
        parent: Option<(TableView<'m>, u16, u64)>,
    ) -> Result<(), WalkError> {
        let outside = WalkError::OutsideMemory { at: VirtAddr::new(self.va), table: table.base };
        let view = self.memory.table(table.base, table.entries()).ok_or(outside)?;
        self.tables += 1;
        self.levels.push(Level { table, view, rights, parent }).map_err(|_| outside)
    }

    /// The entry at `index` of the lowest table, decoded; once, because what was decoded ahead is
    /// taken from there.
    #[inline]
    fn entry(&mut self, level: &Level<'m>, at: u16) -> (u64, Entry) {
        if let Some((ahead, raw, entry)) = self.ahead.take()
            && ahead == at
        {
            return (raw, entry);
        }
        // An entry that does not exist translates nothing: s390 tables may end early.
        if !level.table.has(at) {
            return (0, Entry::Absent);
        }
        let Some(raw) = level.view.load(usize::from(at)) else { return (0, Entry::Absent) };
        let raw = host_order(raw, self.big_endian);
        self.entries += 1;
        (raw, self.format.decode(&level.table, raw))
    }

    /// The next stretch, or `None` at the end of the range.
    ///
    /// # Errors
    /// [`WalkError`]. The walk cannot go on after one.
    #[inline]
    pub fn next_extent(&mut self) -> Result<Option<Extent<'m>>, WalkError> {
        loop {
            if self.left == 0 {
                return Ok(None);
            }
            let Some(level) = self.levels.last().copied() else { return Ok(None) };
            let at = level.table.index(VirtAddr::new(self.va));
            let (raw, entry) = self.entry(&level, at);
            match entry {
                Entry::Absent => return Ok(Some(self.hole(&level, at))),
                Entry::Leaf(leaf) => return Ok(Some(self.leaf(&level, at, raw, leaf))),
                Entry::Table(next, rights) if next.shift < level.table.shift => {
                    self.descend(next, level.rights & rights, Some((level.view, at, raw)))?;
                }
                Entry::Table(..) | Entry::Malformed => {
                    return Err(WalkError::Malformed {
                        at: VirtAddr::new(self.va),
                        raw,
                        level: level.table.shift,
                    });
                }
            }
        }
    }

    /// Base pages from the current address to the end of the entry, at most what is left.
    #[inline]
    fn to_entry_end(&self, shift: PageShift) -> u64 {
        let bytes = shift.bytes() - (self.va & shift.mask());
        (bytes >> self.base.raw()).clamp(1, self.left)
    }

    fn hole(&mut self, level: &Level<'m>, at: u16) -> Extent<'m> {
        let va = VirtAddr::new(self.va);
        let mut pages = self.to_entry_end(level.table.shift);
        let per_entry = level.table.shift.pages(self.base).raw();
        let mut next = at;
        while pages < self.left && next < level.table.last {
            next += 1;
            let (raw, entry) = self.entry(level, next);
            if entry != Entry::Absent {
                self.ahead = Some((next, raw, entry));
                break;
            }
            pages += per_entry.min(self.left - pages);
        }
        self.advance(pages);
        Extent::Hole { va, pages: PageCount::new(pages) }
    }

    #[inline]
    fn leaf(&mut self, level: &Level<'m>, at: u16, raw: u64, leaf: Leaf) -> Extent<'m> {
        let skipped = (self.va & leaf.shift.mask()) >> self.base.raw();
        let pfn = leaf.addr.pfn(self.base).checked_add(PageCount::new(skipped));
        let mut pages = self.to_entry_end(leaf.shift);
        let per_entry = leaf.shift.pages(self.base).raw();
        let (mut next, mut expected) = (at, leaf);
        let mut expected_raw = raw;
        while pages < self.left && next < level.table.last {
            next += 1;
            let (raw, entry) = self.entry(level, next);
            expected_raw = expected_raw.wrapping_add(leaf.shift.bytes());
            let continues = match (entry, expected.addr.checked_add(leaf.shift.bytes())) {
                (Entry::Leaf(this), Some(addr)) => {
                    expected.addr = addr;
                    this.addr == addr
                        && this.shift == leaf.shift
                        && this.rights == leaf.rights
                        && this.memory == leaf.memory
                        && (raw ^ expected_raw) & !self.volatile == 0
                }
                _ => false,
            };
            if !continues {
                self.ahead = Some((next, raw, entry));
                break;
            }
            pages += per_entry.min(self.left - pages);
        }
        let run = LeafRun {
            va: VirtAddr::new(self.va),
            pfn: pfn.unwrap_or(Pfn::new(u64::MAX)),
            pages: PageCount::new(pages),
            rights: level.rights & leaf.rights,
            shift: leaf.shift,
            entries: Entries {
                view: level.view,
                first: at,
                raw,
                skipped: PageCount::new(skipped),
                big_endian: self.big_endian,
                volatile: self.volatile,
                parent: level.parent,
            },
        };
        self.advance(pages);
        Extent::Leaf(run)
    }

    /// Goes `pages` on and leaves the tables that do not reach so far.
    fn advance(&mut self, pages: u64) {
        let old = self.va;
        // Wraps only at the very end of the address space, where nothing is left.
        self.va = old.wrapping_add(pages << self.base.raw());
        self.left -= pages;
        while self.levels.len() > 1
            && self.levels.last().is_some_and(|level| {
                let reach = u32::from(level.table.shift.raw()) + u32::from(level.table.bits);
                (old ^ self.va).checked_shr(reach).unwrap_or(0) != 0
            })
        {
            self.levels.pop();
            self.ahead = None;
        }
    }
}
