//! How many words a pin table would have needed.

use pinfold_arch::{PageCount, PageFormat, Pfn};

use super::{Call, PinCause, PinError};
use crate::host::{Flow, GupHost, Wait, WalkGuard};
use crate::table::TableError;
use crate::table::fill::Filler;
use crate::walk::{Extent, RangeWalk};

/// Extents counted under one walk guard.
const EXTENTS: usize = 32;
/// Absent pages counted between two pauses.
const ABSENT: u64 = 1 << 16;

/// If `error` says that the words ran out, completes the figure: the rest of the range is walked and
/// counted, not pinned. Pages that are absent count as single ones. Any other error stays.
pub(super) fn exact_need<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    filler: &mut Filler<'_>,
    error: PinError,
) -> PinError {
    let PinCause::Table(TableError::NoSpace { .. }) = error.cause else { return error };
    let at = call.request.range.start();
    while let Some(rest) = call.request.range.skip(filler.done()) {
        let saved = call.host.guard().enter(call.space.id());
        let walked = count(call, filler, rest);
        call.host.guard().leave(call.space.id(), saved);
        if walked.is_none() {
            // Malformed from here on: the pin call that is repeated will say so.
            fill_absent(filler, rest.pages());
        }
        if call.host.wait().pause(call.progress(filler.done())) == Flow::Stop {
            return PinCause::Interrupted.at(at);
        }
    }
    filler.check().err().map_or(error, |error| PinCause::Table(error).at(at))
}

/// Counts some extents; `None` if the walk fails.
fn count<H: GupHost, F: PageFormat>(
    call: &Call<'_, '_, H, F>,
    filler: &mut Filler<'_>,
    rest: pinfold_arch::AddrRange,
) -> Option<()> {
    let (format, root) = (call.space.format(), call.space.root());
    let mut walk = RangeWalk::new(format, root, call.host.memory(), rest).ok()?;
    for _ in 0..EXTENTS {
        match walk.next_extent().ok()? {
            Some(Extent::Leaf(run)) => {
                let mut at = PageCount::ZERO;
                while at < run.pages {
                    let left = run.pages.raw() - at.raw();
                    let pfn = run.pfn.checked_add(at)?;
                    let in_folio = call.frames.folio(pfn).map_or(1, |folio| {
                        folio.order().pages().raw() - (pfn.raw() - folio.head().raw())
                    });
                    let pages = PageCount::new(in_folio.min(left));
                    filler.place(Pfn::new(0), pages);
                    at = PageCount::new(at.raw() + pages.raw());
                }
            }
            Some(Extent::Hole { pages, .. }) => {
                fill_absent(filler, PageCount::new(pages.raw().min(ABSENT)));
                if pages.raw() > ABSENT {
                    return Some(());
                }
            }
            None => return Some(()),
        }
    }
    Some(())
}

fn fill_absent(filler: &mut Filler<'_>, pages: PageCount) {
    for _ in 0..pages.raw() {
        filler.place(Pfn::new(0), PageCount::ONE);
    }
}
