//! Atomics and locks: the only file that names `core::sync::atomic` or `spin`.
//!
//! Under `--cfg loom` the same names are loom's, so that models run the shipped code.
//!
//! No two locks are held at once, and no host call that may sleep happens under one.

use core::hint::black_box;
use core::ops::Range;

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

/// One word of the engine's memory. The caller provides it; a zeroed word is always a good start.
#[cfg(not(counting))]
pub type Word = AtomicU64;
#[cfg(counting)]
pub use counted::{Word, changes, loaded, loads};

/// Under `--cfg counting` words count how often they are changed in place, and record which of them
/// are loaded, for the tests that say how often that may be. Plain stores are not counted.
#[cfg(counting)]
mod counted {
    use super::Ordering;
    use core::sync::atomic::{AtomicU64, AtomicUsize};

    static CHANGES: AtomicU64 = AtomicU64::new(0);
    static LOADS: AtomicUsize = AtomicUsize::new(0);
    /// Where the last words that were loaded stand.
    static LOADED: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];

    /// Loads of all words so far.
    pub fn loads() -> usize {
        LOADS.load(Ordering::Relaxed)
    }

    /// The address of the word of a load, of the last 64: the first load has number 0.
    pub fn loaded(number: usize) -> usize {
        LOADED[number % LOADED.len()].load(Ordering::Relaxed)
    }

    /// Atomic read-modify-writes of all words so far.
    pub fn changes() -> u64 {
        CHANGES.load(Ordering::Relaxed)
    }

    /// One word of the engine's memory, which counts.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct Word(AtomicU64);

    /// Functions of `AtomicU64` under the same names, each counted.
    macro_rules! counted {
        ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
            impl Word {
                $(
                    /// The function of `AtomicU64`, counted.
                    #[inline]
                    pub fn $name(&self, $($argument: $type),*) -> $result {
                        CHANGES.fetch_add(1, Ordering::Relaxed);
                        self.0.$name($($argument),*)
                    }
                )*
            }
        };
    }

    counted! {
        swap(value: u64, order: Ordering) -> u64;
        fetch_add(value: u64, order: Ordering) -> u64;
        fetch_sub(value: u64, order: Ordering) -> u64;
        fetch_and(value: u64, order: Ordering) -> u64;
        fetch_or(value: u64, order: Ordering) -> u64;
        compare_exchange(old: u64, new: u64, done: Ordering, not: Ordering) -> Result<u64, u64>;
        compare_exchange_weak(old: u64, new: u64, done: Ordering, not: Ordering) -> Result<u64, u64>;
    }

    impl Word {
        /// A word with this value.
        #[must_use]
        pub const fn new(value: u64) -> Self {
            Self(AtomicU64::new(value))
        }

        /// The function of `AtomicU64`, recorded.
        #[inline]
        pub fn load(&self, order: Ordering) -> u64 {
            let number = LOADS.fetch_add(1, Ordering::Relaxed);
            let address = core::ptr::from_ref(self).addr();
            LOADED[number % LOADED.len()].store(address, Ordering::Relaxed);
            self.0.load(order)
        }

        /// The function of `AtomicU64`.
        #[inline]
        pub fn store(&self, value: u64, order: Ordering) {
            self.0.store(value, order);
        }
    }
}

/// How often a change of one word is tried where nobody may wait. Others who change the same word
/// at the same time cost a try each.
const TRIES: usize = 64;

/// [`TRIES`] rounds, in a number that the compiler cannot know: it would write the body of the loop
/// several times over, and code that runs in real mode changes memory in one place.
#[inline(always)]
pub(crate) fn tries() -> Range<usize> {
    0..black_box(TRIES)
}

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
