//! A range in one pass.

use pinfold_arch::addr::index;
use pinfold_arch::format::MAX_LEVELS;
use pinfold_arch::{
    AddrRange, Entry, Leaf, PageCount, PageFormat, PageShift, Pfn, PhysAddr, Rights, Table,
    VirtAddr,
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
    run: Run,
    source: Source<'m>,
}

impl LeafRun<'_> {
    /// Whether the entries behind `pages` pages from page `from` of the run, and the entry above
    /// them, still say what they said. Compares only; marks that hardware sets by itself do not
    /// count.
    ///
    /// Loads are sequentially consistent: whoever takes a count with a sequentially consistent
    /// operation and then asks this, against whoever clears an entry likewise and then looks at
    /// the count, cannot both miss the other.
    #[must_use]
    pub fn unchanged(&self, from: PageCount, pages: PageCount, base: PageShift) -> bool {
        pages == PageCount::ZERO
            || self.source.parent_unchanged() && self.source.unchanged(&self.run, from, pages, base)
    }
}

/// A [`LeafRun`] without what it shares with the others from its table: neighbouring entries in
/// which the address grows by one page from each to the next and all else is the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) pfn: Pfn,
    pub(crate) pages: PageCount,
    /// The first entry, in host byte order.
    raw: u64,
    /// Base pages of the first leaf before the run begins.
    skipped: PageCount,
    /// Index of the first entry.
    first: u16,
    pub(crate) rights: Rights,
    shift: PageShift,
}

/// Where the entries of runs stand: a table, and the entry above that led to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'m> {
    view: TableView<'m>,
    parent: Option<(TableView<'m>, u16, u64)>,
    big_endian: bool,
    volatile: u64,
}

impl Source<'_> {
    /// Whether the entry above the table still says what it said.
    #[inline]
    pub(crate) fn parent_unchanged(&self) -> bool {
        self.parent.is_none_or(|(view, at, raw)| self.same(&view, usize::from(at), raw))
    }

    /// Whether entries of a run from this table still say what they said; see
    /// [`LeafRun::unchanged`].
    #[inline]
    pub(crate) fn unchanged(
        &self,
        run: &Run,
        from: PageCount,
        pages: PageCount,
        base: PageShift,
    ) -> bool {
        let order = run.shift.order(base).raw();
        let first = (run.skipped.raw() + from.raw()) >> order;
        let last = (run.skipped.raw() + from.raw() + pages.raw() - 1) >> order;
        let mut expected = run.raw.wrapping_add(first << run.shift.raw());
        (index(first)..index(last) + 1).all(|i| {
            let same = self.same(&self.view, usize::from(run.first) + i, expected);
            expected = expected.wrapping_add(run.shift.bytes());
            same
        })
    }

    #[inline]
    fn same(&self, view: &TableView<'_>, at: usize, expected: u64) -> bool {
        view.load_again(at)
            .is_some_and(|raw| (host_order(raw, self.big_endian) ^ expected) & !self.volatile == 0)
    }
}

/// What comes next in a walk.
pub(crate) enum Next<'m> {
    /// Runs from one table.
    Runs(Source<'m>),
    /// Nothing is present for so many pages.
    Hole(PageCount),
    /// The range has been walked.
    End,
}

/// An entry that was decoded, and what may differ in others that need not be.
struct Decoded {
    raw: u64,
    leaf: Leaf,
    /// See [`PageFormat::address_bits`].
    address_bits: u64,
}

impl Decoded {
    /// Whether an entry differs from it in address bits only.
    #[inline]
    fn describes(&self, raw: u64, volatile: u64) -> bool {
        (raw ^ self.raw) & !(self.address_bits | volatile) == 0
    }

    /// The address in an entry that differs in address bits only.
    #[inline]
    fn addr(&self, raw: u64) -> PhysAddr {
        PhysAddr::new(self.leaf.addr.raw() ^ (raw ^ self.raw) & self.address_bits)
    }
}

