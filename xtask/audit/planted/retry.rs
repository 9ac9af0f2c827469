//! Tries until it wins: others may keep it busy for as long as they like.

#![no_std]

#[path = "services.rs"]
mod services;

use core::sync::atomic::{AtomicU64, Ordering};

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(word: &AtomicU64) -> u64 {
    let mut old = word.load(Ordering::Relaxed);
    loop {
        let new = old.rotate_left(1);
        match word.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return new,
            Err(now) => old = now,
        }
    }
}
