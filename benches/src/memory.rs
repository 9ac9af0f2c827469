//! Flat memory: zeroed words, touched before they are used, in huge pages where there are any.

#![expect(unsafe_code, reason = "memory with an alignment and huge pages comes from mmap")]

use std::ptr::NonNull;

use pinfold::sync::{Ordering, Word};

/// Huge pages have this size and alignment.
const HUGE: usize = 2 << 20;
/// Words in the smallest page.
const STEP: usize = 4096 / 8;

/// Zeroed words, given back when it is dropped.
#[derive(Debug)]
pub struct Flat {
    mapped: NonNull<libc::c_void>,
    mapped_bytes: usize,
    start: NonNull<Word>,
    words: usize,
}

impl Flat {
    /// So many words, aligned to a huge page and present.
    ///
    /// # Panics
    /// If the system has no memory left.
    #[must_use]
    pub fn new(words: usize) -> Self {
        let bytes = (words * size_of::<Word>()).next_multiple_of(HUGE);
        let mapped_bytes = bytes + HUGE;
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at an address of the system's choice touches nothing.
        let mapped =
            unsafe { libc::mmap(std::ptr::null_mut(), mapped_bytes, protection, flags, -1, 0) };
        assert!(mapped != libc::MAP_FAILED, "no memory for {mapped_bytes} bytes");
        let mapped = NonNull::new(mapped).expect("mmap returns no null page");
        let to_huge = mapped.as_ptr().addr().next_multiple_of(HUGE) - mapped.as_ptr().addr();
        // SAFETY: less than HUGE further, inside the mapping.
        let start = unsafe { mapped.byte_add(to_huge) };
        #[cfg(target_os = "linux")]
        // SAFETY: `bytes` from `start` on are ours; the advice changes no contents. Where it is
        // refused, small pages do.
        unsafe {
            libc::madvise(start.as_ptr(), bytes, libc::MADV_HUGEPAGE);
        }
        let flat = Self { mapped, mapped_bytes, start: start.cast(), words };
        flat.words().iter().step_by(STEP).for_each(|word| word.store(0, Ordering::Relaxed));
        flat
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[Word] {
        // SAFETY: the mapping is that long behind `start`, aligned, zeroed or written as atomics,
        // and lives until drop.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

// SAFETY: a shared value gives out its words and nothing else, and they are atomics.
unsafe impl Sync for Flat {}

impl Drop for Flat {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, and nobody borrows the words any more.
        let result = unsafe { libc::munmap(self.mapped.as_ptr(), self.mapped_bytes) };
        debug_assert_eq!(result, 0, "munmap of an own mapping");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_memory_is_zero_and_aligned() {
        let flat = Flat::new(1000);
        assert_eq!(flat.words().len(), 1000);
        assert!(flat.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        assert_eq!(flat.words().as_ptr().addr() % HUGE, 0);
    }
}
