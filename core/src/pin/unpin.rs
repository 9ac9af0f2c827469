//! Giving pins back.

use pinfold_arch::{PageCount, Pfn};

use crate::error::ErrorKind;
use crate::folio::{Folio, FolioFlags};
use crate::frames::{CountError, FrameTable};
use crate::host::{Account, GupHost, Progress, Reclaim, Step, Wait};
use crate::table::layout::Geometry;
use crate::table::{Keeper, PinTable, Run, TableError};

/// Runs whose frames are fetched ahead.
const RUNS: usize = 32;

/// What the device did to the memory, beside what was marked block by block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dirtied {
    /// Nothing more: only blocks that were marked are dirty.
    No,
    /// It may have written anywhere: every folio is marked dirty before its pin goes.
    All,
}

/// What an unpin did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unpinned {
    /// Pages given back: all that the table held.
    pub pages: PageCount,
    /// Counting operations on folios.
    pub runs: u64,
    /// How many of those marked their folio dirty.
    pub dirtied: u64,
}

/// Why an unpin failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpinError {
    /// The table holds no pins, another call is at it, or its pins are counted by somebody else.
    /// Nothing has changed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table's memory was written by others: so many pages are not in it any more, and stay
    /// pinned. Everything else was given back.
    #[error("the pin table was overwritten: {pages} of its pages are lost")]
    Overwritten {
        /// How many.
        pages: PageCount,
    },
    /// A folio did not have the pins that the table holds on it: somebody gave back what was not
    /// theirs. Everything else was given back.
    #[error("the folio at frame {pfn} lacks pins that the table holds: {error}")]
    Miscounted {
        /// The first such frame.
        pfn: Pfn,
        /// What its count said.
        error: CountError,
    },
}

impl UnpinError {
    /// Which of the kinds it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Table(error) => error.kind(),
            Self::Overwritten { .. } | Self::Miscounted { .. } => ErrorKind::Corrupt,
        }
    }
}

/// Gives back everything that the table holds: see [`Engine::unpin`](crate::Engine::unpin).
pub(crate) fn unpin_pages<H: GupHost>(
    host: &H,
    frames: FrameTable<'_>,
    table: &PinTable<'_>,
    dirtied: Dirtied,
) -> Result<Unpinned, UnpinError> {
    let geometry = table.close(Keeper::Frames)?;
    let (report, mut result) = give_back(host, frames, table, geometry, dirtied);
    if report.pages != geometry.pages() {
        let pages = PageCount::new(geometry.pages().raw() - report.pages.raw());
        result = result.and(Err(UnpinError::Overwritten { pages }));
    }
    host.account().uncharge(table.account(), geometry.pages());
    table.reset();
    result.map(|()| report)
}

/// Gives back what a closed or half-filled table holds. It goes on after a miscount, because every
/// other pin would leak; the first one is reported.
pub(super) fn give_back<H: GupHost>(
    host: &H,
    frames: FrameTable<'_>,
    table: &PinTable<'_>,
    geometry: Geometry,
    dirtied: Dirtied,
) -> (Unpinned, Result<(), UnpinError>) {
    let total = geometry.pages();
    let report = Unpinned { pages: PageCount::ZERO, runs: 0, dirtied: 0 };
    let step = Step::of(host.wait()).entries();
    let (words, operations) = (step, step);
    let mut giver =
        Giver { host, frames, total, step, words, operations, report, result: Ok(()), known: None };
    let mut runs = table.held(geometry);
    while !runs.ended() {
        if giver.words == 0 {
            giver.pause();
        }
        let mut batch = heapless::Vec::<Run, RUNS>::new();
        while !batch.is_full()
            && let Some(run) = runs.next_within(&mut giver.words)
        {
            frames.prefetch(run.pfn);
            let _ = batch.push(run);
        }
        for run in &batch {
            giver.run(run, run.dirty || dirtied == Dirtied::All);
        }
    }
    (giver.report, giver.result)
}

