//! Part by part from the source into the table, and back.

use pinfold_arch::{AddrRange, PageCount, PageShift};

use super::PinSource;
use super::sink::RunSink;
use crate::host::{Account, Flow, Host, Progress, SpaceId, Step, Wait};
use crate::pin::{Dirtied, PinCause, PinError, Pinned, UnpinError, Unpinned};
use crate::policy;
use crate::request::PinRequest;
use crate::table::fill::Filler;
use crate::table::layout::{Geometry, SMALLEST_PAGE};
use crate::table::{Keeper, PinTable, Run, TableError};

/// One call under way.
struct Call<'a, H, S> {
    host: &'a H,
    source: &'a S,
    space: SpaceId,
    request: &'a PinRequest,
}

/// Pins the request's whole range into `table`: see [`HostPins::pin`](super::HostPins::pin).
pub(super) fn pin_from_source<H: Host, S: PinSource>(
    host: &H,
    source: &S,
    space: SpaceId,
    table: &PinTable<'_>,
    request: &PinRequest,
) -> Result<Pinned, PinError> {
    let (start, pages) = (request.range.start(), request.range.pages());
    check(source, request).map_err(|cause| cause.at(start))?;
    let begun = table.begin(request, Keeper::Host);
    let geometry = begun.map_err(|error| PinCause::from(error).at(start))?;
    if !source.charges()
        && let Err(over) = host.account().charge(request.account, pages)
    {
        table.reset();
        return Err(PinCause::OverLimit(over).at(start));
    }
    let call = Call { host, source, space, request };
    let step = Step::of(host.wait());
    let mut sink = RunSink::new(Filler::new(*table, geometry), request.range, step);
    match call.fill(&mut sink).and_then(|()| call.publish(table, &sink)) {
        Ok(()) => {
            let (runs, indivisible) = (sink.runs(), sink.indivisible());
            Ok(Pinned { pages, runs, indivisible, ..Pinned::NOTHING })
        }
        Err(error) => {
            // A step may be behind us since the last pause. Giving back cannot be stopped.
            let _ = call.pause(sink.filler().done());
            give_back(host, source, table, sink.filler().held(), Dirtied::No);
            let error = call.exact_need(&mut sink, error);
            if !source.charges() {
                host.account().uncharge(request.account, pages);
            }
            table.reset();
            Err(error)
        }
    }
}

/// Gives back all that `table` holds: see [`HostPins::unpin`](super::HostPins::unpin).
pub(super) fn unpin_to_source<H: Host, S: PinSource>(
    host: &H,
    source: &S,
    table: &PinTable<'_>,
    dirtied: Dirtied,
) -> Result<Unpinned, UnpinError> {
    let geometry = table.close(Keeper::Host)?;
    let report = give_back(host, source, table, geometry, dirtied);
    if !source.charges() {
        host.account().uncharge(table.account(), geometry.pages());
    }
    table.reset();
    match geometry.pages().raw() - report.pages.raw() {
        0 => Ok(report),
        lost => Err(UnpinError::Overwritten { pages: PageCount::new(lost) }),
    }
}

/// What is wrong with a request whatever the state of memory.
fn check<S: PinSource>(source: &S, request: &PinRequest) -> Result<(), PinCause> {
    policy::request(request.access, request.flags, request.revocable)?;
    let base = request.range.base();
    if base != source.base() || base.raw() < SMALLEST_PAGE {
        return Err(PinCause::BaseMismatch);
    }
    Ok(())
}

