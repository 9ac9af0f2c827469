//! A service that writes more than the word it changes.

#![no_std]

use core::sync::atomic::{AtomicU64, Ordering};

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn pinfold_realmode_map_get(word: &AtomicU64, last: &mut u64) -> i32 {
    let old = word.load(Ordering::Relaxed);
    *last = old;
    let new = old.wrapping_add(1);
    -i32::from(word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_err())
}
