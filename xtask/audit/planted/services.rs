//! The five real-mode services as small functions that keep the contract, for the planted programs
//! beside this file: whatever the audit says of one of those is about what it adds.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

#[panic_handler]
fn panicked(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// Words, and how many.
#[repr(C)]
pub struct View {
    words: *const AtomicU64,
    count: u64,
}

#[inline(never)]
#[unsafe(link_section = ".text.realmode")]
fn word(view: &View, at: u64) -> Option<&AtomicU64> {
    // SAFETY: `at` is below the number of words.
    (at < view.count).then(|| unsafe { &*view.words.add(at as usize) })
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn pinfold_realmode_lookup(view: &View, va: u64, out: &mut u64) -> i32 {
    let (mut at, mut shift) = (0, 36_u32);
    while shift >= 9 {
        let Some(word) = word(view, at + (va >> shift & 0x1ff)) else { return -1 };
        let entry = word.load(Ordering::Acquire);
        if entry & 1 == 0 {
            *out = entry;
            return 0;
        }
        at = entry >> 1;
        shift -= 9;
    }
    -1
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn pinfold_realmode_translate(view: &View, region: u64, out: &mut u64) -> i32 {
    let Some(word) = word(view, region) else { return -1 };
    *out = word.load(Ordering::Acquire) & !0xfff;
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn pinfold_realmode_map_get(view: &View, region: u64) -> i32 {
    let Some(word) = word(view, region) else { return -1 };
    let old = word.load(Ordering::Relaxed);
    if old == 0 {
        return -1;
    }
    let tried = word.compare_exchange(old, old.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed);
    -i32::from(tried.is_err())
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn pinfold_realmode_map_put(view: &View, region: u64) -> i32 {
    let Some(word) = word(view, region) else { return -1 };
    let old = word.load(Ordering::Relaxed);
    let new = old.wrapping_sub(1);
    -i32::from(word.compare_exchange(old, new, Ordering::Release, Ordering::Relaxed).is_err())
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn pinfold_realmode_mark_dirty(view: &View, region: u64) -> i32 {
    let Some(word) = word(view, region) else { return -1 };
    let old = word.load(Ordering::Relaxed);
    -i32::from(word.compare_exchange(old, old | 8, Ordering::Release, Ordering::Relaxed).is_err())
}
