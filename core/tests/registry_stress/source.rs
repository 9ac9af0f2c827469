//! Over a host that pins other frames each time, so that a stale address shows.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use pinfold::host::{Account, Host, NoTrace, OverLimit, SpaceId, SpinWait};
use pinfold::region::InSpace;
use pinfold::source::{HostPins, PinSource, RunSink, SourceError};
use pinfold::table::Run;
use pinfold::{AccountId, AddrRange, PageCount, PageShift, Pfn, PhysAddr, PinRequest};

use super::{BASE, Memory, Oracle, Stress, WRITERS, range};

/// Pages that have a number of their own in an address.
const NUMBERED: u64 = 1 << 20;
/// What a writer tries.
const ROUNDS: u64 = 2500;

/// What is pinned, and charged.
struct Books {
    /// Pages that each call has pinned and nobody has given back.
    pinned: Vec<AtomicI64>,
    calls: AtomicU64,
    dirty: Mutex<HashSet<u64>>,
    charged: AtomicI64,
}

impl Books {
    fn new() -> Self {
        // A region of 600 pages takes up to three calls.
        let calls = (0..=3 * (WRITERS * ROUNDS + 16)).map(|_| AtomicI64::new(0)).collect();
        Self {
            pinned: calls,
            calls: AtomicU64::new(0),
            dirty: Mutex::default(),
            charged: AtomicI64::new(0),
        }
    }

    fn call(&self, pfn: u64) -> &AtomicI64 {
        &self.pinned[(pfn / NUMBERED) as usize]
    }
}

impl PinSource for &Books {
    fn base(&self) -> PageShift {
        BASE
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let (first, pages) = (part.start().raw() >> 12, part.pages().raw());
        self.pinned[call as usize].store(pages as i64, Ordering::SeqCst);
        let frame = |page| Pfn::new(call * NUMBERED + page);
        if pages == 512 {
            return runs.push(frame(first), part.pages());
        }
        (first..first + pages).try_for_each(|page| runs.push(frame(page), PageCount::ONE))
    }
    fn unpin(&self, run: Run) {
        let left = self.call(run.pfn.raw()).fetch_sub(run.pages.raw() as i64, Ordering::SeqCst);
        assert!(left >= run.pages.raw() as i64, "given back twice");
        if run.dirty {
            let first = run.pfn.raw();
            self.dirty.lock().unwrap().extend(first..first + run.pages.raw());
        }
    }
}

impl Account for &Books {
    fn charge(&self, _: AccountId, pages: PageCount) -> Result<(), OverLimit> {
        self.charged.fetch_add(pages.raw() as i64, Ordering::SeqCst);
        Ok(())
    }
    fn uncharge(&self, _: AccountId, pages: PageCount) {
        self.charged.fetch_sub(pages.raw() as i64, Ordering::SeqCst);
    }
}

struct Charged<'a>(&'a Books);

impl<'a> Host for Charged<'a> {
    type Wait = SpinWait;
    type Account = &'a Books;
    type Trace = NoTrace;

    fn wait(&self) -> &SpinWait {
        &SpinWait
    }
    fn account(&self) -> &&'a Books {
        &self.0
    }
    fn trace(&self) -> &NoTrace {
        &NoTrace
    }
}

impl Oracle for Books {
    fn check(&self, page: u64, addr: PhysAddr, held: bool) -> Option<u64> {
        let pfn = addr.raw() >> 12;
        assert_eq!(pfn % NUMBERED, page, "{addr} is not behind page {page}");
        let pinned = self.call(pfn).load(Ordering::SeqCst);
        assert!(!held || pinned > 0, "{addr} is held and not pinned");
        // A large region takes several calls: its parts begin at multiples of 512.
        Some((pfn / NUMBERED) << 20 | page >> 9)
    }
}

fn stress(patient: bool) {
    // Around a border of the directory's largest blocks, and in a block of its own.
    const BORDER: u64 = 1 << 18;
    let zones = [(BORDER - 512, 1024), (BORDER * 2 + 4096, 2048)];
    let stable = [BORDER - 300, BORDER - 7, BORDER + 9, BORDER + 511];
    let books = Books::new();
    let memory = Memory::new(range(0, (1 << 24) + 1));
    let pins = HostPins::new(Charged(&books), &books);
    let pinner = InSpace { pins: &pins, space: SpaceId(0) };
    let marked = Stress::new(&memory, pinner, &books, &stable, &zones, patient).run(ROUNDS);
    let dirty = books.dirty.lock().unwrap();
    assert!(!marked.is_empty());
    for (page, addr) in &marked {
        assert!(dirty.contains(&(addr.raw() >> 12)), "a mark at page {page} was lost");
    }
    // A block of 512 pages is marked as one.
    let block = |addr: &PhysAddr| addr.raw() >> 21;
    let blocks: HashSet<u64> = marked.iter().map(|(_, addr)| block(addr)).collect();
    assert!(dirty.iter().all(|pfn| blocks.contains(&(pfn >> 9))), "nobody marked that");
    assert!(books.pinned.iter().all(|call| call.load(Ordering::SeqCst) == 0), "pages stay pinned");
    assert_eq!(books.charged.load(Ordering::SeqCst), 0, "pages stay charged");
}

#[test]
fn regions_come_and_go_under_readers() {
    stress(true);
}

/// Memory is used again while readers may still look at it: they may be told less, and never
/// something wrong.
#[test]
fn what_is_taken_back_too_early_gives_no_wrong_answer() {
    stress(false);
}
