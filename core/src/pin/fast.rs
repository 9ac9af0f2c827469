//! The fast way: no lock, no sleep, accept or defer.
//!
//! Runs are collected from a page table, a group at a time, and accepted together, in
//! [`batch`](super::batch). Meanwhile the frames of the next group, which was read before, are
//! fetched from memory.

use pinfold_arch::{AddrRange, PageCount, PageFormat, Rights};

use super::Call;
use super::batch::{AHEAD, Batch, Taken, fetch};
use super::defer::Defer;
use crate::host::{GupHost, Mapping, SpaceId, Step, WalkGuard};
use crate::space::Sequence;
use crate::table::fill::Filler;
use crate::walk::RangeWalk;
use crate::walk::range::{Look, Next, Run};

/// Runs that are counted together before their entries are compared again.
pub(super) const RUNS: usize = 64;

/// Why the fast way stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopped {
    /// The batch is complete, or the range.
    BatchFull,
    /// The next page needs the slow way.
    Defer(Defer),
}

/// While it lives, no page-table page of the space is freed.
pub(super) struct Guard<'a, G: WalkGuard> {
    guard: &'a G,
    space: SpaceId,
    saved: u64,
}

impl<'a, G: WalkGuard> Guard<'a, G> {
    pub(super) fn enter(guard: &'a G, space: SpaceId) -> Self {
        Self { guard, space, saved: guard.enter(space) }
    }
}

impl<G: WalkGuard> Drop for Guard<'_, G> {
    fn drop(&mut self) {
        self.guard.leave(self.space, self.saved);
    }
}

/// Pins one batch from the start of `rest` and records it.
pub(crate) fn advance<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    filler: &mut Filler<'_>,
    rest: AddrRange,
    known: Option<(Mapping, Sequence)>,
) -> Stopped {
    // What is known of a mapping holds for its own addresses only.
    let inside = known.and_then(|(mapping, _)| {
        let last = mapping.range.last().raw().min(rest.last().raw());
        let pages = ((last - rest.start().raw()) >> rest.base().raw()) + 1;
        rest.take(PageCount::new(pages))
    });
    let range = inside.unwrap_or(rest);
    let Some(fork) = call.space.fork_sequence() else { return Stopped::Defer(Defer::Fork) };

    let host = call.host;
    let guard = Guard::enter(host.guard(), call.space.id());
    let mut walk =
        match RangeWalk::new(call.space.format(), call.space.root(), host.memory(), range) {
            Ok(walk) => walk.bounded(Step::of(host.wait())),
            Err(error) => return Stopped::Defer(Defer::Walk(error)),
        };
    let frames = call.frames;
    let rights = Rights::needed(call.request.access);
    let mut batch = Batch::new(known, fork, Step::of(host.wait()));
    let (mut one, mut other) = (heapless::Vec::<Run, RUNS>::new(), heapless::Vec::new());
    let (mut runs, mut ahead) = (&mut one, &mut other);
    let mut found = walk.next_runs(runs, Look { runs: call.look, absent: 1, rights });
    fetch(&frames, runs.iter().take(AHEAD));
    let stopped = loop {
        let taken = match found {
            Ok(Next::Runs(source)) => {
                found = walk.next_runs(ahead, Look { runs: call.look, absent: 1, rights });
                batch.accept(call, filler, &source, runs, ahead)
            }
            Ok(Next::Hole(_)) => Err(Defer::Fault),
            Ok(Next::End) => break Stopped::BatchFull,
            Err(error) => Err(Defer::Walk(error)),
        };
        match taken {
            Ok(Taken::All) if filler.check().is_ok() => call.look = (call.look * 2).min(RUNS),
            Ok(_) => break Stopped::BatchFull,
            Err(why) => {
                // What was read ahead is read again: less of it, where it was in vain.
                call.look = 1;
                break Stopped::Defer(why);
            }
        }
        core::mem::swap(&mut runs, &mut ahead);
    };
    call.report.tables += walk.tables();
    call.report.entries += walk.entries();
    drop(guard);
    stopped
}
