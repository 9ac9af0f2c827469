//! Calls what its caller gave.

#![no_std]

#[path = "services.rs"]
mod services;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(hook: extern "C" fn(u64) -> u64, argument: u64) -> u64 {
    hook(argument).wrapping_add(1)
}
