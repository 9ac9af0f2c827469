//! The fast way: no lock, no sleep, accept or defer.
//!
//! In a batch, runs are collected from the page tables first, and their frames' words fetched
//! ahead; then they are accepted in order. Accepting a run: look at the folio, ask the policy,
//! take the count, *then* compare the page-table entries again. Whoever changes a mapping clears
//! the entry first and looks for counts afterwards, so one of the two sees the other.

use pinfold_arch::{Access, AddrRange, PageCount, PageFormat, Pfn};

use super::Call;
use super::unpin::put_pins;
use crate::folio::{Folio, FolioFlags, FolioKind, Why};
use crate::frames::{CountError, Lost};
use crate::host::{GupHost, Mapping, Reclaim, SpaceId, WalkGuard};
use crate::policy::{self, Refusal, Verdict};
use crate::request::PinFlags;
use crate::space::Sequence;
use crate::table::fill::Filler;
use crate::walk::{Extent, LeafRun, RangeWalk, WalkError};

/// Runs in a batch. A run is at most one table long, so this bounds the work between two pauses.
const RUNS: usize = 32;
/// Pieces of one run that are counted before the entries are compared again.
const PIECES: usize = 64;

/// Why the fast way stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopped {
    /// The batch is complete, or the range.
    BatchFull,
    /// The next page needs the slow way.
    Defer(Defer),
}

/// What the slow way has to see to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Defer {
    /// Nothing present, or not with the access: a fault may help.
    Fault,
    /// A read-only pin of a page that a later write would replace: make it private first.
    Unshare,
    /// The answer depends on the mapping, which is not known here.
    NeedsMapping,
    /// The folio must be moved first.
    Move(Folio, Why),
    /// The memory may never be pinned like this.
    Refused(Refusal),
    /// The frame is no known memory.
    NotMemory(Pfn),
    /// The folio was being moved, freed or changed, or its entry was.
    Changed(Pfn),
    /// The folio's count is at its limit.
    Overflow(Pfn),
    /// A fork of the space is under way.
    Fork,
    /// The walk failed.
    Walk(WalkError),
}

/// While it lives, no page-table page of the space is freed.
struct Guard<'a, G: WalkGuard> {
    guard: &'a G,
    space: SpaceId,
    saved: u64,
}

impl<'a, G: WalkGuard> Guard<'a, G> {
    fn enter(guard: &'a G, space: SpaceId) -> Self {
        Self { guard, space, saved: guard.enter(space) }
    }
}

impl<G: WalkGuard> Drop for Guard<'_, G> {
    fn drop(&mut self) {
        self.guard.leave(self.space, self.saved);
    }
}

/// A counted part of one folio.
#[derive(Clone, Copy)]
struct Piece {
    folio: Folio,
    pfn: Pfn,
    pages: PageCount,
}

/// Pins one batch from the start of `rest` and records it.
pub(crate) fn advance<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    filler: &mut Filler<'_>,
    rest: AddrRange,
    mapping: Option<Mapping>,
) -> Stopped {
    // What is known of a mapping holds for its own addresses only.
    let inside = mapping.and_then(|mapping| {
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
            Ok(walk) => walk,
            Err(error) => return Stopped::Defer(Defer::Walk(error)),
        };
    let mut batch = heapless::Vec::<LeafRun<'_>, RUNS>::new();
    let mut after = Stopped::BatchFull;
    while !batch.is_full() {
        match walk.next_extent() {
            Ok(Some(Extent::Leaf(run))) => {
                call.frames.prefetch(run.pfn);
                let _ = batch.push(run);
            }
            Ok(Some(Extent::Hole { .. })) => after = Stopped::Defer(Defer::Fault),
            Ok(None) => break,
            Err(error) => after = Stopped::Defer(Defer::Walk(error)),
        }
        if after != Stopped::BatchFull {
            break;
        }
    }
    call.report.tables += walk.tables();
    call.report.entries += walk.entries();

    for run in &batch {
        if let Err(why) = accept(call, filler, run, mapping, fork) {
            after = Stopped::Defer(why);
            break;
        }
        if filler.check().is_err() {
            break;
        }
    }
    drop(guard);
    after
}

/// Pins one run, piece by piece, and records what was pinned.
fn accept<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    filler: &mut Filler<'_>,
    run: &LeafRun<'_>,
    mapping: Option<Mapping>,
    fork: Sequence,
) -> Result<(), Defer> {
    if !run.rights.allow(call.request.access) {
        return Err(Defer::Fault);
    }
    let base = call.frames.base();
    let mut done = PageCount::ZERO;
    while done < run.pages {
        let mut pieces = heapless::Vec::<Piece, PIECES>::new();
        let mut end = done;
        let mut why = None;
        while end < run.pages && !pieces.is_full() {
            match pin_piece(call, run, end, mapping) {
                Ok(piece) => {
                    end = PageCount::new(end.raw() + piece.pages.raw());
                    let _ = pieces.push(piece);
                }
                Err(defer) => {
                    why = Some(defer);
                    break;
                }
            }
        }
        let counted = PageCount::new(end.raw() - done.raw());
        if !pieces.is_empty() {
            // A fork that began meanwhile may have missed the counts and shared the pages.
            let forked = call.space.fork_sequence() != Some(fork);
            if forked || !run.unchanged(done, counted, base) {
                for piece in &pieces {
                    give_up(call, piece.folio, piece.pages);
                }
                return Err(if forked { Defer::Fork } else { Defer::Changed(run.pfn) });
            }
        }
        for piece in &pieces {
            call.report.runs += 1;
            let recorded = filler.place(piece.pfn, piece.pages);
            let lost = PageCount::new(piece.pages.raw() - recorded.raw());
            if lost != PageCount::ZERO {
                // No words left: what is not recorded is given back here, the rest by the caller.
                give_up(call, piece.folio, lost);
            }
        }
        if let Some(why) = why {
            return Err(why);
        }
        done = end;
    }
    Ok(())
}

