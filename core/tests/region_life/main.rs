//! A region's life: registering, sharing, mapping, removing, and what is refused.

use std::cell::{Cell, RefCell};

use pinfold::host::{
    Account, Flow, Host, NoTrace, OverLimit, Progress, SourceError, SpaceId, Wait,
};
use pinfold::region::{Pinner, RegionError, Registered, Unregistered};
use pinfold::source::{HostPins, PinSource, RunSink};
use pinfold::sync::Word;
use pinfold::table::Run;
use pinfold::*;

mod device;
mod many;
mod mapping;
mod names;
mod pauses;
mod sharing;

const BASE: PageShift = PageShift::SIZE_4K;
const BOTH: Access = Access::READ.union(Access::WRITE);
/// Frames are this much above the pages that they are mapped at: a multiple of all block sizes.
const OFFSET: u64 = 1 << 33;

/// A host that counts what is pinned and charged, and fails or stops when it is told to.
#[derive(Default)]
struct Machine {
    /// How many pages are pinned, and the sum of their frame numbers.
    held: Cell<(u64, u128)>,
    charged: Cell<u64>,
    /// Runs that came back dirty: first frame and pages.
    dirty: RefCell<Vec<(u64, u64)>>,
    /// Parts that were asked for.
    pins: Cell<u64>,
    /// Calls that can fail: charges, parts, pauses.
    calls: Cell<u64>,
    /// The call that fails.
    fail: Cell<Option<u64>>,
    /// Whether a failing pin call reports too little and says success.
    short: Cell<bool>,
    step: Cell<Option<u64>>,
    pauses: Cell<u64>,
}

impl Machine {
    fn fails(&self) -> bool {
        self.calls.set(self.calls.get() + 1);
        self.fail.get() == Some(self.calls.get())
    }

    fn hold(&self, pfn: u64, pages: u64, sign: bool) {
        let (held, sum) = self.held.get();
        let (pfn, many) = (u128::from(pfn), u128::from(pages));
        let change = pfn * many + many * many.saturating_sub(1) / 2;
        let change = if sign { change } else { change.wrapping_neg() };
        let pages = if sign { pages } else { pages.wrapping_neg() };
        self.held.set((held.wrapping_add(pages), sum.wrapping_add(change)));
    }

    /// Nothing is pinned and nobody is charged.
    fn assert_clean(&self) {
        assert_eq!((self.held.get(), self.charged.get()), ((0, 0), 0));
    }
}

impl PinSource for &Machine {
    fn base(&self) -> PageShift {
        BASE
    }
    fn chunk(&self) -> Order {
        Order::new(18).unwrap()
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        self.pins.set(self.pins.get() + 1);
        let (fails, short) = (self.fails(), self.short.get());
        let pages = part.pages().raw() - u64::from(fails);
        if pages != 0 {
            let pfn = (part.start().raw() >> 12) + OFFSET;
            runs.push(Pfn::new(pfn), PageCount::new(pages))?;
            self.hold(pfn, pages, true);
        }
        if fails && !short { Err(SourceError::NotMapped) } else { Ok(()) }
    }
    fn unpin(&self, run: Run) {
        self.hold(run.pfn.raw(), run.pages.raw(), false);
        if run.dirty {
            self.dirty.borrow_mut().push((run.pfn.raw(), run.pages.raw()));
        }
    }
}

impl Wait for Machine {
    fn step(&self) -> u64 {
        self.step.get().unwrap_or(4096)
    }
    fn pause(&self, progress: Progress) -> Flow {
        assert!(progress.done <= progress.total);
        self.pauses.set(self.pauses.get() + 1);
        if self.fails() { Flow::Stop } else { Flow::Continue }
    }
}

impl Account for Machine {
    fn charge(&self, _: AccountId, pages: PageCount) -> Result<(), OverLimit> {
        if self.fails() {
            return Err(OverLimit);
        }
        self.charged.set(self.charged.get() + pages.raw());
        Ok(())
    }
    fn uncharge(&self, _: AccountId, pages: PageCount) {
        self.charged.set(self.charged.get().checked_sub(pages.raw()).expect("below zero"));
    }
}

impl Host for &Machine {
    type Wait = Machine;
    type Account = Machine;
    type Trace = NoTrace;

    fn wait(&self) -> &Machine {
        self
    }
    fn account(&self) -> &Machine {
        self
    }
    fn trace(&self) -> &NoTrace {
        &NoTrace
    }
}

