//! Changes memory whatever is there.

#![no_std]

#[path = "services.rs"]
mod services;

use core::sync::atomic::{AtomicU64, Ordering};

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(count: &AtomicU64) -> u64 {
    count.fetch_add(1, Ordering::AcqRel)
}
