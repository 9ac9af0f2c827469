//! A table of jumps.

#![no_std]

#[path = "services.rs"]
mod services;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(way: u64, word: &mut u64) {
    match way {
        0 => *word ^= 0x1234_5678,
        1 => *word = word.wrapping_mul(7),
        2 => *word = word.rotate_left(13),
        3 => *word = word.wrapping_sub(0x77),
        4 => *word |= 0xff00,
        5 => *word = word.swap_bytes(),
        6 => *word &= 0xff,
        7 => *word = !*word,
        8 => *word = word.count_ones().into(),
        _ => {}
    }
}
