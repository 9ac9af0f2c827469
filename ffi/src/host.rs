//! The embedder's functions as what the engine asks for.

#![expect(unsafe_code, reason = "calls functions that C provides")]

use core::ffi::c_void;
use core::ptr;

use pinfold::host::{
    Account, Flow, Host, NoTrace, OverLimit, Progress, Saved, SourceError, SpaceId, Wait,
};
use pinfold::source::{HostPins, PinSource, RunSink};
use pinfold::table;
use pinfold::{AccountId, AddrRange, Order, PageCount, PageShift, PinRequest};

use crate::ops::{HostOps, PinPart, PinSink, Run};
use crate::status::{
    PINFOLD_ERR_BUSY, PINFOLD_ERR_INTERRUPTED, PINFOLD_ERR_INVALID_ARGUMENT, PINFOLD_ERR_NO_MEMORY,
    PINFOLD_ERR_NOT_MAPPED, PINFOLD_ERR_OVER_LIMIT, PINFOLD_ERR_OVERFLOW, PINFOLD_ERR_REFUSED,
    PINFOLD_ERR_UNMOVABLE, PINFOLD_OK, Status,
};

/// The smallest base page.
const SMALLEST_PAGE: u8 = 12;
/// The part that `pin` is called for when the embedder does not say.
const CHUNK: u32 = 9;
/// Entries between two pauses when the embedder does not say.
const STEP: u64 = 4096;

type PinHook = unsafe extern "C" fn(*mut c_void, *const PinPart, *mut PinSink) -> i32;
type UnpinHook = unsafe extern "C" fn(*mut c_void, *const Run);

/// Waiting and accounting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hooks {
    ops: HostOps,
}

/// Pinning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    ctx: *mut c_void,
    base: PageShift,
    chunk: Order,
    pin: PinHook,
    unpin: UnpinHook,
}

/// The pins of a host in C.
pub(crate) type Pins = HostPins<Hooks, Source>;

/// Checks what the embedder gave.
pub(crate) fn pins(ops: HostOps) -> Result<Pins, Status> {
    let invalid = PINFOLD_ERR_INVALID_ARGUMENT;
    let chunk = if ops.chunk_order == 0 { CHUNK } else { ops.chunk_order };
    let source = Source {
        ctx: ops.ctx,
        base: page_shift(ops.page_shift)?,
        chunk: u8::try_from(chunk).ok().and_then(Order::new).ok_or(invalid)?,
        pin: ops.pin.ok_or(invalid)?,
        unpin: ops.unpin.ok_or(invalid)?,
    };
    let halves = ops.enter.is_some() != ops.leave.is_some()
        || ops.charge.is_some() != ops.uncharge.is_some();
    if halves { Err(invalid) } else { Ok(HostPins::new(Hooks { ops }, source)) }
}

/// A base page size from C.
pub(crate) fn page_shift(shift: u32) -> Result<PageShift, Status> {
    u8::try_from(shift)
        .ok()
        .filter(|shift| *shift >= SMALLEST_PAGE)
        .and_then(PageShift::new)
        .ok_or(PINFOLD_ERR_INVALID_ARGUMENT)
}

impl Wait for Hooks {
    fn step(&self) -> u64 {
        if self.ops.step == 0 { STEP } else { self.ops.step }
    }

    fn enter(&self) -> Saved {
        // SAFETY: the embedder's function, with its own context; checked at init.
        Saved(self.ops.enter.map_or(0, |enter| unsafe { enter(self.ops.ctx) }))
    }

    fn leave(&self, saved: Saved) {
        if let Some(leave) = self.ops.leave {
            // SAFETY: the embedder's function, with its own context and what `enter` returned.
            unsafe { leave(self.ops.ctx, saved.0) }
        }
    }

    fn pause(&self, progress: Progress) -> Flow {
        let Some(pause) = self.ops.pause else {
            core::hint::spin_loop();
            return Flow::Continue;
        };
        let (done, total) = (progress.done.raw(), progress.total.raw());
        // SAFETY: the embedder's function, with its own context.
        let answer = unsafe { pause(self.ops.ctx, done, total) };
        if answer == 0 { Flow::Continue } else { Flow::Stop }
    }
}

impl Account for Hooks {
    fn charge(&self, account: AccountId, pages: PageCount) -> Result<(), OverLimit> {
        let Some(charge) = self.ops.charge else { return Ok(()) };
        // SAFETY: the embedder's function, with its own context.
        let answer = unsafe { charge(self.ops.ctx, account.0, pages.raw()) };
        if answer == 0 { Ok(()) } else { Err(OverLimit) }
    }

    fn uncharge(&self, account: AccountId, pages: PageCount) {
        if let Some(uncharge) = self.ops.uncharge {
            // SAFETY: the embedder's function, with its own context and what was charged.
            unsafe { uncharge(self.ops.ctx, account.0, pages.raw()) }
        }
    }
}

impl Host for Hooks {
    type Wait = Self;
    type Account = Self;
    type Trace = NoTrace;

    fn wait(&self) -> &Self {
        self
    }
    fn account(&self) -> &Self {
        self
    }
    fn trace(&self) -> &NoTrace {
        &NoTrace
    }
}

impl PinSource for Source {
    fn base(&self) -> PageShift {
        self.base
    }

    fn chunk(&self) -> Order {
        self.chunk
    }

    fn pin(
        &self,
        space: SpaceId,
        part: AddrRange,
        request: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        let part = PinPart {
            size: size_of::<PinPart>(),
            space: space.0,
            start: part.start().raw(),
            pages: part.pages().raw(),
            access: u32::from(request.access.bits()),
            flags: request.flags.bits(),
            holder: request.holder.0,
            account: request.account.0,
            revocable: u32::from(request.revocable),
            reserved: 0,
        };
        let sink = ptr::from_mut(runs).cast::<PinSink>();
        // SAFETY: the embedder's function, with its own context; both pointers live until it returns,
        // and the sink is touched by nobody else meanwhile.
        answer(unsafe { (self.pin)(self.ctx, &raw const part, sink) })
    }

    fn unpin(&self, run: table::Run) {
        let run = Run {
            size: size_of::<Run>(),
            va: run.va.raw(),
            pfn: run.pfn.raw(),
            pages: run.pages.raw(),
            dirty: u32::from(run.dirty),
            reserved: 0,
        };
        // SAFETY: the embedder's function, with its own context; the run lives until it returns.
        unsafe { (self.unpin)(self.ctx, &raw const run) }
    }
}

/// What the pin hook said.
fn answer(code: i32) -> Result<(), SourceError> {
    Err(match code {
        PINFOLD_OK => return Ok(()),
        PINFOLD_ERR_NOT_MAPPED => SourceError::NotMapped,
        PINFOLD_ERR_REFUSED => SourceError::Refused,
        PINFOLD_ERR_UNMOVABLE => SourceError::Unmovable,
        PINFOLD_ERR_BUSY => SourceError::Busy,
        PINFOLD_ERR_NO_MEMORY => SourceError::NoMemory,
        PINFOLD_ERR_OVER_LIMIT => SourceError::OverLimit,
        PINFOLD_ERR_OVERFLOW => SourceError::Overflow,
        PINFOLD_ERR_INTERRUPTED => SourceError::Interrupted,
        code => SourceError::Unknown { code },
    })
}
