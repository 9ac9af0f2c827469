//! A range in one pass.

use pinfold_arch::addr::index;
use pinfold_arch::format::MAX_LEVELS;
use pinfold_arch::{
    AddrRange, Entry, Leaf, PageCount, PageFormat, PageShift, Pfn, PhysAddr, Rights, Table,
    VirtAddr,
};

use super::WalkError;
use crate::host::{PhysMem, Step, TableView};
use crate::sync::Ordering;

/// Runs that are read before the first of them is shown.
const TOGETHER: usize = 32;

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
    /// them, still say what they said. Compares only; marks that hardware sets in leaves by itself
    /// do not count.
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
    /// Its index.
    first: u16,
    entries: u16,
}

/// Where the entries of runs stand, and what they have in common: a table, and the entry above
/// that led to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'m> {
    view: TableView<'m>,
    parent: Option<(TableView<'m>, u16, u64)>,
    big_endian: bool,
    volatile: u64,
    shift: PageShift,
    pub(crate) rights: Rights,
}

impl Source<'_> {
    /// Whether the entry above the table still says what it said.
    #[inline]
    pub(crate) fn parent_unchanged(&self) -> bool {
        // Bit for bit: what is a mark in a leaf may be an address bit here (POWER), and where hardware
        // does set a mark in such an entry, at its first use, that costs one more try.
        self.parent.is_none_or(|(view, at, raw)| self.same(&view, usize::from(at), raw, 0))
    }

    /// Whether the entries of a run from this table still say what they said; see
    /// [`LeafRun::unchanged`].
    #[inline]
    pub(crate) fn run_unchanged(&self, run: &Run) -> bool {
        // Mostly there is one entry or there are many.
        if run.entries == 1 {
            return self.same(&self.view, usize::from(run.first), run.raw, self.volatile);
        }
        self.entries_unchanged(run, 0, run.entries)
    }

    /// The same for the entries behind some of its pages, one at least.
    pub(crate) fn unchanged(
        &self,
        run: &Run,
        from: PageCount,
        pages: PageCount,
        base: PageShift,
    ) -> bool {
        let order = self.shift.order(base);
        // Leaves are aligned to their size, so this is how far into the first one the run begins.
        let skipped = (run.pfn.raw() & (order.pages().raw() - 1)).checked_add(from.raw());
        let entry = |page: Option<u64>| u16::try_from(page? >> order.raw()).ok();
        let first = entry(skipped);
        let last = entry(skipped.and_then(|page| page.checked_add(pages.raw() - 1)));
        match (first, last.and_then(|last| last.checked_add(1))) {
            (Some(first), Some(end)) => self.entries_unchanged(run, first, end),
            _ => false,
        }
    }

    #[inline(never)]
    fn entries_unchanged(&self, run: &Run, first: u16, end: u16) -> bool {
        let chain = Chain {
            view: self.view,
            big_endian: self.big_endian,
            volatile: self.volatile,
            bytes: self.shift.bytes(),
        };
        let expected = run.raw.wrapping_add(u64::from(first) << self.shift.raw());
        let at = usize::from(run.first) + usize::from(first);
        let entries = usize::from(end - first);
        chain.length(at, entries, expected, Ordering::SeqCst) == entries
    }

    #[inline]
    fn same(&self, view: &TableView<'_>, at: usize, expected: u64, volatile: u64) -> bool {
        view.load_again(at)
            .is_some_and(|raw| (host_order(raw, self.big_endian) ^ expected) & !volatile == 0)
    }
}

/// Entries in a cache line of 64 bytes.
const LINE: usize = 8;

/// Entries of a table in which the address grows by one page from each to the next.
#[derive(Clone, Copy)]
struct Chain<'m> {
    view: TableView<'m>,
    big_endian: bool,
    /// Bits that need not be the same.
    volatile: u64,
    bytes: u64,
}

