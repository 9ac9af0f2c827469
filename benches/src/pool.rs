//! Memory for tables of whoever maps: as cheap as a kernel's direct map, so that no allocator is measured.

use std::cell::Cell;
use std::ptr::NonNull;

use pinfold::PhysAddr;
use pinfold::host::{Flow, IoTables, PhysMem, Progress, SpinWait, TableView, Wait};
use pinfold::sync::{Ordering, Word};
use pinfold_arch::addr::index;

use crate::memory::Flat;

/// Bytes of a word.
const WORD: u64 = 8;

/// Flat memory from which tables are cut one behind the other, each at the physical address that is its own.
/// Tables do not come back one by one: [`reset`](Self::reset) takes all of them at once.
#[derive(Debug)]
pub struct TablePool {
    memory: Flat,
    start: u64,
    /// Bytes that were given out.
    used: Cell<u64>,
}

impl TablePool {
    /// So many bytes, filled with what is no table, so that whoever does not clear one is found out.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let memory = Flat::new(index(bytes / WORD));
        memory.words().iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        let start = memory.words().as_ptr().expose_provenance() as u64;
        Self { memory, start, used: Cell::new(0) }
    }

    /// Takes all tables back.
    pub fn reset(&self) {
        self.used.set(0);
    }

    /// Memory for a table, with something in it.
    pub fn take(&self, bytes: u64) -> Option<u64> {
        let at = (self.start + self.used.get()).next_multiple_of(bytes);
        let end = (at - self.start).checked_add(bytes)?;
        if end > self.memory.words().len() as u64 * WORD {
            return None;
        }
        self.used.set(end);
        Some(at)
    }

    /// Memory for a table of 4 KiB, as a pointer.
    #[must_use]
    pub fn take_page<T>(&self) -> Option<NonNull<T>> {
        NonNull::new(pointer(self.take(4096)?))
    }

    /// All words, given out or not.
    #[must_use]
    pub fn words(&self) -> &[Word] {
        self.memory.words()
    }

    /// Number of the word at an address.
    #[must_use]
    pub const fn number(&self, addr: u64) -> usize {
        index((addr - self.start) / WORD)
    }

    /// The last words that were given out: the entries that map memory, if those tables were taken last,
    /// one behind the other.
    ///
    /// # Panics
    /// If it were fewer.
    #[must_use]
    pub fn last_words(&self, words: u64) -> &[Word] {
        let end = index(self.used.get() / WORD);
        &self.memory.words()[end - index(words)..end]
    }
}

/// Where a physical address of a pool is mapped.
#[inline]
#[must_use]
pub fn pointer<T>(addr: u64) -> *mut T {
    std::ptr::with_exposed_provenance_mut(index(addr))
}

impl PhysMem for TablePool {
    #[inline]
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = index(base.raw().checked_sub(self.start)? / WORD);
        Some(TableView::from_words(self.memory.words().get(first..first.checked_add(entries)?)?))
    }
}

impl Wait for TablePool {
    fn pause(&self, progress: Progress) -> Flow {
        SpinWait.pause(progress)
    }
}

impl IoTables for TablePool {
    #[inline]
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        self.take(bytes).map(PhysAddr::new)
    }

    fn free(&self, _: PhysAddr, _: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_end_where_the_memory_ends() {
        // Not more than what the memory itself is aligned to.
        let pool = TablePool::new(4 << 12);
        let taken: Vec<_> = [1 << 12, 2 << 12, 1 << 12].map(|bytes| pool.take(bytes)).into();
        let offset = |at: Option<u64>| at.map(|at| at - pool.start);
        assert_eq!(
            taken.into_iter().map(offset).collect::<Vec<_>>(),
            [Some(0), Some(2 << 12), None]
        );
        assert!(pool.table(PhysAddr::new(pool.start + (3 << 12)), 512).is_some());
        assert!(pool.table(PhysAddr::new(pool.start + (3 << 12)), 513).is_none());
        assert!(pool.table(PhysAddr::new(pool.start - 8), 1).is_none());
        pool.reset();
        assert_eq!(offset(pool.take(4 << 12)), Some(0));
        assert_eq!(pool.last_words(512).as_ptr(), pool.memory.words()[3 * 512..].as_ptr());
    }
}
