//! The fast way: no lock, no sleep, accept or defer.
//!
//! In a batch, runs are collected from a page table first, and their frames' words fetched ahead;
//! then they are accepted together: look at each folio, ask the policy, take the count, *then*
//! compare the page-table entries again. Whoever changes a mapping clears the entry first and
//! looks for counts afterwards, so one of the two sees the other.

use pinfold_arch::{Access, AddrRange, PageCount, PageFormat, Pfn, Rights};

use super::Call;
use super::unpin::{pieces, put_pins};
use crate::folio::{Folio, FolioFlags, FolioKind, Why};
use crate::frames::{CountError, Lost};
use crate::host::{GupHost, Mapping, Reclaim, SpaceId, WalkGuard};
use crate::policy::{self, Refusal, Verdict};
use crate::request::PinFlags;
use crate::space::Sequence;
use crate::table::fill::Filler;
use crate::walk::range::{Look, Next, Run, Source};
use crate::walk::{RangeWalk, WalkError};

/// Entries walked in a batch, and runs counted; the last table or group of each is completed. This
/// bounds the work between two pauses.
const ENTRIES: u64 = 4096;
/// Runs that are counted together before their entries are compared again.
pub(super) const RUNS: usize = 64;
/// Counting operations before that, for folios smaller than what maps them.
const PIECES: u64 = 4096;

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
    Move {
        /// What is in the way.
        folio: Folio,
        /// Why it cannot stay.
        why: Why,
        /// The frame that is wanted.
        pfn: Pfn,
        /// Pages of the same run from it on: what comes next may have to move too.
        run: PageCount,
    },
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

/// What was counted of one run, from its start.
#[derive(Clone, Copy)]
struct Counted {
    pages: PageCount,
    /// Folios they lie in.
    pieces: u64,
}

impl Counted {
    #[inline]
    fn add(&mut self, pages: PageCount, pieces: u64) {
        self.pages = PageCount::new(self.pages.raw() + pages.raw());
        self.pieces += pieces;
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
            Ok(walk) => walk,
            Err(error) => return Stopped::Defer(Defer::Walk(error)),
        };
    let frames = call.frames;
    let mut after = Stopped::BatchFull;
    let mut pieces_left = PIECES;
    while walk.entries() < ENTRIES {
        let mut runs = heapless::Vec::<Run, RUNS>::new();
        let look = Look { runs: call.look, absent: 1 };
        let taken = match walk.next_runs(&mut runs, look, |pfn| frames.prefetch(pfn)) {
            Ok(Next::Runs(source)) => {
                accept(call, filler, &source, &runs, known, fork, &mut pieces_left)
            }
            Ok(Next::Hole(_)) => Err(Defer::Fault),
            Ok(Next::End) => break,
            Err(error) => Err(Defer::Walk(error)),
        };
        match taken {
            Ok(Taken::All) if filler.check().is_ok() => call.look = (call.look * 2).min(RUNS),
            Ok(_) => break,
            Err(why) => {
                // What was read ahead is read again: less of it, where it was in vain.
                call.look = 1;
                after = Stopped::Defer(why);
                break;
            }
        }
    }
    call.report.tables += walk.tables();
    call.report.entries += walk.entries();
    drop(guard);
    after
}

/// How far a group of runs was pinned when nothing was in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    All,
    /// As much as may be done at once.
    Part,
}