impl Chain<'_> {
    /// How many entries from `at` on, at most `most`, say `expected` and what follows it.
    #[inline(always)]
    fn length(&self, at: usize, most: usize, mut expected: u64, order: Ordering) -> usize {
        let words = self.view.words_from(at, most);
        let mut done = 0;
        // Line by line as long as all is well, then one by one.
        for line in words.as_chunks::<LINE>().0 {
            let (mut differs, mut next) = (0, expected);
            for word in line {
                differs |= host_order(word.load(order), self.big_endian) ^ next;
                next = next.wrapping_add(self.bytes);
            }
            if differs & !self.volatile != 0 {
                break;
            }
            (done, expected) = (done + LINE, next);
        }
        for word in words.iter().skip(done) {
            let differs = host_order(word.load(order), self.big_endian) ^ expected;
            if differs & !self.volatile != 0 {
                break;
            }
            (done, expected) = (done + 1, expected.wrapping_add(self.bytes));
        }
        done
    }
}

/// What comes next in a walk.
pub(crate) enum Next<'m> {
    /// Runs from one table.
    Runs(Source<'m>),
    /// Nothing is present for so many pages.
    Hole(PageCount),
    /// The range has been walked, or as many entries as were allowed.
    End,
}

/// A leaf that was decoded, and what it says of entries that need not be.
struct Decoded {
    leaf: Leaf,
    /// Bits in which an entry must not differ: all but its address and what hardware sets.
    fixed: u64,
    /// What it has there.
    value: u64,
    /// See [`PageFormat::address_bits`].
    address_bits: u64,
    /// What those bits of an entry do not say of its address.
    addr: u64,
}

impl Decoded {
    fn new(leaf: Leaf, raw: u64, address_bits: u64, volatile: u64) -> Self {
        let fixed = !(address_bits | volatile);
        let addr = leaf.addr.raw() ^ raw & address_bits;
        Self { leaf, fixed, value: raw & fixed, address_bits, addr }
    }

    /// Whether an entry differs from it in address bits only.
    #[inline]
    fn describes(&self, raw: u64) -> bool {
        raw & self.fixed == self.value
    }

    /// How many pages behind an entry it describes too, for sure, if all that grows is the address.
    #[inline]
    fn more(&self, raw: u64) -> u64 {
        let shift = self.leaf.shift.raw();
        let low = (self.address_bits >> shift).trailing_ones().min(32);
        let mask = (1 << low) - 1;
        mask - (raw >> shift & mask)
    }

    /// The address in an entry that differs in address bits only.
    #[inline]
    fn addr(&self, raw: u64) -> PhysAddr {
        PhysAddr::new(self.addr ^ raw & self.address_bits)
    }
}

/// Whether `next` maps what comes behind a leaf at `addr`, in the same way.
#[inline]
fn follows(addr: PhysAddr, leaf: &Leaf, next: &Leaf) -> bool {
    addr.checked_add(leaf.shift.bytes()) == Some(next.addr)
        && (next.shift, next.rights, next.memory) == (leaf.shift, leaf.rights, leaf.memory)
}

