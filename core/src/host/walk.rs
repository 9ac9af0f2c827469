//! The walk guard: while it is held no page-table page of the space is freed or reused.

use super::space::SpaceId;

/// Keeps page-table pages of a space in place while they are read without a lock.
///
/// Between `enter` and `leave` no table page of the space may be freed, reused or poisoned;
/// entries may change at will. The usual ways: interrupts off where freeing needs an interrupt
/// on every CPU; an RCU read section where tables are freed after a grace period; the lock
/// that freeing takes. Re-reading an entry after the pin does *not* cover a table page that was
/// freed and reused, this guard does. Held for one batch at a time.
///
/// What goes wrong otherwise: [`walk-guard`](super::duties#walk-guard).
pub trait WalkGuard {
    /// Begins a walk of `space`. What it returns is handed to `leave`.
    ///
    /// # Context
    /// Any; must not sleep.
    fn enter(&self, space: SpaceId) -> u64;

    /// Ends the walk.
    fn leave(&self, space: SpaceId, saved: u64);
}

/// For systems that never free a page-table page.
#[derive(Clone, Copy, Debug)]
pub struct NeverFreed;

impl WalkGuard for NeverFreed {
    fn enter(&self, _: SpaceId) -> u64 {
        0
    }
    fn leave(&self, _: SpaceId, _: u64) {}
}
