//! Atomics and locks: the only file that names `core::sync::atomic` or `spin`.
//!
//! Under `--cfg loom` the same names are loom's, so that models run the shipped code.
//!
//! No two locks are held at once, and no host call that may sleep happens under one.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

/// One word of the engine's memory. The caller provides it; a zeroed word is always a good start.
pub type Word = AtomicU64;

/// A spin lock. Taken only through [`host::locked`](crate::host::locked), which brackets it.
#[derive(Debug, Default)]
pub struct Lock<T> {
    inner: spin::mutex::SpinMutex<T>,
}

impl<T> Lock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        Self { inner: spin::mutex::SpinMutex::new(value) }
    }

    /// Runs `critical` with the lock held.
    pub(crate) fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut self.inner.lock())
    }
}

/// Stands behind a sequentially consistent read-modify-write that later sequentially consistent
/// loads must not pass. The language orders them already; loom knows that order only as fences, so
/// there it is one.
#[inline(always)]
pub(crate) fn ordered() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}