/// Gives back run after run.
struct Giver<'a, 'm, H> {
    host: &'a H,
    frames: FrameTable<'m>,
    /// Pages in all.
    total: PageCount,
    /// Entries between two pauses.
    step: u64,
    /// Words of the table that may be read before the next pause.
    words: u64,
    /// Folios whose count may change before the next pause.
    operations: u64,
    report: Unpinned,
    result: Result<(), UnpinError>,
    /// The state of the single frame that was given back last; the next ones are mostly in the
    /// same state.
    known: Option<u64>,
}

impl<H: GupHost> Giver<'_, '_, H> {
    fn run(&mut self, run: &Run, dirty: bool) {
        let mut at = PageCount::ZERO;
        while at < run.pages {
            let left = PageCount::new(run.pages.raw() - at.raw());
            let Some(pfn) = run.pfn.checked_add(at) else { break };
            if let (Some(raw), false) = (self.known, dirty) {
                let most = PageCount::new(left.raw().min(self.operations));
                let host = self.host;
                let last = |last| host.reclaim().reclaim(last);
                let pages = self.frames.unpin_alike(raw, pfn, most, last);
                if pages != PageCount::ZERO {
                    at = PageCount::new(at.raw() + pages.raw());
                    self.did(pages, pages.raw());
                    continue;
                }
            }
            let Some((folio, _, pages)) = pieces(&self.frames, pfn, left).next() else {
                self.failed(pfn, CountError::Gone);
                at = PageCount::new(at.raw() + 1);
                self.did(PageCount::ONE, 0);
                continue;
            };
            self.known = folio.is_single().then_some(folio.raw);
            if dirty && !folio.is_zero_frame() {
                self.frames.set_flags(folio, FolioFlags::DIRTY, true);
                self.report.dirtied += 1;
            }
            if let Err(error) = put_pins(self.host, &self.frames, folio, pages) {
                self.failed(folio.head(), error);
            }
            at = PageCount::new(at.raw() + pages.raw());
            self.did(pages, 1);
        }
    }

    #[cold]
    fn failed(&mut self, pfn: Pfn, error: CountError) {
        self.result = self.result.and(Err(UnpinError::Miscounted { pfn, error }));
    }

    /// So many pages were given back, in so many operations, of which there were enough left.
    #[inline]
    fn did(&mut self, pages: PageCount, operations: u64) {
        self.report.pages = PageCount::new(self.report.pages.raw() + pages.raw());
        self.report.runs += operations;
        // What failed was an attempt.
        self.operations -= operations.max(1);
        if self.operations == 0 {
            self.pause();
        }
    }

    #[cold]
    fn pause(&mut self) {
        (self.words, self.operations) = (self.step, self.step);
        // Giving back cannot be undone, so it cannot be stopped either.
        let progress = Progress { done: self.report.pages, total: self.total };
        let _ = self.host.wait().pause(progress);
    }
}

/// Pinned frames, folio by folio: the folio, the first of its frames among them, and how many. It
/// ends early where a frame has no folio.
#[inline]
pub(super) fn pieces<'a>(
    frames: &'a FrameTable<'_>,
    from: Pfn,
    pages: PageCount,
) -> impl Iterator<Item = (Folio, Pfn, PageCount)> + 'a {
    let mut done = 0;
    core::iter::from_fn(move || {
        let left = pages.raw().checked_sub(done).filter(|left| *left != 0)?;
        let pfn = from.checked_add(PageCount::new(done))?;
        // A pinned folio cannot be split or freed, so the head found here is the one that was
        // counted.
        let folio = frames.folio(pfn)?;
        frames.prefetch_behind(folio);
        let in_folio = folio.order().pages().raw() - (pfn.raw() - folio.head().raw());
        let piece = PageCount::new(in_folio.min(left));
        done += piece.raw();
        Some((folio, pfn, piece))
    })
}

/// Takes `pages` pins off a folio, and hands it to its owner if that was the last reference.
#[inline]
pub(super) fn put_pins<H: GupHost>(
    host: &H,
    frames: &FrameTable<'_>,
    folio: Folio,
    pages: PageCount,
) -> Result<(), CountError> {
    if let Some(last) = frames.unpin(folio, pages)? {
        host.reclaim().reclaim(last);
    }
    Ok(())
}
