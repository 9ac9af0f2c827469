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
    /// The most entries that a call handles between two calls of [`pause`](Self::pause); 0 counts
    /// as 1. Always the same answer.
    ///
    /// Entries are page-table entries read, folios counted, and words of a pin table read or
    /// written: of each kind at most so many, also while pins are given back. Beside that comes only
    /// what does not grow with the range: entries that lead from the root to the first one, and, for a
    /// folio that is mapped off its alignment or cut by the range, the words of four nodes of the
    /// table (2048), and at the ends of a registered range those of six nodes of the directory (3120).
    /// Below 512 it is a granule too: folios that are larger are recorded in parts.
    ///
    /// Of the tables of an IOMMU: entries read or written, and beside them those of one table that is made or
    /// split, or of one leaf that takes several.
    fn step(&self) -> u64 {
        4096
    }

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

/// How much is done between two pauses, see [`Wait::step`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step(u64);

impl Step {
    pub(crate) fn of<W: Wait>(wait: &W) -> Self {
        Self::new(wait.step())
    }

    pub(crate) fn new(entries: u64) -> Self {
        Self(entries.max(1))
    }

    /// Entries in a step: one at least.
    pub(crate) fn entries(self) -> u64 {
        self.0
    }

    /// Entries of a page table that are taken together: a power of two, at most a step, and at most
    /// what a node of a pin table has.
    pub(crate) fn block(self) -> u16 {
        1 << self.0.checked_ilog2().unwrap_or(0).min(9)
    }
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
