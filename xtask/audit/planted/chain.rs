//! Follows a chain for as long as memory says.

#![no_std]

#[path = "services.rs"]
mod services;

use core::sync::atomic::{AtomicU64, Ordering};

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(words: *const AtomicU64, mut at: u64) -> u64 {
    loop {
        // SAFETY: planted, never run.
        let next = unsafe { &*words.add((at & 0xff) as usize) }.load(Ordering::Relaxed);
        if next == 0 {
            return at;
        }
        at = next;
    }
}
