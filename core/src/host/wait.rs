//! Waiting, progress, cancelling, and the bracket around spin locks.

use pinfold_arch::PageCount;

/// What [`Wait::enter`] must remember for [`Wait::leave`] (an interrupt flag).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saved(pub u64);

/// How far a long call has come, in base pages of its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Done so far.
    pub done: PageCount,
    /// In all.
    pub total: PageCount,
}

/// Whether a long call shall go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Flow {
    /// Go on.
    Continue,
    /// Stop: the call rolls back and reports that it was interrupted.
    Stop,
}

/// Waiting and locking discipline. What goes wrong otherwise:
/// [`enter-leave`](super::duties#enter-leave), [`pause`](super::duties#pause),
/// [`pause-yields`](super::duties#pause-yields).
pub trait Wait {
    /// Called before a spin lock is taken; a kernel masks interrupts here.
    fn enter(&self) -> Saved {
        Saved(0)
    }

    /// Called after the lock was released, with what `enter` returned.
    fn leave(&self, saved: Saved) {
        let _ = saved;
    }

    /// Called between two bounded steps of a long call, and while waiting for somebody else:
    /// the place to yield, to show progress, to see a signal.
    ///
    /// # Context
    /// May sleep. No lock and no walk guard is held.
    fn pause(&self, progress: Progress) -> Flow;
}

/// Spins: never yields, never stops.
#[derive(Clone, Copy, Debug)]
pub struct SpinWait;

impl Wait for SpinWait {
    fn pause(&self, _: Progress) -> Flow {
        core::hint::spin_loop();
        Flow::Continue
    }
}