/// Pins runs of one table, in order: counts them, compares their entries again, and records them.
#[inline(never)]
fn accept<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    filler: &mut Filler<'_>,
    source: &Source<'_>,
    runs: &[Run],
    known: Option<(Mapping, Sequence)>,
    fork: Sequence,
    pieces_left: &mut u64,
) -> Result<Taken, Defer> {
    let Some(first) = runs.first() else { return Ok(Taken::All) };
    let base = call.frames.base();
    let mut counted = heapless::Vec::<Counted, RUNS>::new();
    let mapping = known.map(|(mapping, _)| mapping);
    let mut result = count(call, runs, mapping, pieces_left, &mut counted);

    let mut intact = Ok(());
    if call.space.fork_sequence() != Some(fork) {
        // A fork that began meanwhile may have missed the counts and shared the pages.
        intact = Err(Defer::Fork);
    } else if known.is_some_and(|(_, sequence)| call.space.sequence() != Some(sequence)) {
        // What was allowed because of the mapping may not be allowed any more.
        intact = Err(Defer::Changed(first.pfn));
    } else if !source.parent_unchanged() {
        intact = Err(Defer::Changed(first.pfn));
    }
    if result.is_err() && intact.is_ok() {
        // The frame that is in the way may have been moved and freed since its entry was read: it
        // counts only if it is still mapped.
        let stopped = runs.iter().zip(&counted).take_while(|(run, done)| run.pages == done.pages);
        let stopped = stopped.count();
        let done = counted.get(stopped).map_or(PageCount::ZERO, |counted| counted.pages);
        if let Some(run) = runs.get(stopped) {
            if !source.unchanged(run, done, PageCount::ONE, base) {
                result = Err(Defer::Changed(run.pfn));
            } else if let Err(Defer::Move { run: left, .. }) = &mut result {
                *left = PageCount::new(run.pages.raw() - done.raw());
            }
        }
    }
    for (run, counted) in runs.iter().zip(&counted) {
        if intact.is_ok() && !source.unchanged(run, PageCount::ZERO, counted.pages, base) {
            intact = Err(Defer::Changed(run.pfn));
        }
        match intact {
            Ok(()) => record(call, filler, run.pfn, counted),
            Err(_) => give_up(call, run.pfn, counted.pages),
        }
    }
    intact.and(result)
}

/// Counts runs, as far as they may be pinned. What was counted is in `counted`, run by run.
// Once for many runs: its loops need the registers more than they need to be inline.
#[inline(never)]
fn count<H: GupHost, F: PageFormat>(
    call: &Call<'_, '_, H, F>,
    runs: &[Run],
    mapping: Option<Mapping>,
    pieces_left: &mut u64,
    counted: &mut heapless::Vec<Counted, RUNS>,
) -> Result<Taken, Defer> {
    let mut known = None;
    let needed = Rights::needed(call.request.access);
    for run in runs {
        if !run.rights.contains(needed) {
            return Err(Defer::Fault);
        }
        let mut sum = Counted { pages: PageCount::ZERO, pieces: 0 };
        // Mostly all of a run is like what came before.
        let mut result = count_alike(call, run, *pieces_left, known, &mut sum).map(|()| Taken::All);
        if sum.pages != run.pages && result.is_ok() {
            result = count_rest(call, run, *pieces_left, mapping, &mut known, &mut sum);
        }
        if sum.pieces != 0 {
            let _ = counted.push(sum);
            *pieces_left -= sum.pieces;
        }
        let Ok(Taken::All) = result else { return result };
    }
    Ok(Taken::All)
}

/// Counts what is left of a run, folio by folio, until `sum` has `most` operations.
///
/// `known` is the state of the single frame that the policy permitted last. Others in the same
/// state are permitted too: nothing else that the policy looks at changes within a batch.
#[inline(never)]
fn count_rest<H: GupHost, F: PageFormat>(
    call: &Call<'_, '_, H, F>,
    run: &Run,
    most: u64,
    mapping: Option<Mapping>,
    known: &mut Option<u64>,
    sum: &mut Counted,
) -> Result<Taken, Defer> {
    while sum.pages < run.pages {
        if sum.pieces == most {
            return Ok(Taken::Part);
        }
        let pfn = run.pfn.checked_add(sum.pages).ok_or(Defer::NotMemory(run.pfn))?;
        let folio = permitted(call, pfn, mapping)?;
        let in_folio = folio.order().pages().raw() - (pfn.raw() - folio.head().raw());
        let pages = PageCount::new(in_folio.min(run.pages.raw() - sum.pages.raw()));
        call.frames.pin(folio, pages).map_err(|lost| not_counted(call, folio.head(), lost))?;
        sum.add(pages, 1);
        if folio.is_single() {
            *known = Some(folio.raw);
            count_alike(call, run, most, *known, sum)?;
        }
    }
    Ok(Taken::All)
}

