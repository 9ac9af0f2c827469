//! Where a source reports what it pinned.

use core::fmt;

use pinfold_arch::{AddrRange, Order, PageCount, Pfn, VirtAddr};

use crate::host::{SourceError, Step};
use crate::pin::indivisible::Indivisible;
use crate::table::Run;
use crate::table::fill::Filler;

/// Runs that were accepted and have no place in the table, until the source can take them back.
const LOOSE: usize = 64;

/// Takes the runs that a source pinned, in order of address: see
/// [`PinSource::pin`](super::PinSource::pin).
pub struct RunSink<'m> {
    filler: Filler<'m>,
    part: AddrRange,
    /// Pages of the part that were accepted.
    got: PageCount,
    /// Runs that were accepted, in all parts.
    runs: u64,
    /// What they come to.
    indivisible: Indivisible,
    /// Accepted when the table's words had run out. Consecutive, and the last of the part.
    loose: heapless::Vec<(Pfn, PageCount), LOOSE>,
    refused: Option<Refused>,
    /// How much may be recorded in one part.
    step: u64,
    /// How much of that is left.
    left: u64,
    /// A part of the current block was more than a step.
    crowded: bool,
}

/// Why a run was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refused {
    /// It cannot be true.
    Wrong(SourceError),
    /// The words had run out or the step was full, and the next part begins here.
    Full,
}

impl fmt::Debug for RunSink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunSink").field("part", &self.part).field("got", &self.got).finish()
    }
}

impl<'m> RunSink<'m> {
    pub(super) fn new(filler: Filler<'m>, range: AddrRange, step: Step) -> Self {
        let step = step.entries();
        Self {
            filler,
            part: range,
            got: PageCount::ZERO,
            runs: 0,
            indivisible: Indivisible::new(),
            loose: heapless::Vec::new(),
            refused: None,
            step,
            left: step,
            crowded: false,
        }
    }

    /// Reports that `pages` frames from `pfn` on are pinned behind the next addresses of the part.
    ///
    /// # Errors
    /// [`SourceError::RunRefused`]: the run is not taken, and neither is any later one of this
    /// call. It has no pages, or more than are left of the part, or frames without a physical
    /// address; or there is no room to remember it; or the call has reported a whole
    /// [step](crate::host::Wait::step). Give it back, and what else is not reported, and return the
    /// error.
    pub fn push(&mut self, pfn: Pfn, pages: PageCount) -> Result<(), SourceError> {
        self.push_indivisible(pfn, pages, Order::ZERO)
    }

    /// [`push`](Self::push) for frames of a folio that the host never splits: hugetlb memory, or
    /// memory that was set aside when the host started. The run is the folio, or a part of it; `order`
    /// is that of the whole. Such a promise is what lets a device's page be larger than a
    /// base page: see [`Pinned::indivisible`](crate::pin::Pinned::indivisible).
    ///
    /// Memory that is only large for now is no such memory; `push` it. Order zero promises nothing,
    /// for runs of any length.
    ///
    /// # Errors
    /// As [`push`](Self::push); and the run must lie inside one naturally aligned block of that order,
    /// all frames of which have a physical address.
    pub fn push_indivisible(
        &mut self,
        pfn: Pfn,
        pages: PageCount,
        order: Order,
    ) -> Result<(), SourceError> {
        if self.refused.is_none() {
            self.refused = self.accept(pfn, pages, order).err();
        }
        if self.refused.is_some() { Err(SourceError::RunRefused) } else { Ok(()) }
    }

    /// Pages of the part that have not been reported yet.
    #[must_use]
    pub fn remaining(&self) -> PageCount {
        PageCount::new(self.part.pages().raw() - self.got.raw())
    }

    fn accept(&mut self, pfn: Pfn, pages: PageCount, order: Order) -> Result<(), Refused> {
        let wrong = |error| Err(Refused::Wrong(error));
        let Some(others) = pages.raw().checked_sub(1) else {
            return wrong(SourceError::Empty { pfn });
        };
        if pages > self.remaining() {
            let got = PageCount::new(self.got.raw().saturating_add(pages.raw()));
            return wrong(SourceError::TooMany { asked: self.part.pages(), got });
        }
        let last = pfn.checked_add(PageCount::new(others));
        if last.and_then(|last| last.addr(self.part.base())).is_none() {
            return wrong(SourceError::NoSuchFrames { pfn, pages });
        }
        if order != Order::ZERO {
            let end = Pfn::new(pfn.raw() | (order.pages().raw() - 1));
            if last > Some(end) || end.addr(self.part.base()).is_none() {
                return wrong(SourceError::NotOneFolio { pfn, pages, order });
            }
        }
        self.crowded |= self.left == 0;
        if self.left == 0 || self.loose.is_full() {
            return Err(Refused::Full);
        }
        self.left = self.left.saturating_sub(Filler::most_words(pages));
        let start = self.part.start().raw() >> self.part.base().raw();
        self.indivisible.add(start + self.got.raw(), pfn, order);
        let recorded = self.filler.place(pfn, pages);
        if recorded < pages {
            // The last frame has an address, so this one has a number.
            let first = Pfn::new(pfn.raw() + recorded.raw());
            let _ = self.loose.push((first, PageCount::new(pages.raw() - recorded.raw())));
        }
        self.got = PageCount::new(self.got.raw() + pages.raw());
        self.runs += 1;
        Ok(())
    }

    /// Starts with the next part, which may be all of a block.
    pub(super) fn begin(&mut self, part: AddrRange, block: bool) {
        self.part = part;
        self.left = self.step;
        self.crowded &= !block;
        self.got = PageCount::ZERO;
        self.loose.clear();
        self.refused = None;
    }

    /// Whether a part of the current block was more than a step.
    pub(super) fn was_crowded(&self) -> bool {
        self.crowded
    }

    /// What came of the part that the source answered for. Success means that all of it was
    /// accepted, or as much of it as could be remembered or fits a step.
    pub(super) fn settle(&self, answer: Result<(), SourceError>) -> Result<(), SourceError> {
        match (self.refused, answer) {
            (Some(Refused::Wrong(error)), _) => Err(error),
            (Some(Refused::Full), _) => Ok(()),
            (None, Err(error)) => Err(error),
            (None, Ok(())) if self.got < self.part.pages() => {
                Err(SourceError::Short { asked: self.part.pages(), got: self.got })
            }
            (None, Ok(())) => Ok(()),
        }
    }

    /// The part's runs that are in no table.
    pub(super) fn loose(&self) -> impl Iterator<Item = Run> + '_ {
        let held: u64 = self.loose.iter().map(|(_, pages)| pages.raw()).sum();
        let mut at = self.part.skip(PageCount::new(self.got.raw() - held));
        self.loose.iter().filter_map(move |&(pfn, pages)| {
            let rest = at?;
            at = rest.skip(pages);
            Some(Run { va: rest.start(), pfn, pages, dirty: false })
        })
    }

    /// How many runs were accepted.
    pub(super) fn runs(&self) -> u64 {
        self.runs
    }

    /// See [`Pinned::indivisible`](crate::pin::Pinned::indivisible).
    pub(super) fn indivisible(&self) -> Order {
        self.indivisible.order()
    }

    /// The address of the first page that was not reported; the part's last if all were.
    pub(super) fn at(&self) -> VirtAddr {
        let last = PageCount::new(self.part.pages().raw() - 1);
        self.part.skip(self.got.min(last)).map_or(self.part.start(), |rest| rest.start())
    }

    /// What fills the table.
    pub(super) fn filler(&self) -> &Filler<'m> {
        &self.filler
    }
}
