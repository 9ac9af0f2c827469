//! A spin lock by exchange: each round stores, none proves that another gained.

#![no_std]

#[path = "services.rs"]
mod services;

use core::sync::atomic::{AtomicU64, Ordering};

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(lock: &AtomicU64) {
    while lock.swap(1, Ordering::Acquire) != 0 {}
}