/// Counts single frames as long as their state is the one that is `known` to be permitted.
#[inline(always)]
fn count_alike<H: GupHost, F>(
    call: &Call<'_, '_, H, F>,
    run: &Run,
    most: u64,
    known: Option<u64>,
    sum: &mut Counted,
) -> Result<(), Defer> {
    let Some(raw) = known else { return Ok(()) };
    let from = Pfn::new(run.pfn.raw() + sum.pages.raw());
    let most = (run.pages.raw() - sum.pages.raw()).min(most - sum.pieces);
    let (pages, result) = call.frames.pin_alike(raw, from, PageCount::new(most));
    sum.add(pages, pages.raw());
    let stopped = Pfn::new(from.raw() + pages.raw());
    result.map_err(|lost| not_counted(call, stopped, lost))
}

/// What to do about a folio at `pfn` that was not counted.
#[cold]
fn not_counted<H: GupHost, F>(call: &Call<'_, '_, H, F>, pfn: Pfn, lost: Lost<'_>) -> Defer {
    if let Some(last) = lost.last {
        call.host.reclaim().reclaim(last);
    }
    match lost.error {
        CountError::Overflow => Defer::Overflow(pfn),
        _ => Defer::Changed(pfn),
    }
}

/// The folio of a frame, if it may be pinned.
#[inline]
fn permitted<H: GupHost, F: PageFormat>(
    call: &Call<'_, '_, H, F>,
    pfn: Pfn,
    mapping: Option<Mapping>,
) -> Result<Folio, Defer> {
    let Some(folio) = call.frames.folio(pfn) else {
        let known = call.frames.has_memory(pfn);
        return Err(if known { Defer::Changed(pfn) } else { Defer::NotMemory(pfn) });
    };
    allowed(call, folio, pfn, mapping)?;
    Ok(folio)
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
            Verdict::Move(why) => {
                return Err(Defer::Move { folio, why, pfn, run: PageCount::ONE });
            }
            Verdict::Refuse(refusal) => return Err(Defer::Refused(refusal)),
        }
    }
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
    if info.flags.contains(FolioFlags::EXCLUSIVE) {
        return Ok(());
    }
    // It is not the mapping's own: a later write of the process would put another in its place.
    // For private memory that matters however short the pin is, for the rest only in the long
    // run; and of hugetlb memory only the mapping knows whether it is private.
    match info.kind {
        FolioKind::Anonymous | FolioKind::DeviceCoherent
            if !info.flags.contains(FolioFlags::ZERO) =>
        {
            return Err(Defer::Unshare);
        }
        FolioKind::Hugetlb => {}
        _ if longterm => {}
        _ => return Ok(()),
    }
    match mapping {
        None => Err(Defer::NeedsMapping),
        Some(mapping) if mapping.copies_on_write() => Err(Defer::Unshare),
        Some(_) => Ok(()),
    }
}

/// Records pages that were counted.
#[inline]
fn record<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    filler: &mut Filler<'_>,
    pfn: Pfn,
    counted: &Counted,
) {
    call.report.runs += counted.pieces;
    let recorded = if counted.pieces == counted.pages.raw() {
        filler.place_singles(pfn, counted.pages)
    } else {
        let mut recorded = PageCount::ZERO;
        for (_, pfn, pages) in pieces(&call.frames, pfn, counted.pages) {
            let more = filler.place(pfn, pages);
            recorded = PageCount::new(recorded.raw() + more.raw());
        }
        recorded
    };
    if recorded != counted.pages
        && let Some(pfn) = pfn.checked_add(recorded)
    {
        // No words left: what is not recorded is given back here, the rest by the caller.
        give_up(call, pfn, PageCount::new(counted.pages.raw() - recorded.raw()));
    }
}

/// Takes back pins that this batch took.
#[cold]
fn give_up<H: GupHost, F>(call: &Call<'_, '_, H, F>, pfn: Pfn, pages: PageCount) {
    for (folio, _, pages) in pieces(&call.frames, pfn, pages) {
        let given = put_pins(call.host, &call.frames, folio, pages);
        debug_assert!(given.is_ok(), "pins of this batch are missing");
    }
}
