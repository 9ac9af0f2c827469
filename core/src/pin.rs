//! Pinning a range in one call.
//!
//! The range is taken in batches. A batch goes the fast way as far as that leads: under the
//! walk guard, without a lock, page tables are walked, folios counted, entries compared again.
//! The fast way accepts or defers, it never refuses. What it deferred goes the slow way, which
//! may sleep: look up the mapping, fault the page in, move the folio, wait for somebody else;
//! after which the fast way goes on. Only the fast way accepts runs: the slow way removes
//! what is in the way, or says why it cannot.
//!
//! What was accepted is recorded in the [`PinTable`], which owns the pins. Any
//! failure gives back everything.

use pinfold_arch::{AddrRange, Order, PageCount, PageFormat, VirtAddr};

use crate::frames::FrameTable;
use crate::host::{Account, Flow, GupHost, Mapping, Progress, Step, Wait};
use crate::policy;
use crate::request::PinRequest;
use crate::space::{AddressSpace, Sequence};
use crate::table::fill::Filler;
use crate::table::layout::SMALLEST_PAGE;
use crate::table::{Keeper, PinTable};

mod batch;
mod defer;
pub mod error;
pub(crate) mod fast;
pub(crate) mod indivisible;
mod measure;
mod permit;
pub(crate) mod slow;
pub mod unpin;

pub use error::{PinCause, PinError};
pub use unpin::{Dirtied, UnpinError, Unpinned};

use fast::Stopped;
use indivisible::Indivisible;

/// What a successful call did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pinned {
    /// Pages pinned: all that were asked for.
    pub pages: PageCount,
    /// Counting operations on folios: runs of pages that share a folio.
    pub runs: u64,
    /// Page-table pages visited, once for each batch that came through them.
    pub tables: u64,
    /// Page-table entries decoded.
    pub entries: u64,
    /// Pages faulted in or made private.
    pub faults: u64,
    /// Folios moved.
    pub migrated: u64,
    /// In how large pieces the range stays for as long as it is pinned: the largest order such that
    /// whatever of the range lies in one naturally aligned block of so many pages of addresses is
    /// consecutive frames of one hugetlb folio, which is at least as large, and aligned as the
    /// addresses are. Zero if any page is of no hugetlb folio: other large folios may be mapped in
    /// smaller pieces while the pins last.
    ///
    /// The range itself may begin and end inside a block. Where pages of a device are to be so large,
    /// it must not.
    pub indivisible: Order,
}

impl Pinned {
    pub(crate) const NOTHING: Self = Self {
        pages: PageCount::ZERO,
        runs: 0,
        tables: 0,
        entries: 0,
        faults: 0,
        migrated: 0,
        indivisible: Order::ZERO,
    };
}

/// One pin call under way.
pub(crate) struct Call<'a, 'm, H, F> {
    pub(crate) host: &'a H,
    pub(crate) frames: FrameTable<'m>,
    pub(crate) space: &'a AddressSpace<F>,
    pub(crate) request: &'a PinRequest,
    pub(crate) report: Pinned,
    /// What its runs come to.
    indivisible: Indivisible,
    /// How many runs the fast way looks ahead.
    look: usize,
    /// The mapping that the slow way looked up last, good while the sequence stands.
    pub(crate) known: Option<(Mapping, Sequence)>,
}

impl<H: GupHost, F: PageFormat> Call<'_, '_, H, F> {
    /// What is known of the mapping at `va`, if it still holds.
    fn known_at(&mut self, va: VirtAddr) -> Option<(Mapping, Sequence)> {
        let holds = |(mapping, sequence): &(Mapping, Sequence)| {
            mapping.range.contains(va) && self.space.sequence() == Some(*sequence)
        };
        self.known = self.known.filter(holds);
        self.known
    }

    fn progress(&self, done: PageCount) -> Progress {
        Progress { done, total: self.request.range.pages() }
    }
}

