//! Regions to be looked up: where they lie, what memory is behind them, and their registration.

use pinfold::host::{PlainHost, SourceError, SpaceId, SpinWait};
use pinfold::region::InSpace;
use pinfold::source::{HostPins, PinSource, RunSink};
use pinfold::sync::{Ordering, Word};
use pinfold::table::Run;
use pinfold::{
    Access, AddrRange, Areas, Dirtied, Order, PageCount, PageShift, Pfn, PinRequest, PinTable,
    RealMode, RegionId, Registry, VirtAddr,
};
use pinfold_arch::addr::index;

use crate::memory::Flat;
use crate::queries::Locate;
use crate::scene::BASE;

/// Where a window of 1 GiB blocks begins.
const START: u64 = 0x10_0000_0000;
/// Frames of the memory behind the regions: 1 TiB.
const FRAMES: u64 = 1 << 28;

/// Regions of one size, one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// How many.
    pub regions: u64,
    /// Pages of each.
    pub pages: u64,
    /// Pages between a border of 1 GiB and the first region.
    pub skew: u64,
    /// The size of the folios behind them.
    pub folio: PageShift,
}

impl Layout {
    /// Memory of `gib` GiB in so many regions, as single frames in random order.
    #[must_use]
    pub const fn whole(gib: u64, regions: u64) -> Self {
        Self { regions, pages: (gib << 18) / regions, skew: 0, folio: BASE }
    }

    /// All addresses.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn span(&self) -> AddrRange {
        self.range(0, self.regions * self.pages)
    }

    /// Each region.
    #[must_use]
    pub fn ranges(&self) -> Vec<AddrRange> {
        (0..self.regions).map(|at| self.range(at * self.pages, self.pages)).collect()
    }

    fn range(&self, first: u64, pages: u64) -> AddrRange {
        let start = VirtAddr::new(START + ((self.skew + first) << BASE.raw()));
        AddrRange::new(start, PageCount::new(pages), BASE).expect("a range")
    }
}

/// Memory in folios of one size, so scattered that no two continue each other. It stays where it is.
#[derive(Clone, Copy, Debug)]
pub struct Scattered(pub PageShift);

impl PinSource for Scattered {
    fn base(&self) -> PageShift {
        BASE
    }
    fn chunk(&self) -> Order {
        self.0.order(BASE).max(PageShift::SIZE_2M.order(BASE))
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        let folio = self.0.order(BASE).pages().raw();
        let (mut page, end) =
            (part.start().raw() >> BASE.raw(), (part.last().raw() >> BASE.raw()) + 1);
        while page < end {
            let inside = page & (folio - 1);
            let pages = (folio - inside).min(end - page);
            let pfn = Pfn::new(scattered(page / folio, FRAMES / folio) * folio + inside);
            runs.push(pfn, PageCount::new(pages))?;
            page += pages;
        }
        Ok(())
    }
    fn unpin(&self, _: Run) {}
}

/// Another place for each of `folios`, a power of two: an odd factor loses nothing.
fn scattered(folio: u64, folios: u64) -> u64 {
    folio.wrapping_mul(0x9e3_7795) & (folios - 1)
}

/// Memory for a registry and for the tables of regions, which are known beforehand.
#[derive(Debug)]
pub struct Memory {
    window: AddrRange,
    words: Flat,
    /// Words of the registry itself; the tables lie behind them.
    own: usize,
    regions: Vec<Place>,
}

/// A region, and where its table stands.
#[derive(Debug)]
struct Place {
    range: AddrRange,
    folio: PageShift,
    first: usize,
    words: usize,
}

impl Memory {
    /// Room for the regions of all these layouts, in a registry for `window`.
    ///
    /// # Panics
    /// If a layout is none, or there is no memory.
    #[must_use]
    pub fn new(window: AddrRange, layouts: &[Layout]) -> Self {
        let count: u64 = layouts.iter().map(|layout| layout.regions).sum();
        let count = u32::try_from(count).expect("less than 2^32 regions");
        let own = Registry::words_for(&window, count).expect("a size");
        let mut regions = Vec::new();
        let mut first = own;
        for layout in layouts {
            for range in layout.ranges() {
                let words = PinTable::words_for(&range, layout.folio).expect("a size");
                regions.push(Place { range, folio: layout.folio, first, words });
                first += words;
            }
        }
        Self { window, words: Flat::new(first), own, regions }
    }

