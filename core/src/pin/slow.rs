//! The slow way: whatever kept the fast way from going on, one page at a time. May sleep; holds no
//! lock, no walk guard, and no count on the folio in question.

use pinfold_arch::{Access, PageCount, PageFormat, Pfn, VirtAddr};

use super::defer::Defer;
use super::{Call, PinCause};
use crate::folio::Folio;
use crate::host::{Event, Fault, FaultIn, Flow, GupHost, Mappings, Trace, Wait};
use crate::policy::migrate::{Moved, move_folio};
use crate::policy::{self, Verdict};
use crate::request::PinFlags;

/// How often one page is faulted in before the faults are said to lead nowhere.
const FAULTS: u32 = 16;
/// How often the folio behind one page is moved before the host is said to move it to no better
/// place.
const MOVES: u32 = 16;
/// Folios that are moved before the page tables are read again.
const AHEAD: usize = 64;
/// How often one page is waited for.
const WAITS: u32 = 1 << 16;

/// What is left of the patience with one page; renewed when the call gets past it.
#[derive(Debug)]
pub(super) struct Patience {
    faults: u32,
    moves: u32,
    waits: u32,
}

impl Patience {
    pub(super) const fn new() -> Self {
        Self { faults: FAULTS, moves: MOVES, waits: WAITS }
    }

    fn fault(&mut self) -> Result<(), PinCause> {
        self.faults = self.faults.checked_sub(1).ok_or(PinCause::FaultLoop)?;
        Ok(())
    }

    fn moved(&mut self, pfn: Pfn) -> Result<(), PinCause> {
        self.moves = self.moves.checked_sub(1).ok_or(PinCause::Busy { pfn: Some(pfn) })?;
        Ok(())
    }

    fn wait(&mut self, pfn: Option<Pfn>) -> Result<(), PinCause> {
        self.waits = self.waits.checked_sub(1).ok_or(PinCause::Busy { pfn })?;
        Ok(())
    }
}

/// Removes what stands in the way at `at`, or says why that cannot be. Where there is nothing to do
/// but to let others go on, it does nothing: the caller pauses after each call.
pub(super) fn resolve<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    at: VirtAddr,
    why: Defer,
    done: PageCount,
    patience: &mut Patience,
) -> Result<(), PinCause> {
    // The mapping first: what it forbids is the better answer, whatever is in the page tables.
    let Some(sequence) = call.space.sequence() else { return patience.wait(None) };
    let mapping = call.host.mappings().mapping(call.space.id(), at);
    let mapping =
        mapping.filter(|mapping| mapping.range.contains(at)).ok_or(PinCause::NotMapped)?;
    policy::mapping(&mapping, call.request.access, call.request.flags)?;
    call.known = Some((mapping, sequence));

    match why {
        Defer::Fault => fault(call, at, false, patience),
        Defer::Unshare => fault(call, at, true, patience),
        Defer::Move { folio, why, pfn, run } => {
            match move_folio(call.host, &call.frames, folio, why, at, call.progress(done)) {
                Moved::Yes => {
                    call.report.migrated += 1;
                    patience.moved(pfn)?;
                    move_ahead(call, pfn, folio, run, at, done)
                }
                Moved::Elsewhere => {
                    call.host.trace().event(Event::Waiting { at, folio: folio.head() });
                    patience.wait(Some(folio.head()))
                }
                Moved::No(error) => Err(PinCause::Unmovable {
                    folio: folio.head(),
                    order: folio.order(),
                    why,
                    error,
                }),
                Moved::Stopped => Err(PinCause::Interrupted),
            }
        }
        Defer::NeedsMapping | Defer::Fork => patience.wait(None),
        Defer::Changed(pfn) => patience.wait(Some(pfn)),
        Defer::Refused(refusal) => Err(PinCause::Refused(refusal)),
        Defer::NotMemory(pfn) => Err(PinCause::NotMemory { pfn }),
        Defer::Overflow(folio) => Err(PinCause::Overflow { folio }),
        Defer::Walk(error) => Err(PinCause::Walk(error)),
    }
}

/// Moves what comes behind a folio that was moved, in the same run, and must move too: so the page
/// tables are not read again for each. What cannot be moved is left for the walk to come by and
/// report.
fn move_ahead<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    first: Pfn,
    moved: Folio,
    run: PageCount,
    at: VirtAddr,
    done: PageCount,
) -> Result<(), PinCause> {
    let mut next = moved.head().checked_add(moved.order().pages());
    for _ in 0..AHEAD {
        let Some(pfn) = next.filter(|pfn| pfn.raw() - first.raw() < run.raw()) else { break };
        let Some(folio) = call.frames.folio(pfn).filter(|folio| folio.head() == pfn) else { break };
        let Verdict::Move(why) = policy::verdict(folio.info()) else { break };
        let behind = PageCount::new(pfn.raw() - first.raw());
        let Some(at) = behind.bytes(call.frames.base()).and_then(|bytes| at.checked_add(bytes))
        else {
            break;
        };
        match move_folio(call.host, &call.frames, folio, why, at, call.progress(done)) {
            Moved::Yes => call.report.migrated += 1,
            Moved::Stopped => return Err(PinCause::Interrupted),
            Moved::Elsewhere | Moved::No(_) => break,
        }
        if call.host.wait().pause(call.progress(done)) == Flow::Stop {
            return Err(PinCause::Interrupted);
        }
        next = pfn.checked_add(folio.order().pages());
    }
    Ok(())
}

/// Has the page made present with the access, or private.
fn fault<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    at: VirtAddr,
    unshare: bool,
    patience: &mut Patience,
) -> Result<(), PinCause> {
    if call.request.flags.contains(PinFlags::NOFAULT) {
        return Err(PinCause::NotPresent);
    }
    patience.fault()?;
    let access = if unshare { Access::READ } else { call.request.access };
    let longterm = call.request.flags.contains(PinFlags::LONGTERM);
    call.host.fault().fault_in(call.space.id(), at, Fault { access, unshare, longterm })?;
    call.report.faults += 1;
    call.host.trace().event(Event::Faulted { at, unshare });
    Ok(())
}