/// Pins the request's whole range into `table`: see [`Engine::pin`](crate::Engine::pin).
pub(crate) fn pin_pages<H: GupHost, F: PageFormat>(
    host: &H,
    frames: FrameTable<'_>,
    space: &AddressSpace<F>,
    table: &PinTable<'_>,
    request: &PinRequest,
) -> Result<Pinned, PinError> {
    let start = request.range.start();
    check(frames, space, request).map_err(|cause| cause.at(start))?;
    let begun = table.begin(request, Keeper::Frames);
    let geometry = begun.map_err(|error| PinCause::from(error).at(start))?;
    if let Err(over) = host.account().charge(request.account, request.range.pages()) {
        table.reset();
        return Err(PinCause::OverLimit(over).at(start));
    }
    let mut call = Call {
        host,
        frames,
        space,
        request,
        report: Pinned::NOTHING,
        indivisible: Indivisible::new(),
        look: fast::RUNS,
        known: None,
    };
    let mut filler = Filler::new(*table, geometry);
    let result = fill(&mut call, &mut filler).and_then(|()| publish(&call, table, &filler));
    match result {
        Ok(()) => Ok(call.report),
        Err(error) => {
            // A step may be behind us since the last pause. Giving back cannot be stopped.
            let _ = host.wait().pause(call.progress(filler.done()));
            // A miscount here would be somebody else's doing; the error that led here says more.
            let _ = unpin::give_back(host, frames, table, filler.held(), Dirtied::No);
            host.account().uncharge(request.account, request.range.pages());
            let error = measure::exact_need(&mut call, &mut filler, error);
            table.reset();
            Err(error)
        }
    }
}

/// What is wrong with a request whatever the state of memory.
fn check<F: PageFormat>(
    frames: FrameTable<'_>,
    space: &AddressSpace<F>,
    request: &PinRequest,
) -> Result<(), PinCause> {
    policy::request(request.access, request.flags, request.revocable)?;
    let base = request.range.base();
    let known = base.raw() >= SMALLEST_PAGE;
    if !known || base != space.format().base() || base != frames.base() {
        return Err(PinCause::BaseMismatch);
    }
    if !space.format().valid(&request.range) {
        return Err(PinCause::NotTranslatable);
    }
    Ok(())
}

/// Pins everything, batch by batch.
fn fill<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    filler: &mut Filler<'_>,
) -> Result<(), PinError> {
    let range = call.request.range;
    let mut stuck = slow::Patience::new();
    filler.check().map_err(|error| PinCause::from(error).at(range.start()))?;
    while let Some(rest) = range.skip(filler.done()) {
        let before = filler.done();
        let known = call.known_at(rest.start());
        let stopped = fast::advance(call, filler, rest, known);
        filler.check().map_err(|error| PinCause::from(error).at(rest.start()))?;
        if filler.done() != before {
            stuck = slow::Patience::new();
        }
        if let Stopped::Defer(why) = stopped {
            let at = range_at(&range, filler.done());
            slow::resolve(call, at, why, filler.done(), &mut stuck)
                .map_err(|cause| cause.at(at))?;
        }
        if call.host.wait().pause(call.progress(filler.done())) == Flow::Stop {
            return Err(PinCause::Interrupted.at(range_at(&range, filler.done())));
        }
    }
    call.report.pages = range.pages();
    call.report.indivisible = call.indivisible.order();
    Ok(())
}

/// Turns page references into addresses and opens the table.
fn publish<H: GupHost, F: PageFormat>(
    call: &Call<'_, '_, H, F>,
    table: &PinTable<'_>,
    filler: &Filler<'_>,
) -> Result<(), PinError> {
    let step = Step::of(call.host.wait());
    let mut from = 0;
    while let Some(next) = table.convert(&filler.geometry(), from, step) {
        from = next;
        if call.host.wait().pause(call.progress(filler.done())) == Flow::Stop {
            return Err(PinCause::Interrupted.at(call.request.range.start()));
        }
    }
    table.publish();
    Ok(())
}

/// The address `done` pages into a range that has more pages than that.
fn range_at(range: &AddrRange, done: PageCount) -> VirtAddr {
    range.skip(done).map_or(range.start(), |rest| rest.start())
}
