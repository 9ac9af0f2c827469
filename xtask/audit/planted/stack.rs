//! Takes more stack than there may be.

#![no_std]

#[path = "services.rs"]
mod services;

use core::hint::black_box;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(value: u64) -> u64 {
    let mut room = core::mem::MaybeUninit::<[u64; 100]>::uninit();
    let first = room.as_mut_ptr().cast::<u64>();
    // SAFETY: the first word of the room.
    unsafe { black_box(first).write_volatile(value) };
    // SAFETY: written just now.
    unsafe { black_box(first).read_volatile() }
}
