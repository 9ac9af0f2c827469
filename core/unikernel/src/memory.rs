//! The machine's memory, as the program divides it.

use core::sync::atomic::{AtomicU64, Ordering};

use pinfold::host::{DirectMap, Flow, IoTables, PhysMem, Progress, SpinWait, TableView, Wait};
use pinfold_arch::addr::index;
use pinfold_arch::{PageShift, PhysAddr};

/// The machine has so much memory, at a multiple of as much.
pub const RAM: u64 = 1 << 30;
/// Where, behind the start of memory, that begins which [`Memory`] reaches: the program is before.
pub const START: u64 = 128 << 20;
const TABLES_END: u64 = 192 << 20;
/// Where the device's buffer is emptied into.
const WINDOW: u64 = TABLES_END;
const DATA: u64 = 256 << 20;
const DATA_BYTES: u64 = 256 << 20;

/// What tables hold before somebody writes to them, and after they were given back: it leads to no
/// memory.
const GARBAGE: u64 = 0x0bad_0bad_0bad_0bad;

/// Memory for tables, and for a device's data.
///
/// No place is given out twice, so that whoever still uses a table that was given back finds garbage.
#[derive(Debug)]
pub struct Memory {
    map: DirectMap,
    base: u64,
    next: AtomicU64,
    tables: AtomicU64,
}

impl Memory {
    /// The memory of a machine that has [`RAM`] bytes from `base` on; `map` reaches them from [`START`] on.
    #[must_use]
    pub const fn new(map: DirectMap, base: u64) -> Self {
        Self { map, base, next: AtomicU64::new(base + START), tables: AtomicU64::new(0) }
    }

    /// Tables that were given out and did not come back.
    #[must_use]
    pub fn tables(&self) -> u64 {
        self.tables.load(Ordering::Relaxed)
    }

    /// Zeroed memory for what an IOMMU has beside page tables, forever.
    ///
    /// # Panics
    /// If there is no more.
    #[must_use]
    pub fn structure(&self, bytes: u64) -> PhysAddr {
        let at = self.take(bytes).expect("memory for an IOMMU's structure");
        self.fill(at, bytes, 0);
        at
    }

    /// A page, of whatever size tables have, for what the device's buffer holds.
    #[must_use]
    pub const fn window(&self) -> PhysAddr {
        PhysAddr::new(self.base + WINDOW)
    }

    /// All memory for data: start and length.
    #[must_use]
    pub const fn data(&self) -> (PhysAddr, u64) {
        (PhysAddr::new(self.base + DATA), DATA_BYTES)
    }

    /// A page of memory of this size, and the part of it that is for data: start and length. Bits of its
    /// address differ as much as its size allows.
    #[must_use]
    pub fn page(&self, shift: PageShift) -> (PhysAddr, PhysAddr, u64) {
        let start = self.base + DATA;
        let page = PhysAddr::new(start + 0x0aba_d000).align_down(shift);
        let first = page.raw().max(start);
        let end = (page.raw() + shift.bytes()).min(start + DATA_BYTES);
        (page, PhysAddr::new(first), end - first)
    }

    /// Loads the words from `at` on. `None` outside memory.
    #[must_use]
    pub fn load<const N: usize>(&self, at: PhysAddr) -> Option<[u64; N]> {
        let view = self.table(at, N)?;
        Some(core::array::from_fn(|word| view.load(word).unwrap_or_default()))
    }

    /// Stores words from `at` on, the last one first: an IOMMU may look while a structure changes, and what
    /// makes it valid is in the first.
    ///
    /// # Panics
    /// Outside memory.
    pub fn store<const N: usize>(&self, at: PhysAddr, words: [u64; N]) {
        let view = self.table(at, N).expect("an address in memory");
        for (place, word) in words.into_iter().enumerate().rev() {
            view.store(place, word);
        }
    }

    fn fill(&self, at: PhysAddr, bytes: u64, word: u64) {
        let view = self.table(at, index(bytes / 8)).expect("an address in memory");
        for place in 0..view.len() {
            view.store(place, word);
        }
    }

    fn take(&self, bytes: u64) -> Option<PhysAddr> {
        let start = |next: u64| next.next_multiple_of(bytes.max(PageShift::SIZE_4K.bytes()));
        let end = |next| Some(start(next) + bytes).filter(|end| *end <= self.base + TABLES_END);
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end);
        taken.ok().map(|next| PhysAddr::new(start(next)))
    }
}

impl PhysMem for Memory {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        self.map.table(base, entries)
    }
}

impl Wait for Memory {
    fn pause(&self, progress: Progress) -> Flow {
        SpinWait.pause(progress)
    }
}

impl IoTables for Memory {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let table = self.take(bytes)?;
        self.fill(table, bytes, GARBAGE);
        self.tables.fetch_add(1, Ordering::Relaxed);
        Some(table)
    }

    fn free(&self, table: PhysAddr, bytes: u64) {
        self.fill(table, bytes, GARBAGE);
        self.tables.fetch_sub(1, Ordering::Relaxed);
    }
}
