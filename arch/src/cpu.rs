//! The CPU that this code runs on: its live root register and its TLB.
//!
//! The only home of `cfg(target_arch)` and, in this crate, of `unsafe`. A token says "this code
//! runs on that CPU, at a privilege that may touch these registers"; making one is the only
//! unsafe step. Its methods are thin calls into the `x86_64` and `aarch64-cpu` crates, and single
//! instructions where no such crate exists.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
#[cfg(any(test, target_arch = "powerpc64"))]
pub mod power;
#[cfg(target_arch = "s390x")]
pub mod s390x;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

/// Asks the CPU to bring the cache line of `word` close, for a write that follows soon.
///
/// A hint and nothing else: safe for any reference, a no-op where the CPU has none.
#[inline(always)]
pub fn prefetch<T>(word: &T) {
    #[cfg(target_arch = "x86_64")]
    x86_64::prefetch(word);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = word;
}
