//! Memory for the tables of IOMMUs: it may run out or be lost, and what was given back cannot be reached.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use pinfold::PhysAddr;
use pinfold::host::{Flow, IoTables, PhysMem, Progress, TableView, Wait};
use pinfold::sync::Word;

use crate::ram::index;

/// Memory for tables, of 256 KiB at most each.
#[derive(Debug)]
pub struct TableMemory {
    pieces: Vec<OnceLock<Box<[Word]>>>,
    state: Mutex<State>,
    /// Allocations that succeed before one fails; none fails at `u64::MAX`.
    left: AtomicU64,
    /// Views that are given before one is not, none at `u64::MAX`; and the most entries that one has.
    views: AtomicU64,
    most: AtomicUsize,
    /// Bytes that were said to be written, and calls that said so.
    written: AtomicU64,
    writes: AtomicU64,
    /// Entries between two pauses, pauses so far, and those that go on before one says stop; none does at
    /// `u64::MAX`.
    step: AtomicU64,
    pauses: AtomicU64,
    stop: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Tables in use, by their place in bytes, with their size.
    used: BTreeMap<u64, u64>,
    next: u64,
}

/// What new memory holds.
const GARBAGE: u64 = 0x0bad_0bad_0bad_0bad;
/// Memory comes into being in pieces of this size.
const PIECE: u64 = 256 << 10;
/// Where the memory begins.
const BASE: u64 = 0x4000_0000;

impl TableMemory {
    /// So many bytes of memory, none of it in use.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self {
            pieces: (0..bytes.div_ceil(PIECE)).map(|_| OnceLock::new()).collect(),
            state: Mutex::default(),
            left: AtomicU64::new(u64::MAX),
            views: AtomicU64::new(u64::MAX),
            most: AtomicUsize::new(usize::MAX),
            written: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            step: AtomicU64::new(4096),
            pauses: AtomicU64::new(0),
            stop: AtomicU64::new(u64::MAX),
        }
    }

    /// Lets so many allocations succeed, and all after them fail.
    pub fn fail_after(&self, allocations: u64) {
        self.left.store(allocations, Ordering::Relaxed);
    }

    /// Gives so many views, and then once says that no table is there.
    pub fn lose_after(&self, views: u64) {
        self.views.store(views, Ordering::Relaxed);
    }

    /// Gives no view more entries than this, whatever is asked for.
    pub fn shorten_views(&self, entries: usize) {
        self.most.store(entries, Ordering::Relaxed);
    }

    /// How many entries a call may handle between two pauses.
    pub fn set_step(&self, entries: u64) {
        self.step.store(entries, Ordering::Relaxed);
    }

    /// Lets so many pauses go on, and all after them say stop.
    pub fn stop_after(&self, pauses: u64) {
        self.stop.store(pauses, Ordering::Relaxed);
    }

    /// Pauses so far.
    #[must_use]
    pub fn pauses(&self) -> u64 {
        self.pauses.load(Ordering::Relaxed)
    }

    /// Tables in use.
    ///
    /// # Panics
    /// If a thread panicked in here.
    #[must_use]
    pub fn used(&self) -> usize {
        self.state.lock().expect("nobody panicked").used.len()
    }

    /// How often something was said to be written, and how many bytes together.
    #[must_use]
    pub fn written(&self) -> (u64, u64) {
        (self.writes.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed))
    }
}

impl PhysMem for TableMemory {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        if !takes_one(&self.views) {
            self.lose_after(u64::MAX);
            return None;
        }
        let entries = entries.min(self.most.load(Ordering::Relaxed));
        let at = base.raw().checked_sub(BASE)?;
        let bytes = entries as u64 * 8;
        let state = self.state.lock().ok()?;
        // Only a table that is in use, whole or in part.
        let (start, size) = state.used.range(..=at).next_back()?;
        if at + bytes > start + size {
            return None;
        }
        let piece = self.pieces.get(index(at / PIECE))?.get()?;
        Some(TableView::from_words(piece.get(index(at % PIECE / 8)..)?.get(..entries)?))
    }
}

/// Takes one of what is left, if anything is; `u64::MAX` never ends.
fn takes_one(left: &AtomicU64) -> bool {
    let take = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(1) };
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
}

impl Wait for TableMemory {
    fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    fn pause(&self, _: Progress) -> Flow {
        self.pauses.fetch_add(1, Ordering::Relaxed);
        if takes_one(&self.stop) { Flow::Continue } else { Flow::Stop }
    }
}

impl IoTables for TableMemory {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        if !takes_one(&self.left) {
            return None;
        }
        let mut state = self.state.lock().ok()?;
        // Never the same place twice, so that nothing reaches what came after it.
        let at = state.next.next_multiple_of(bytes);
        if bytes > PIECE {
            return None;
        }
        let words = (0..PIECE / 8).map(|_| Word::new(GARBAGE));
        self.pieces.get(index(at / PIECE))?.get_or_init(|| words.collect());
        state.next = at + bytes;
        state.used.insert(at, bytes);
        Some(PhysAddr::new(BASE + at))
    }

    fn free(&self, table: PhysAddr, bytes: u64) {
        let mut state = self.state.lock().expect("nobody panicked");
        let size = state.used.remove(&(table.raw() - BASE));
        assert_eq!(size, Some(bytes), "{table} was not given out like this");
    }

    fn written(&self, _: PhysAddr, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Relaxed);
    }
}