impl Pinner for Machine {
    type Wait = Self;

    fn wait(&self) -> &Self {
        self
    }
    fn pin(&self, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError> {
        HostPins::new(self, self).pin(SpaceId(3), table, request)
    }
    fn unpin(&self, table: &PinTable<'_>, dirtied: Dirtied) -> Result<Unpinned, UnpinError> {
        HostPins::new(self, self).unpin(table, dirtied)
    }
}

/// Pages counted from address 0.
fn range(first: u64, pages: u64) -> AddrRange {
    AddrRange::new(VirtAddr::new(first << 12), PageCount::new(pages), BASE).unwrap()
}

fn request(first: u64, pages: u64) -> PinRequest {
    PinRequest::longterm(range(first, pages), BOTH)
}

fn page(page: u64) -> VirtAddr {
    VirtAddr::new(page << 12)
}

fn frame(page: u64) -> PhysAddr {
    PhysAddr::new((page + OFFSET) << 12)
}

/// Words for the rest of the test run: a registry and whoever uses it can then be passed about.
fn words(n: usize) -> &'static [Word] {
    Vec::leak((0..n).map(|_| Word::new(0x5a5a_5a5a_5a5a_5a5a)).collect())
}

/// A registry, words for tables, and a host.
struct Stage {
    registry: Registry<'static>,
    /// The only area.
    memory: &'static [Word],
    /// The registry's words, at the area's begin.
    own: usize,
    /// Where the next table goes.
    next: Cell<usize>,
    machine: Machine,
}

impl Stage {
    /// With the words that the registry says suffice.
    fn new(window: AddrRange, regions: u32) -> Self {
        let own = Registry::words_for(&window, regions).unwrap();
        Self::of(window, regions, own)
    }

    fn of(window: AddrRange, regions: u32, own: usize) -> Self {
        let memory = words(own + 0x1_0000);
        let areas = Areas::new(&[memory]).unwrap();
        let registry = Registry::new(areas, &memory[..own], &window, regions).unwrap();
        Self { registry, memory, own, next: Cell::new(own), machine: Machine::default() }
    }

    /// Words that no table has had yet.
    fn table(&self, words: usize) -> &'static [Word] {
        let at = self.next.replace(self.next.get() + words);
        &self.memory[at..at + words]
    }

    fn register(&self, first: u64, pages: u64) -> Result<Registered, RegionError> {
        let need = PinTable::words_for(&range(first, pages), BASE).unwrap();
        self.register_in(&request(first, pages), self.table(need.min(1100)))
    }

    fn register_in(
        &self,
        request: &PinRequest,
        table: &'static [Word],
    ) -> Result<Registered, RegionError> {
        self.registry.register(&self.machine, request, table)
    }

    fn register_device(&self, first: u64, pages: u64, at: u64) -> Result<Registered, RegionError> {
        let at = PhysAddr::new(at);
        self.registry.register_device(&self.machine, &range(first, pages), at)
    }

    fn unregister(&self, region: RegionId) -> Result<Unregistered, RegionError> {
        self.registry.unregister(&self.machine, region, Dirtied::No)
    }

    /// Reclaims all that is retired; the tables that come back, as offsets in the area and lengths.
    fn reclaim(&self) -> Vec<(usize, usize)> {
        let grace = self.registry.retired(&self.machine);
        let mut back = Vec::new();
        self.registry.reclaim(&self.machine, grace, |table| {
            let at = (table.as_ptr().addr() - self.memory.as_ptr().addr()) / size_of::<Word>();
            back.push((at, table.len()));
        });
        back
    }

    fn realmode(&self) -> RealMode<'static> {
        self.registry.realmode()
    }

    fn lookup(&self, page: u64, pages: u64) -> Option<RegionId> {
        self.realmode().lookup(VirtAddr::new(page << 12), pages << 12).ok()
    }

    /// Nothing is registered, pinned, charged, or waits to be reclaimed.
    fn assert_empty(&self) {
        assert_eq!(self.registry.len(&self.machine), 0);
        self.machine.assert_clean();
    }
}

/// What is left of the memory after a test, and that the rest is unchanged.
fn gone(answer: Result<Unregistered, RegionError>) -> u64 {
    match answer {
        Ok(Unregistered::Gone(Some(unpinned))) => unpinned.pages.raw(),
        other => panic!("{other:?}"),
    }
}