impl<H: Host, S: PinSource> Call<'_, H, S> {
    /// Pins everything, part by part.
    fn fill(&self, sink: &mut RunSink<'_>) -> Result<(), PinError> {
        let range = self.request.range;
        let room = |sink: &RunSink<'_>| {
            sink.filler().check().map_err(|error| PinCause::from(error).at(range.start()))
        };
        room(sink)?;
        while let Some(rest) = range.skip(sink.filler().done()) {
            self.pin_part(sink, rest)?;
            room(sink)?;
            let done = sink.filler().done();
            if self.pause(done) == Flow::Stop {
                let at = range.skip(done).map_or(range.start(), |rest| rest.start());
                return Err(PinCause::Interrupted.at(at));
            }
        }
        Ok(())
    }

    /// Has the source pin up to the end of the block of its size that `rest` starts in. What
    /// found no room in the table goes back at once.
    fn pin_part(&self, sink: &mut RunSink<'_>, rest: AddrRange) -> Result<(), PinError> {
        let block = self.source.chunk().pages().raw();
        let first = rest.start().raw() >> rest.base().raw();
        let to_end = |block: u64| block - (first & (block - 1));
        let mut pages = to_end(block);
        if pages != block && sink.was_crowded() {
            // More of this block than fits a step came at once: the rest comes in small parts.
            pages = pages.min(to_end(u64::from(Step::of(self.host.wait()).block())));
        }
        let part = rest.take(PageCount::new(pages)).unwrap_or(rest);
        sink.begin(part, pages == block);
        let answer = self.source.pin(self.space, part, self.request, sink);
        for run in sink.loose() {
            self.source.unpin(run);
        }
        sink.settle(answer).map_err(|error| PinCause::from(error).at(sink.at()))
    }

    /// Turns page references into addresses and opens the table.
    fn publish(&self, table: &PinTable<'_>, sink: &RunSink<'_>) -> Result<(), PinError> {
        let step = Step::of(self.host.wait());
        let mut from = 0;
        while let Some(next) = table.convert(&sink.filler().geometry(), from, step) {
            from = next;
            if self.pause(sink.filler().done()) == Flow::Stop {
                return Err(PinCause::Interrupted.at(self.request.range.start()));
            }
        }
        table.publish();
        Ok(())
    }

    /// If `error` says that the words ran out, completes the figure: what is left of the range is
    /// pinned, counted and given back, part by part. Any other error stays.
    fn exact_need(&self, sink: &mut RunSink<'_>, error: PinError) -> PinError {
        let PinCause::Table(TableError::NoSpace { .. }) = error.cause else { return error };
        let range = self.request.range;
        while let Some(rest) = range.skip(sink.filler().done()) {
            if self.pause(sink.filler().done()) == Flow::Stop {
                return PinCause::Interrupted.at(range.start());
            }
            if self.pin_part(sink, rest).is_err() {
                // The call that is repeated will say why; it must not lack words for that.
                let need = PinTable::words_for(&range, range.base()).unwrap_or(usize::MAX);
                return PinCause::Table(TableError::NoSpace { need }).at(range.start());
            }
        }
        sink.filler().check().err().map_or(error, |error| PinCause::Table(error).at(range.start()))
    }

    fn pause(&self, done: PageCount) -> Flow {
        self.host.wait().pause(Progress { done, total: self.request.range.pages() })
    }
}

/// Gives back what a closed or half-filled table holds.
fn give_back<H: Host, S: PinSource>(
    host: &H,
    source: &S,
    table: &PinTable<'_>,
    geometry: Geometry,
    dirtied: Dirtied,
) -> Unpinned {
    let (chunk, base, total) = (source.chunk().pages(), source.base(), geometry.pages());
    let step = Step::of(host.wait()).entries();
    let full = Left { words: step, calls: step, pages: chunk.raw() };
    let pause = |left: &mut Left, done| {
        *left = full;
        // Giving back cannot be undone, so it cannot be stopped either.
        let _ = host.wait().pause(Progress { done, total });
    };
    let mut left = full;
    let mut report = Unpinned { pages: PageCount::ZERO, runs: 0, dirtied: 0 };
    let mut runs = table.held(geometry);
    while !runs.ended() {
        if left.words == 0 {
            pause(&mut left, report.pages);
        }
        let Some(run) = runs.next_within(&mut left.words) else { continue };
        let dirty = run.dirty || dirtied == Dirtied::All;
        let mut at = PageCount::ZERO;
        while let Some(piece) = piece(&run, at, chunk, base) {
            if left.calls == 0 || left.pages == 0 {
                pause(&mut left, report.pages);
            }
            source.unpin(Run { dirty, ..piece });
            report.runs += 1;
            report.dirtied += u64::from(dirty);
            report.pages = PageCount::new(report.pages.raw() + piece.pages.raw());
            at = PageCount::new(at.raw() + piece.pages.raw());
            left.calls -= 1;
            left.pages = left.pages.saturating_sub(piece.pages.raw());
        }
    }
    report
}

/// What may be done before the next pause.
#[derive(Clone, Copy)]
struct Left {
    /// Words of the table that are read.
    words: u64,
    /// Calls of the source.
    calls: u64,
    /// Pages that the source gives back: its own work goes by those.
    pages: u64,
}

/// At most `step` pages of the run, from page `at` on.
fn piece(run: &Run, at: PageCount, step: PageCount, base: PageShift) -> Option<Run> {
    let left = run.pages.raw().checked_sub(at.raw()).filter(|left| *left != 0)?;
    let va = run.va.checked_add(at.bytes(base)?)?;
    let pfn = run.pfn.checked_add(at)?;
    Some(Run { va, pfn, pages: PageCount::new(left.min(step.raw())), dirty: run.dirty })
}
