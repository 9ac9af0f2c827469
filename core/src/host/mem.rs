//! Page tables in physical memory.
//!
//! A table is never a Rust reference or slice to plain memory: the MMU and other CPUs write it.
//! [`PhysMem`] hands out a [`TableView`] of one whole table (one call a table, not one an entry),
//! through which entries are loaded and stored by value, atomically.

#![cfg_attr(
    not(loom),
    expect(unsafe_code, reason = "a direct map turns physical addresses into pointers")
)]

#[cfg(not(loom))]
use core::ptr::NonNull;

use pinfold_arch::PhysAddr;
#[cfg(not(loom))]
use pinfold_arch::addr::index;

use crate::sync::{Ordering, Word};

/// Access to page tables by physical address.
pub trait PhysMem {
    /// The first `entries` 64-bit entries of the table at `base`, or `None` if any of them lies
    /// outside memory. Page tables name arbitrary addresses, so this is the check that counts.
    ///
    /// The view is the table itself, for as long as it lives, and no copy of it:
    /// [`table-views`](super::duties#table-views).
    ///
    /// # Context
    /// Any; must not sleep. Called under the walk guard.
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>>;
}

/// The entries of one table in memory, in the byte order in which they stand there.
#[derive(Clone, Copy, Debug)]
pub struct TableView<'a> {
    words: &'a [Word],
}

impl<'a> TableView<'a> {
    /// A view of words that are ordinary memory.
    #[must_use]
    pub fn from_words(words: &'a [Word]) -> Self {
        Self { words }
    }

    /// A view of `entries` words from `first`.
    ///
    /// # Safety
    /// The words are mapped, 8-byte aligned, readable and writable for `'a`, and while the view
    /// lives they are accessed only atomically (or by the MMU).
    #[must_use]
    #[cfg(not(loom))]
    pub const unsafe fn from_raw(first: NonNull<u64>, entries: usize) -> Self {
        // SAFETY: the caller vouches for the memory, and words are atomics, so that a shared
        // reference to them allows for others that write.
        Self { words: unsafe { core::slice::from_raw_parts(first.cast().as_ptr(), entries) } }
    }

    /// Number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there are no entries.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The words themselves, from `index` on, at most so many.
    #[inline]
    pub(crate) fn words_from(&self, index: usize, most: usize) -> &'a [Word] {
        let words = self.words.get(index..).unwrap_or_default();
        words.get(..most).unwrap_or(words)
    }

    /// The entry as it stands in memory, or `None` beyond the end.
    #[inline]
    #[must_use]
    pub fn load(&self, index: usize) -> Option<u64> {
        // Acquire: the next table's contents were written before the entry that points to it.
        Some(self.words.get(index)?.load(Ordering::Acquire))
    }

    /// Loads an entry once more, in the total order of sequentially consistent operations: for the
    /// comparison after a count was taken.
    #[inline]
    pub(crate) fn load_again(&self, index: usize) -> Option<u64> {
        Some(self.words.get(index)?.load(Ordering::SeqCst))
    }

    /// Stores an entry; `None` beyond the end.
    pub fn store(&self, index: usize, raw: u64) -> Option<()> {
        // Release: whoever finds the entry finds the table or page behind it complete.
        self.words.get(index)?.store(raw, Ordering::Release);
        Some(())
    }

    /// Replaces an entry if it still is what was expected; whether it was.
    #[must_use]
    pub fn replace(&self, index: usize, expected: u64, raw: u64) -> bool {
        // AcqRel: whoever finds the new entry finds what it points to complete, and so does whoever
        // finds that another was faster.
        let (done, seen) = (Ordering::AcqRel, Ordering::Acquire);
        let word = self.words.get(index);
        word.is_some_and(|word| word.compare_exchange(expected, raw, done, seen).is_ok())
    }

    /// Replaces an entry and returns the old one; `None` beyond the end.
    pub fn swap(&self, index: usize, raw: u64) -> Option<u64> {
        // SeqCst: "clear the entry, then look for pins" pairs with "pin, then re-check".
        Some(self.words.get(index)?.swap(raw, Ordering::SeqCst))
    }
}

/// Physical memory that is mapped one to one at an offset: a kernel's direct map.
#[derive(Clone, Copy, Debug)]
#[cfg(not(loom))]
pub struct DirectMap {
    start: NonNull<u64>,
    base: PhysAddr,
    bytes: u64,
}

// SAFETY: the map is a plain description of memory that the creator vouched for from any thread.
#[cfg(not(loom))]
unsafe impl Send for DirectMap {}
// SAFETY: as above.
#[cfg(not(loom))]
unsafe impl Sync for DirectMap {}

#[cfg(not(loom))]
impl DirectMap {
    /// Physical memory `base..base + bytes`, mapped at `start`. Tables outside it are not found.
    ///
    /// # Safety
    /// All of it is mapped at `start`, readable and writable, for as long as the value and its
    /// views are used. Page tables may claim that a table lies anywhere in it, so *every* word of
    /// it may be read atomically at any time, and written through a view: no Rust reference to
    /// ordinary memory in it may live meanwhile (whoever owns such memory is outside Rust, or
    /// reaches it through atomics or raw pointers). `start` is 8-byte aligned and `base` is page
    /// aligned.
    #[must_use]
    pub const unsafe fn new(start: NonNull<u64>, base: PhysAddr, bytes: u64) -> Self {
        Self { start, base, bytes }
    }
}

#[cfg(not(loom))]
impl PhysMem for DirectMap {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let offset = base.raw().checked_sub(self.base.raw())?;
        let end = offset.checked_add((entries as u64).checked_mul(8)?)?;
        if end > self.bytes || offset % 8 != 0 {
            return None;
        }
        // SAFETY: the offset is inside the mapped memory, checked above.
        let first = unsafe { self.start.byte_add(index(offset)) };
        // SAFETY: all entries lie inside, aligned; the creator vouched for mapping and atomicity.
        Some(unsafe { TableView::from_raw(first, entries) })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_direct_map_ends_where_its_memory_ends() {
        let words = [const { Word::new(7) }; 8];
        let start = NonNull::from(&words).cast();
        // SAFETY: the array is the memory, and only atomics are in it.
        let map = unsafe { DirectMap::new(start, PhysAddr::new(0x1000), 64) };
        assert_eq!(map.table(PhysAddr::new(0x1000), 8).and_then(|t| t.load(7)), Some(7));
        assert!(map.table(PhysAddr::new(0x1000), 9).is_none());
        assert!(map.table(PhysAddr::new(0x1008), 8).is_none());
        assert!(map.table(PhysAddr::new(0xff8), 1).is_none());
        assert!(map.table(PhysAddr::new(0x1004), 1).is_none());
        assert!(map.table(PhysAddr::new(u64::MAX - 7), usize::MAX).is_none());
        let view = map.table(PhysAddr::new(0x1038), 1).unwrap();
        assert_eq!(view.load(1), None);
        assert_eq!(view.store(1, 0), None);
        assert_eq!(view.swap(0, 9), Some(7));
    }
}
