//! A region's life: registering, sharing, mapping, removing, and what is refused.

use std::cell::Cell;

use pinfold::region::{RegionError, Registered, Unregistered};
use pinfold::sync::Word;
use pinfold::*;
use pinfold_sim::PinHost;

mod device;
mod failures;
mod lookup;
mod many;
mod mapping;
mod memory;
mod names;
mod pauses;
mod sharing;
mod steps;
mod usable;

const BASE: PageShift = PageShift::SIZE_4K;
const BOTH: Access = Access::READ.union(Access::WRITE);

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
    host: PinHost,
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
        Self { registry, memory, own, next: Cell::new(own), host: PinHost::new(BASE) }
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
        self.registry.register(&self.host, request, table)
    }

    fn register_device(&self, first: u64, pages: u64, at: u64) -> Result<Registered, RegionError> {
        let at = PhysAddr::new(at);
        self.registry.register_device(&self.host, &range(first, pages), at)
    }

    fn unregister(&self, region: RegionId) -> Result<Unregistered, RegionError> {
        self.registry.unregister(&self.host, region, Dirtied::No)
    }

    /// Reclaims all that is retired; the tables that come back, as offsets in the area and lengths.
    fn reclaim(&self) -> Vec<(usize, usize)> {
        let grace = self.registry.retired(&self.host);
        let mut back = Vec::new();
        self.registry.reclaim(&self.host, grace, |table| {
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
        assert_eq!(self.registry.len(&self.host), 0);
        assert!(self.host.is_clean());
    }
}

/// What is left of the memory after a test, and that the rest is unchanged.
fn gone(answer: Result<Unregistered, RegionError>) -> u64 {
    match answer {
        Ok(Unregistered::Gone(Some(unpinned))) => unpinned.pages.raw(),
        other => panic!("{other:?}"),
    }
}
