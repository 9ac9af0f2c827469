//! Calls itself.

#![no_std]

#[path = "services.rs"]
mod services;

#[inline(never)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(value: u64) -> u64 {
    if value < 2 {
        return value;
    }
    planted(value.wrapping_sub(1)) ^ planted(value >> 1)
}
