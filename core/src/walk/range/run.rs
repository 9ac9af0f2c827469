//! What a walk finds, and whether the tables still say it.

use pinfold_arch::{PageCount, PageShift, Pfn, Rights, VirtAddr};

use crate::host::TableView;
use crate::sync::Ordering;

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

impl<'m> LeafRun<'m> {
    pub(super) fn new(va: VirtAddr, run: Run, source: Source<'m>) -> Self {
        let (Run { pfn, pages, .. }, Source { rights, shift, .. }) = (run, source);
        Self { va, pfn, pages, rights, shift, run, source }
    }

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
    pub(super) raw: u64,
    /// Its index.
    pub(super) first: u16,
    pub(super) entries: u16,
}

/// Where the entries of runs stand, and what they have in common: a table, and the entry above
/// that led to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'m> {
    pub(super) view: TableView<'m>,
    pub(super) parent: Option<(TableView<'m>, u16, u64)>,
    pub(super) big_endian: bool,
    pub(super) volatile: u64,
    pub(super) shift: PageShift,
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
pub(super) struct Chain<'m> {
    pub(super) view: TableView<'m>,
    pub(super) big_endian: bool,
    /// Bits that need not be the same.
    pub(super) volatile: u64,
    pub(super) bytes: u64,
}

impl Chain<'_> {
    /// How many entries from `at` on, at most `most`, say `expected` and what follows it.
    #[inline(always)]
    pub(super) fn length(
        &self,
        at: usize,
        most: usize,
        mut expected: u64,
        order: Ordering,
    ) -> usize {
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

#[inline]
pub(super) fn host_order(raw: u64, big_endian: bool) -> u64 {
    if big_endian { u64::from_be(raw) } else { u64::from_le(raw) }
}