#[inline]
fn leaf_of(entry: &Entry) -> Option<Leaf> {
    if let Entry::Leaf(leaf) = entry { Some(*leaf) } else { None }
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
            (Next::Runs(source), Some(&run)) => {
                let (Run { pfn, pages, .. }, Source { rights, shift, .. }) = (run, source);
                Some(Extent::Leaf(LeafRun { va, pfn, pages, rights, shift, run, source }))
            }
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
                    let Source { rights, shift, .. } = source;
                    for &run in &runs {
                        let Run { pfn, pages, .. } = run;
                        let start = VirtAddr::new(va);
                        visit(Extent::Leaf(LeafRun {
                            va: start,
                            pfn,
                            pages,
                            rights,
                            shift,
                            run,
                            source,
                        }));
                        va = va.wrapping_add(pages.raw() << self.format.base().raw());
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

    /// Runs from the leaf `first` on, up to the entry `last`, to what is no leaf of its size and
    /// rights, or to what does not fit.
    // Once for many entries: its loop needs the registers more than it needs to be inline.
    #[inline(never)]
    fn leaves<const N: usize>(
        &mut self,
        level: &Level<'m>,
        first: (u16, u64, Leaf),
        last: u16,
        runs: &mut heapless::Vec<Run, N>,
        most: usize,
    ) {
        let (start, raw, leaf) = first;
        let base = self.format.base();
        let (bytes, pages, order) =
            (leaf.shift.bytes(), leaf.shift.pages(base).raw(), leaf.shift.order(base).raw());
        let (big_endian, volatile) = (self.format.big_endian(), self.format.volatile_bits());
        // Pages of the first leaf before the walk comes to it, and the last entry that is wanted.
        let skipped = (self.va & leaf.shift.mask()) >> base.raw();
        let wanted = u16::try_from((skipped + self.left - 1) >> order).unwrap_or(u16::MAX);
        let last = start.saturating_add(wanted).min(last);

        let address_bits = self.format.address_bits(&level.table);
        let mut known = Decoded::new(leaf, raw, address_bits, volatile);
        let pfn = leaf.addr.pfn(base).checked_add(PageCount::new(skipped));
        let pfn = pfn.unwrap_or(Pfn::new(u64::MAX));
        let pages = PageCount::new(pages);
        let _ = runs.push(Run { pfn, pages, raw, first: start, entries: 1 });
        let chain = Chain { view: level.view, big_endian, volatile, bytes };
        let entry =
            |at: u16| level.view.load(usize::from(at)).map(|raw| host_order(raw, big_endian));
        // The last entry that was taken, and what it says.
        let (mut at, mut latest) = (start, raw);
        while at < last {
            let Some(raw) = entry(at + 1) else { break };
            let mut continues = (raw ^ latest.wrapping_add(bytes)) & !volatile == 0;
            if !known.describes(raw) {
                let found = self.format.decode(&level.table, raw);
                let alike = |leaf: &Leaf| {
                    (leaf.shift, leaf.rights) == (known.leaf.shift, known.leaf.rights)
                };
                let Some(leaf) = leaf_of(&found).filter(alike) else {
                    self.ahead = Some((at + 1, raw, found));
                    break;
                };
                continues &= follows(known.addr(latest), &known.leaf, &leaf);
                known = Decoded::new(leaf, raw, address_bits, volatile);
            }
            if !continues {
                let pfn = known.addr(raw).pfn(base);
                let run = Run { pfn, pages, raw, first: at + 1, entries: 1 };
                if runs.len() >= most || runs.push(run).is_err() {
                    let leaf = Leaf { addr: known.addr(raw), ..known.leaf };
                    self.ahead = Some((at + 1, raw, Entry::Leaf(leaf)));
                    break;
                }
                (at, latest) = (at + 1, raw);
                continue;
            }
            // Mostly there are more.
            latest = latest.wrapping_add(bytes);
            let most = known.more(latest).min(u64::from(last - at - 1));
            let expected = latest.wrapping_add(bytes);
            let more = chain.length(usize::from(at) + 2, index(most), expected, Ordering::Acquire);
            let more = u16::try_from(more).unwrap_or(u16::MAX);
            latest = latest.wrapping_add(u64::from(more) << leaf.shift.raw());
            at += 1 + more;
            if let Some(run) = runs.last_mut() {
                run.entries += 1 + more;
                run.pages = PageCount::new(u64::from(run.entries) << order);
            }
        }
        self.entries += u64::from(at - start) + u64::from(self.ahead.is_some());
        // The first leaf may begin before the range, and the last may reach beyond it.
        let taken = ((u64::from(at - start) + 1) << order) - skipped;
        let beyond = taken.saturating_sub(self.left);
        if let Some(run) = runs.first_mut() {
            run.pages = PageCount::new(run.pages.raw() - skipped);
        }
        if let Some(run) = runs.last_mut() {
            run.pages = PageCount::new(run.pages.raw() - beyond);
        }
        self.advance(taken - beyond, at - start);
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
