//! A slice index that may panic.

#![no_std]

#[path = "services.rs"]
mod services;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(words: &[u64; 8], at: usize) -> u64 {
    words[at]
}