/// Whether `next` maps what comes behind a leaf at `addr`, in the same way.
#[inline]
fn follows(addr: PhysAddr, leaf: &Leaf, next: &Leaf) -> bool {
    addr.checked_add(leaf.shift.bytes()) == Some(next.addr)
        && (next.shift, next.rights, next.memory) == (leaf.shift, leaf.rights, leaf.memory)
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

/// How far a walk reads on before it tells what it found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Runs that come at once.
    pub(crate) runs: usize,
    /// Absent entries that make one hole.
    pub(crate) absent: u16,
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
        let look = Look { runs: 1, absent: u16::MAX };
        let next = self.next_runs(&mut runs, look, |_| ())?;
        Ok(match (next, runs.first()) {
            (Next::Runs(source), Some(&run)) => {
                let Run { pfn, pages, rights, shift, .. } = run;
                Some(Extent::Leaf(LeafRun { va, pfn, pages, rights, shift, run, source }))
            }
            (Next::Hole(pages), _) => Some(Extent::Hole { va, pages }),
            _ => None,
        })
    }

    /// The next runs, as many as come from one table without a hole, are asked for, and fit `runs`,
    /// which is empty. `found` hears of the first frame of each as soon as it is known.
    ///
    /// # Errors
    /// [`WalkError`]. The walk cannot go on after one.
    #[inline]
    pub(crate) fn next_runs<const N: usize>(
        &mut self,
        runs: &mut heapless::Vec<Run, N>,
        look: Look,
        found: impl FnMut(Pfn),
    ) -> Result<Next<'m>, WalkError> {
        loop {
            if self.left == 0 {
                return Ok(Next::End);
            }
            let Some(level) = self.levels.last().copied() else { return Ok(Next::End) };
            let at = level.table.index(VirtAddr::new(self.va));
            let (raw, entry) = self.entry(&level, at);
            match entry {
                Entry::Absent => return Ok(Next::Hole(self.hole(&level, at, look.absent))),
                Entry::Leaf(leaf) => {
                    self.leaves(&level, (at, raw, leaf), runs, N.min(look.runs), found);
                    let big_endian = self.format.big_endian();
                    let volatile = self.format.volatile_bits();
                    let Level { view, parent, .. } = level;
                    return Ok(Next::Runs(Source { view, parent, big_endian, volatile }));
                }
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
        (bytes >> self.format.base().raw()).clamp(1, self.left)
    }

    fn hole(&mut self, level: &Level<'m>, at: u16, most: u16) -> PageCount {
        let mut pages = self.to_entry_end(level.table.shift);
        let per_entry = level.table.shift.pages(self.format.base()).raw();
        let mut next = at;
        let last = at.saturating_add(most - 1).min(level.table.last);
        while pages < self.left && next < last {
            next += 1;
            let (raw, entry) = self.entry(level, next);
            if entry != Entry::Absent {
                self.ahead = Some((next, raw, entry));
                break;
            }
            pages += per_entry.min(self.left - pages);
        }
        self.advance(pages);
        PageCount::new(pages)
    }

    /// Runs from the leaf `first` on, up to what is no leaf or does not fit.
    // Once for many entries: its loops need the registers more than they need to be inline.
    #[inline(never)]
    fn leaves<const N: usize>(
        &mut self,
        level: &Level<'m>,
        first: (u16, u64, Leaf),
        runs: &mut heapless::Vec<Run, N>,
        most: usize,
        mut found: impl FnMut(Pfn),
    ) {
        let (start, raw, leaf) = first;
        let (shift, order) = (leaf.shift, leaf.shift.order(self.format.base()).raw());
        let (big_endian, volatile) = (self.format.big_endian(), self.format.volatile_bits());
        let mut run = self.run(level, first);
        found(run.pfn);
        // The last entry that is wanted, and pages from where the walk is now to an entry's end.
        let skipped = run.skipped.raw();
        let wanted = u16::try_from((skipped + self.left - 1) >> order).unwrap_or(u16::MAX);
        let last = start.saturating_add(wanted).min(level.table.last);
        let pages_to = |entry: u16| ((u64::from(entry - start) + 1) << order) - skipped;

        let mut known = Decoded { raw, leaf, address_bits: self.format.address_bits(&level.table) };
        // The last entry that was taken, what it says, and the pages before the current run.
        let (mut at, mut latest, mut before) = (start, raw, 0);
        while at < last {
            let next = at + 1;
            let Some(raw) = level.view.load(usize::from(next)) else { break };
            let raw = host_order(raw, big_endian);
            let expected = latest.wrapping_add(shift.bytes());
            let mut continues = (raw ^ expected) & !volatile == 0;
            if !known.describes(raw, volatile) {
                let entry = self.format.decode(&level.table, raw);
                let Entry::Leaf(leaf) = entry else {
                    self.ahead = Some((next, raw, entry));
                    break;
                };
                continues &= follows(known.addr(latest), &known.leaf, &leaf);
                (known.raw, known.leaf) = (raw, leaf);
            }
            if !continues {
                if runs.len() + 1 >= most || known.leaf.shift != shift {
                    let leaf = Leaf { addr: known.addr(raw), ..known.leaf };
                    self.ahead = Some((next, raw, Entry::Leaf(leaf)));
                    break;
                }
                run.pages = PageCount::new(pages_to(at) - before);
                let _ = runs.push(run);
                before = pages_to(at);
                run = Run {
                    pfn: known.addr(raw).pfn(self.format.base()),
                    pages: PageCount::ZERO,
                    raw,
                    skipped: PageCount::ZERO,
                    first: next,
                    rights: level.rights & known.leaf.rights,
                    shift,
                };
                found(run.pfn);
                (at, latest) = (next, raw);
                continue;
            }
            (at, latest) = (next, expected);
            // Mostly there are more: they get a loop with nothing else in it.
            while at < last {
                let expected = latest.wrapping_add(shift.bytes());
                let raw = level.view.load(usize::from(at) + 1).unwrap_or_default();
                let raw = host_order(raw, big_endian);
                if (raw ^ expected) & !volatile != 0 || !known.describes(raw, volatile) {
                    break;
                }
                (at, latest) = (at + 1, expected);
            }
        }
        self.entries += u64::from(at - start) + u64::from(self.ahead.is_some());
        let pages = pages_to(at).min(self.left);
        run.pages = PageCount::new(pages - before);
        let _ = runs.push(run);
        self.advance(pages);
    }

    /// The run of one leaf, from the current address on.
    #[inline]
    fn run(&self, level: &Level<'m>, (first, raw, leaf): (u16, u64, Leaf)) -> Run {
        let skipped = PageCount::new((self.va & leaf.shift.mask()) >> self.format.base().raw());
        let pfn =
            leaf.addr.pfn(self.format.base()).checked_add(skipped).unwrap_or(Pfn::new(u64::MAX));
        let pages = PageCount::new(self.to_entry_end(leaf.shift));
        let rights = level.rights & leaf.rights;
        Run { pfn, pages, raw, skipped, first, rights, shift: leaf.shift }
    }

    /// Goes `pages` on and leaves the tables that do not reach so far.
    fn advance(&mut self, pages: u64) {
        let old = self.va;
        // Wraps only at the very end of the address space, where nothing is left.
        self.va = old.wrapping_add(pages << self.format.base().raw());
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