/// Counts the part of the run, from page `from` on, that lies in one folio.
#[inline]
fn pin_piece<H: GupHost, F: PageFormat>(
    call: &Call<'_, '_, H, F>,
    run: &LeafRun<'_>,
    from: PageCount,
    mapping: Option<Mapping>,
) -> Result<Piece, Defer> {
    let pfn = run.pfn.checked_add(from).ok_or(Defer::NotMemory(run.pfn))?;
    let Some(folio) = call.frames.folio(pfn) else {
        let known = call.frames.has_memory(pfn);
        return Err(if known { Defer::Changed(pfn) } else { Defer::NotMemory(pfn) });
    };
    allowed(call, folio, pfn, mapping)?;
    let inside = pfn.raw() - folio.head().raw();
    let left = folio.order().pages().raw() - inside;
    let pages = PageCount::new(left.min(run.pages.raw() - from.raw()));
    match call.frames.pin(folio, pages) {
        Ok(()) => Ok(Piece { folio, pfn, pages }),
        Err(Lost { error: CountError::Overflow, .. }) => Err(Defer::Overflow(folio.head())),
        Err(lost) => {
            if let Some(last) = lost.last {
                call.host.reclaim().reclaim(last);
            }
            Err(Defer::Changed(pfn))
        }
    }
}

/// Whether the folio may be pinned, as far as that can be said here. Without the mapping it answers
/// "needs the mapping" wherever the mapping could matter.
#[inline]
fn allowed<H: GupHost, F: PageFormat>(
    call: &Call<'_, '_, H, F>,
    folio: Folio,
    pfn: Pfn,
    mapping: Option<Mapping>,
) -> Result<(), Defer> {
    let info = folio.info();
    let flags = call.request.flags;
    let longterm = flags.contains(PinFlags::LONGTERM);
    let write = call.request.access.contains(Access::WRITE);
    if longterm {
        match policy::verdict(info) {
            Verdict::Pin => {}
            Verdict::Move(why) => return Err(Defer::Move(folio, why)),
            Verdict::Refuse(refusal) => return Err(Defer::Refused(refusal)),
        }
    }
    let anonymous = info.kind == FolioKind::Anonymous && !info.flags.contains(FolioFlags::ZERO);
    if flags.contains(PinFlags::ANONYMOUS) && mapping.is_none() {
        return Err(Defer::NeedsMapping);
    }
    match info.kind {
        FolioKind::NoMemory => return Err(Defer::NotMemory(pfn)),
        FolioKind::Free | FolioKind::Kernel => return Err(Defer::Refused(Refusal::NotUserMemory)),
        FolioKind::Secret => return Err(Defer::Refused(Refusal::Secret)),
        FolioKind::PeerToPeer if !flags.contains(PinFlags::PEER_TO_PEER) => {
            return Err(Defer::Refused(Refusal::PeerToPeer));
        }
        // A long-term write to a file depends on whether the mapping tracks dirty pages.
        FolioKind::File if longterm && write && mapping.is_none() => {
            return Err(Defer::NeedsMapping);
        }
        _ => {}
    }
    if write {
        return Ok(());
    }
    if anonymous {
        let exclusive = info.flags.contains(FolioFlags::EXCLUSIVE);
        return if exclusive { Ok(()) } else { Err(Defer::Unshare) };
    }
    // A page that is not the mapping's own yet: a later write would put another in its place.
    match mapping {
        _ if !longterm => Ok(()),
        None => Err(Defer::NeedsMapping),
        Some(mapping) if mapping.copies_on_write() => Err(Defer::Unshare),
        Some(_) => Ok(()),
    }
}

/// Takes back pins that this batch took.
fn give_up<H: GupHost, F>(call: &Call<'_, '_, H, F>, folio: Folio, pages: PageCount) {
    let given = put_pins(call.host, &call.frames, folio, pages);
    debug_assert!(given.is_ok(), "pins of this batch are missing");
}
