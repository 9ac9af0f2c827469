//! How many words a pin table would have needed.

use pinfold_arch::{AddrRange, PageCount, PageFormat, Pfn, Rights};

use super::fast::Guard;
use super::{Call, PinCause, PinError};
use crate::host::{Flow, GupHost, Step, Wait};
use crate::table::fill::Filler;
use crate::table::{PinTable, TableError};
use crate::walk::RangeWalk;
use crate::walk::range::{Look, Next, Run};

/// If `error` says that the words ran out, completes the figure: the rest of the range is walked and
/// counted, not pinned. Pages that are absent count as single ones. Where the walk fails, the
/// figure is what single pages would take. Any other error stays.
pub(super) fn exact_need<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    filler: &mut Filler<'_>,
    error: PinError,
) -> PinError {
    let PinCause::Table(TableError::NoSpace { .. }) = error.cause else { return error };
    let range = &call.request.range;
    let no_space = |need| PinCause::Table(TableError::NoSpace { need }).at(range.start());
    while let Some(rest) = range.skip(filler.done()) {
        if call.host.wait().pause(call.progress(filler.done())) == Flow::Stop {
            return PinCause::Interrupted.at(range.start());
        }
        let counted = {
            let _guard = Guard::enter(call.host.guard(), call.space.id());
            count(call, filler, rest)
        };
        if counted.is_none() {
            return no_space(PinTable::words_for(range, range.base()).unwrap_or(usize::MAX));
        }
    }
    filler.check().err().map_or(error, |error| PinCause::Table(error).at(range.start()))
}

/// Counts one step; `None` if the walk fails.
fn count<H: GupHost, F: PageFormat>(
    call: &Call<'_, '_, H, F>,
    filler: &mut Filler<'_>,
    rest: AddrRange,
) -> Option<()> {
    let (format, root) = (call.space.format(), call.space.root());
    let step = Step::of(call.host.wait());
    let mut walk = RangeWalk::new(format, root, call.host.memory(), rest).ok()?.bounded(step);
    let mut runs = heapless::Vec::<Run, 1>::new();
    let mut left = step.entries();
    let look = Look { runs: 1, absent: 1, rights: Rights::empty() };
    loop {
        let (pfn, pages) = match walk.next_runs(&mut runs, look).ok()? {
            Next::Runs(_) => {
                let run = runs.first()?;
                (Some(run.pfn), run.pages.raw())
            }
            Next::Hole(pages) => (None, pages.raw()),
            Next::End => return Some(()),
        };
        let mut done = 0;
        while done < pages {
            if left == 0 {
                return Some(());
            }
            let in_folio = pfn.map_or(1, |first| pages_in_folio(call, first, done));
            let piece = PageCount::new(in_folio.min(pages - done));
            filler.place(Pfn::new(0), piece);
            done += piece.raw();
            left = left.saturating_sub(Filler::most_words(piece));
        }
    }
}

/// How many pages from page `done` behind `first` on lie in one folio; one where none is known.
fn pages_in_folio<H, F>(call: &Call<'_, '_, H, F>, first: Pfn, done: u64) -> u64 {
    let pfn = first.checked_add(PageCount::new(done));
    let folio = pfn.and_then(|pfn| Some((pfn, call.frames.folio(pfn)?)));
    folio.map_or(1, |(pfn, folio)| folio.order().pages().raw() - (pfn.raw() - folio.head().raw()))
}
