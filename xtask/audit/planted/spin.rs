//! A spin lock: it waits for whoever holds the lock.

#![no_std]

#[path = "services.rs"]
mod services;

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(lock: &AtomicU64) {
    while lock.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        spin_loop();
    }
}
