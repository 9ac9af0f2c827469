//! Giving pins back.

use pinfold_arch::{PageCount, Pfn};

use crate::error::ErrorKind;
use crate::folio::{Folio, FolioFlags};
use crate::frames::{CountError, FrameTable};
use crate::host::{Account, GupHost, Progress, Reclaim, Wait};
use crate::table::layout::Geometry;
use crate::table::{PinTable, TableError};

/// Pages given back between two pauses.
const STEP: u64 = 4096;

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
    /// The table holds no pins, or another call is at it. Nothing has changed.
    #[error(transparent)]
    Table(#[from] TableError),
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
            Self::Miscounted { .. } => ErrorKind::Corrupt,
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
    let geometry = table.close()?;
    let (report, result) = give_back(host, frames, table, geometry, dirtied);
    host.account().uncharge(table.account(), geometry.pages());
    table.reset();
    result.map(|()| report)
}

/// Gives back what a closed table holds. It goes on after a miscount, because every other pin
/// would leak; the first one is reported.
pub(super) fn give_back<H: GupHost>(
    host: &H,
    frames: FrameTable<'_>,
    table: &PinTable<'_>,
    geometry: Geometry,
    dirtied: Dirtied,
) -> (Unpinned, Result<(), UnpinError>) {
    let mut report = Unpinned { pages: PageCount::ZERO, runs: 0, dirtied: 0 };
    let mut result = Ok(());
    let mut since_pause = 0;
    for run in table.held(geometry) {
        let dirty = run.dirty || dirtied == Dirtied::All;
        let mut at = PageCount::ZERO;
        for (folio, _, pages) in pieces(&frames, run.pfn, run.pages) {
            if dirty && !folio.is_zero_frame() {
                frames.set_flags(folio, FolioFlags::DIRTY, true);
                report.dirtied += 1;
            }
            if let Err(error) = put_pins(host, &frames, folio, pages) {
                result = result.and(Err(UnpinError::Miscounted { pfn: folio.head(), error }));
            }
            report.runs += 1;
            at = PageCount::new(at.raw() + pages.raw());
            since_pause += pages.raw();
            if since_pause >= STEP {
                since_pause = 0;
                let done = PageCount::new(report.pages.raw() + at.raw());
                // Giving back cannot be undone, so it cannot be stopped either.
                let _ = host.wait().pause(Progress { done, total: geometry.pages() });
            }
        }
        if at != run.pages {
            let pfn = run.pfn.checked_add(at).unwrap_or(run.pfn);
            let lost = UnpinError::Miscounted { pfn, error: CountError::Gone };
            result = result.and(Err(lost));
        }
        report.pages = PageCount::new(report.pages.raw() + run.pages.raw());
    }
    (report, result)
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
