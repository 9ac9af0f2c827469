//! Calls a function that stands elsewhere.

#![no_std]

#[path = "services.rs"]
mod services;

unsafe extern "C" {
    safe fn elsewhere(argument: u64) -> u64;
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(argument: u64) -> u64 {
    elsewhere(argument).wrapping_add(1)
}
