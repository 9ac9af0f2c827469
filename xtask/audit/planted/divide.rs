//! A division that the source allows and the processor may refuse.

#![no_std]

#[path = "services.rs"]
mod services;

use core::num::NonZero;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(value: u64, by: Option<NonZero<u64>>) -> u64 {
    by.map_or(0, |by| value / by)
}