    /// A registry in this memory, with nothing registered.
    ///
    /// # Panics
    /// Never: the memory was measured for it.
    #[must_use]
    pub fn registry(&self) -> Registry<'_> {
        let records = u32::try_from(self.regions.len()).expect("it was counted before");
        let own = &self.words.words()[..self.own];
        Registry::new(self.areas(), own, &self.window, records).expect("room for a registry")
    }

    /// The registry that was made in this memory, to be read.
    ///
    /// # Panics
    /// If there was none.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        let own = &self.words.words()[..self.own];
        Reader(RealMode::open(self.areas(), own).expect("a registry"))
    }

    fn areas(&self) -> Areas<'_> {
        Areas::new(&[self.words.words()]).expect("one area")
    }

    /// The words of a region's table.
    #[must_use]
    pub fn table(&self, at: usize) -> &[Word] {
        let place = &self.regions[at];
        &self.words.words()[place.first..][..place.words]
    }

    /// Which part the word at an address belongs to: a number for each record, and one for each
    /// word that is none of a record. See [`pinfold::realmode::layout`] for where records stand.
    #[must_use]
    pub fn part(&self, address: usize) -> usize {
        const RECORD: usize = 8;
        let word = (address - self.words.words().as_ptr().addr()) / size_of::<Word>();
        let records = RECORD * (1 + self.regions.len());
        if word < records { word / RECORD * RECORD } else { word }
    }

    /// Registers a region.
    ///
    /// # Panics
    /// If that fails: it is made to be registered.
    pub fn register<'m>(&'m self, registry: &Registry<'m>, at: usize) -> RegionId {
        let place = &self.regions[at];
        let request = PinRequest::longterm(place.range, Access::READ | Access::WRITE);
        let pins = HostPins::new(PlainHost, Scattered(place.folio));
        let pinner = InSpace { pins: &pins, space: SpaceId(1) };
        registry.register(&pinner, &request, self.table(at)).expect("it can be registered").region
    }

    /// Removes a region, and waits for `quiet` before its memory may be used again.
    ///
    /// # Panics
    /// If it is not registered.
    pub fn unregister<'m>(&'m self, registry: &Registry<'m>, id: RegionId, quiet: impl FnOnce()) {
        let pins = HostPins::new(PlainHost, Scattered(BASE));
        let pinner = InSpace { pins: &pins, space: SpaceId(1) };
        registry.unregister(&pinner, id, Dirtied::No).expect("it is registered");
        let grace = registry.retired(&SpinWait);
        quiet();
        registry.reclaim(&SpinWait, grace, |_| {});
    }
}

/// Regions that are all registered.
#[derive(Debug)]
pub struct Registered {
    layout: Layout,
    memory: Memory,
}

impl Registered {
    /// These regions, in a registry for the lower half of all addresses.
    ///
    /// # Panics
    /// If `layout` is none, or there is no memory.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        let memory = Memory::new(lower_half(), &[layout]);
        let registry = memory.registry();
        for at in 0..index(layout.regions) {
            memory.register(&registry, at);
        }
        Self { layout, memory }
    }

    /// Who asks.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        self.memory.reader()
    }

    /// Words in use of the first region's table.
    ///
    /// # Panics
    /// Never: there is a table.
    #[must_use]
    pub fn table_words(&self) -> usize {
        PinTable::open(self.memory.table(0)).expect("a table").used_words()
    }

    /// The address of each page.
    ///
    /// # Panics
    /// If one is not found.
    #[must_use]
    pub fn addresses(&self) -> Flat {
        let span = self.layout.span();
        let (reader, slots) = (self.reader(), Flat::new(index(span.pages().raw())));
        let pages = (span.start().raw()..).step_by(index(BASE.bytes()));
        for (va, slot) in pages.zip(slots.words()) {
            let found = reader.locate(va).expect("it is registered");
            slot.store(found, Ordering::Relaxed);
        }
        slots
    }
}

/// All addresses that a process has where addresses have 48 bits.
///
/// # Panics
/// Never.
#[must_use]
pub fn lower_half() -> AddrRange {
    AddrRange::new(VirtAddr::new(0), PageCount::new(1 << 35), BASE).expect("a range")
}

/// Asks a registry, in two calls: for the region, then for the address.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'m>(RealMode<'m>);

impl Locate for Reader<'_> {
    #[inline(always)]
    fn locate(&self, va: u64) -> Option<u64> {
        let va = VirtAddr::new(va);
        let region = self.0.lookup(va, 1).ok()?;
        Some(self.0.translate(region, va, BASE).ok()?.raw())
    }
}
