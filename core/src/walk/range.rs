//! A range in one pass: down to a table, along it, and on to the next.
//!
//! `run` is what comes out of it, and `leaves` how the leaves of one table become runs.

use pinfold_arch::format::MAX_LEVELS;
use pinfold_arch::{AddrRange, Entry, PageCount, PageFormat, PageShift, Rights, Table, VirtAddr};

use super::WalkError;
use crate::host::{PhysMem, Step, TableView};

mod leaves;
mod run;

use run::host_order;
pub use run::{Extent, LeafRun};
pub(crate) use run::{Run, Source};

/// Runs that are read before the first of them is shown.
const TOGETHER: usize = 32;

/// What comes next in a walk.
pub(crate) enum Next<'m> {
    /// Runs from one table.
    Runs(Source<'m>),
    /// Nothing is present for so many pages.
    Hole(PageCount),
    /// The range has been walked, or as many entries as were allowed.
    End,
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

/// How far a walk reads on before it tells what it found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Runs that come at once.
    pub(crate) runs: usize,
    /// Absent entries that make one hole.
    pub(crate) absent: u16,
    /// An entry without these rights comes alone: it will be faulted in, and then those behind it
    /// are read again.
    pub(crate) rights: Rights,
}

/// Walks a range: see the [module above](super).
#[derive(Debug)]
pub struct RangeWalk<'m, F, M> {
    format: F,
    memory: &'m M,
    levels: heapless::Vec<Level<'m>, MAX_LEVELS>,
    va: u64,
    left: u64,
    /// An entry that was decoded and belongs to the next extent: its index, value and meaning.
    ahead: Option<(u16, u64, Entry)>,
    tables: u64,
    entries: u64,
    /// Entries that may still be taken, those that lead to tables apart.
    most: u64,
    /// An entry whose index has all these bits is the last that is taken with those before it.
    cut: u16,
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
            levels: heapless::Vec::new(),
            va: at.raw(),
            left: range.pages().raw(),
            ahead: None,
            tables: 0,
            entries: 0,
            most: u64::MAX,
            cut: u16::MAX,
        };
        walk.descend(root, Rights::all(), None)?;
        Ok(walk)
    }

    /// The walk, ended before it takes more entries than a step has. Runs are cut at its blocks, so
    /// that they do not depend on where the walk began.
    pub(crate) fn bounded(mut self, step: Step) -> Self {
        (self.most, self.cut) = (step.entries(), step.block() - 1);
        self
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

    /// The entry at `at` of the lowest table, decoded; once, because what was decoded ahead is
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
        let raw = host_order(raw, self.format.big_endian());
        self.entries += 1;
        (raw, self.format.decode(&level.table, raw))
    }

    /// The next stretch, or `None` at the end of the range.
    ///
    /// # Errors
    /// [`WalkError`]. The walk cannot go on after one.
    pub fn next_extent(&mut self) -> Result<Option<Extent<'m>>, WalkError> {
        let va = VirtAddr::new(self.va);
        let mut runs = heapless::Vec::<Run, 1>::new();
        let look = Look { runs: 1, absent: u16::MAX, rights: Rights::empty() };
        let next = self.next_runs(&mut runs, look)?;
        Ok(match (next, runs.first()) {
            (Next::Runs(source), Some(&run)) => Some(Extent::Leaf(LeafRun::new(va, run, source))),
            (Next::Hole(pages), _) => Some(Extent::Hole { va, pages }),
            _ => None,
        })
    }

    /// Shows `visit` all that is left of the range, stretch by stretch: what
    /// [`next_extent`](Self::next_extent) gives, in a fraction of the time where frames lie in no order,
    /// because entries of one table are read together.
    ///
    /// # Errors
    /// [`WalkError`]; what came before it was shown.
    pub fn for_each(mut self, mut visit: impl FnMut(Extent<'m>)) -> Result<(), WalkError> {
        let mut runs = heapless::Vec::<Run, TOGETHER>::new();
        let look = Look { runs: TOGETHER, absent: u16::MAX, rights: Rights::empty() };
        loop {
            let mut va = self.va;
            match self.next_runs(&mut runs, look)? {
                Next::End => return Ok(()),
                Next::Hole(pages) => visit(Extent::Hole { va: VirtAddr::new(va), pages }),
                Next::Runs(source) => {
                    for &run in &runs {
                        let start = VirtAddr::new(va);
                        visit(Extent::Leaf(LeafRun::new(start, run, source)));
                        va = va.wrapping_add(run.pages.raw() << self.format.base().raw());
                    }
                }
            }
        }
    }

    /// The next runs, as many as come from one table without a hole and with the same rights, are
    /// asked for, and fit `runs`, which is emptied.
    ///
    /// # Errors
    /// [`WalkError`]. The walk cannot go on after one.
    #[inline]
    pub(crate) fn next_runs<const N: usize>(
        &mut self,
        runs: &mut heapless::Vec<Run, N>,
        look: Look,
    ) -> Result<Next<'m>, WalkError> {
        runs.clear();
        loop {
            if self.left == 0 {
                return Ok(Next::End);
            }
            let Some(level) = self.levels.last().copied() else { return Ok(Next::End) };
            let at = level.table.index(VirtAddr::new(self.va));
            let Some(last) = self.last_allowed(&level, at) else { return Ok(Next::End) };
            let (raw, entry) = self.entry(&level, at);
            match entry {
                Entry::Absent => {
                    let last = at.saturating_add(look.absent - 1).min(last);
                    return Ok(Next::Hole(self.hole(&level, at, last)));
                }
                Entry::Leaf(leaf) => {
                    let last = if leaf.rights.contains(look.rights) { last } else { at };
                    self.leaves(&level, (at, raw, leaf), last, runs, N.min(look.runs));
                    return Ok(Next::Runs(Source {
                        view: level.view,
                        parent: level.parent,
                        big_endian: self.format.big_endian(),
                        volatile: self.format.volatile_bits(),
                        shift: leaf.shift,
                        rights: level.rights & leaf.rights,
                    }));
                }
                Entry::Table(next, rights)
                    if next.shift < level.table.shift && !self.levels.is_full() =>
                {
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

    /// The last entry of a table that may be taken together with the one at `at`.
    #[inline]
    fn last_allowed(&self, level: &Level<'m>, at: u16) -> Option<u16> {
        // Outside the table nothing is there, up to where the index begins again.
        let table = level.table;
        let end = if table.has(at) { table.last } else { table.index(VirtAddr::new(u64::MAX)) };
        let last = end.min(at | self.cut).max(at);
        (u64::from(last - at) < self.most).then_some(last)
    }

    /// Base pages from the current address to the end of the entry, at most what is left.
    #[inline]
    fn to_entry_end(&self, shift: PageShift) -> u64 {
        let bytes = shift.bytes() - (self.va & shift.mask());
        (bytes >> self.format.base().raw()).clamp(1, self.left)
    }

    fn hole(&mut self, level: &Level<'m>, at: u16, last: u16) -> PageCount {
        let mut pages = self.to_entry_end(level.table.shift);
        let per_entry = level.table.shift.pages(self.format.base()).raw();
        let mut next = at;
        while pages < self.left && next < last {
            let (raw, entry) = self.entry(level, next + 1);
            if entry != Entry::Absent {
                self.ahead = Some((next + 1, raw, entry));
                break;
            }
            next += 1;
            pages += per_entry.min(self.left - pages);
        }
        self.advance(pages, next - at);
        PageCount::new(pages)
    }

    /// Goes `pages` on, by one entry and `others`, and leaves the tables that do not reach so far.
    fn advance(&mut self, pages: u64, others: u16) {
        let old = self.va;
        // Wraps only at the very end of the address space, where nothing is left.
        self.va = old.wrapping_add(pages << self.format.base().raw());
        self.left -= pages;
        self.most = self.most.saturating_sub(u64::from(others) + 1);
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
