//! One process's memory: page tables as x86-64 has them, frames with counts, and room for a pin
//! table. Everything lies flat, so that nothing of it costs anything but its memory.

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::host::{
    LeakFrames, Mapping, MappingKind, Mappings, NeverFreed, NoAccount, NoFault, NoMigrate, Parts,
    SpaceId, SpinWait, Wait,
};
use pinfold::sync::{Ordering, Word};
use pinfold::{
    AccountId, AddrRange, AddressSpace, Dirtied, Engine, FrameTable, HolderId, Order, PageCount,
    PageShift, Pfn, PhysAddr, PinFlags, PinRequest, PinTable, Pinned, VirtAddr, X86_64,
};
use pinfold_arch::Access;
use pinfold_arch::addr::index;

use crate::allocator;
use crate::memory::Flat;
use crate::random::Random;
use crate::tables::{FlatTables, PageTables};

/// The base page.
pub const BASE: PageShift = PageShift::SIZE_4K;
/// Where the memory is mapped: where a table of the two lowest levels starts, inside the first
/// table of the level above.
const START: VirtAddr = VirtAddr::new(0x10_0000_0000);
/// Where the memory lies.
pub const FRAMES: PhysAddr = PhysAddr::new(1 << 40);

/// What a [`Scene`] looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// How much memory, in base pages: whole GiB, or a part of the first.
    pub pages: u64,
    /// Size of the folios: 4 KiB, 2 MiB or 1 GiB.
    pub page: PageShift,
    /// Size of the pages that map them: the same or 4 KiB.
    pub mapped: PageShift,
    /// Whether the folios lie in random order, or one behind the other.
    pub shuffled: bool,
}

impl Layout {
    fn order(&self) -> Order {
        self.page.order(BASE)
    }

    /// Folios.
    #[must_use]
    pub fn folios(&self) -> u64 {
        self.pages / self.order().pages().raw()
    }

    /// Entries that map them.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.pages / self.mapped.pages(BASE).raw()
    }

    /// One of each kind, small.
    #[must_use]
    pub fn samples() -> [Self; 5] {
        let (small, large, huge) = (PageShift::SIZE_4K, PageShift::SIZE_2M, PageShift::SIZE_1G);
        let (few, many) = (1 << 14, 1 << 19);
        [
            Self { pages: few, page: small, mapped: small, shuffled: false },
            Self { pages: few, page: small, mapped: small, shuffled: true },
            Self { pages: few, page: large, mapped: large, shuffled: false },
            Self { pages: few, page: large, mapped: small, shuffled: true },
            Self { pages: many, page: huge, mapped: huge, shuffled: false },
        ]
    }
}

/// How often pin, lookups and unpin of a scene call the allocator.
#[must_use]
pub fn allocator_calls(layout: Layout) -> u64 {
    let scene = Scene::new(layout);
    allocator::calls(|| {
        scene.pin();
        for page in (0..layout.pages).step_by(7) {
            let va = VirtAddr::new(START.raw() + (page << BASE.raw()));
            assert!(scene.pins().lookup(va).is_ok());
        }
        scene.unpin();
    })
}

/// Memory that can be pinned.
#[derive(Debug)]
pub struct Scene {
    layout: Layout,
    tables: PageTables<X86_64>,
    frames: Flat,
    pins: Flat,
    space: AddressSpace<X86_64>,
}

/// Numbers of the folios, in order of address.
fn folio_order(layout: &Layout) -> Vec<u64> {
    let mut folios: Vec<u64> = (0..layout.folios()).collect();
    if layout.shuffled {
        Random::new().shuffle(&mut folios);
    }
    folios
}

/// The host of a scene: page tables in flat memory, one private mapping, ready-made parts.
pub type SceneHost<'m, W = SpinWait> =
    Parts<FlatTables<'m>, OneMapping, NeverFreed, NoFault, NoMigrate, LeakFrames, NoAccount, W>;

/// Anonymous memory of one process.
#[derive(Clone, Copy, Debug)]
pub struct OneMapping(AddrRange);

impl Mappings for OneMapping {
    fn mapping(&self, _: SpaceId, va: VirtAddr) -> Option<Mapping> {
        self.0.contains(va).then_some(Mapping {
            range: self.0,
            kind: MappingKind::Anonymous,
            shared: false,
            access: Access::READ | Access::WRITE,
            may_write: true,
            dirty_tracked: false,
        })
    }
}

impl Scene {
    /// Memory as `layout` says, mapped and present, with one reference on each folio.
    ///
    /// # Panics
    /// If `layout` is none, or there is no memory.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        let format = X86_64::new(4, 46).expect("four levels");
        let frames = Flat::new(index(layout.pages) * 2);
        let range = AddrRange::new(START, PageCount::new(layout.pages), BASE).expect("a range");
        let pins = Flat::new(PinTable::words_for(&range, layout.page).expect("a size"));
        let folios = folio_order(&layout);
        let per_folio = layout.page.pages(layout.mapped).raw();
        let tables = PageTables::new(format, &range, layout.mapped, |page| {
            let folio = folios[index(page / per_folio)] << layout.page.raw();
            PhysAddr::new(FRAMES.raw() + folio + ((page % per_folio) << layout.mapped.raw()))
        });
        let space = AddressSpace::new(SpaceId(1), format, tables.root());
        PinTable::new(pins.words()).expect("room for a header");
        let scene = Self { layout, tables, frames, pins, space };
        scene.make_folios();
        scene
    }

    fn make_folios(&self) {
        let table = self.frame_table();
        let info = FolioInfo {
            order: self.layout.order(),
            kind: FolioKind::Anonymous,
            flags: FolioFlags::EXCLUSIVE,
        };
        for folio in 0..self.layout.folios() {
            let head = Pfn::new(table.first().raw() + (folio << info.order.raw()));
            table.add_memory(head, info).expect("new memory").unfreeze(1);
        }
    }

    /// The entries that map memory, in order of address.
    #[must_use]
    pub fn leaves(&self) -> &[Word] {
        self.tables.leaves()
    }

    /// The frames.
    ///
    /// # Panics
    /// Never: the frames were accepted before.
    #[must_use]
    pub fn frame_table(&self) -> FrameTable<'_> {
        FrameTable::new(self.frames.words(), FRAMES.pfn(BASE), BASE).expect("46 bits at most")
    }

    /// The host of the engine, with a waiting part of one's own.
    pub fn host<W: Wait>(&self, wait: W) -> SceneHost<'_, W> {
        let memory = self.tables.memory();
        let Parts { mappings, guard, fault, migrate, reclaim, account, trace, .. } =
            Parts::new(memory, OneMapping(self.range()));
        Parts { memory, mappings, guard, fault, migrate, reclaim, account, wait, trace }
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> Engine<'_, SceneHost<'_>> {
        Engine::new(self.host(SpinWait), self.frame_table())
    }

    /// The address space.
    #[must_use]
    pub fn space(&self) -> &AddressSpace<X86_64> {
        &self.space
    }

    /// The pin table.
    ///
    /// # Panics
    /// Never: it was made before.
    #[must_use]
    pub fn pins(&self) -> PinTable<'_> {
        PinTable::open(self.pins.words()).expect("the table that `new` made")
    }

    /// All addresses.
    ///
    /// # Panics
    /// Never: the range was accepted before.
    #[must_use]
    pub fn range(&self) -> AddrRange {
        AddrRange::new(START, PageCount::new(self.layout.pages), BASE).expect("a range")
    }

    /// A long-term pin for writing of everything.
    #[must_use]
    pub fn request(&self) -> PinRequest {
        PinRequest {
            range: self.range(),
            access: Access::READ | Access::WRITE,
            flags: PinFlags::LONGTERM,
            holder: HolderId(1),
            account: AccountId(1),
            revocable: false,
        }
    }

    /// Pins everything.
    ///
    /// # Panics
    /// If that fails: the scene is made to be pinned.
    pub fn pin(&self) -> Pinned {
        self.engine().pin(&self.space, &self.pins(), &self.request()).expect("it can be pinned")
    }

    /// Gives everything back.
    ///
    /// # Panics
    /// If nothing is pinned.
    pub fn unpin(&self) {
        let given = self.engine().unpin(&self.pins(), Dirtied::No).expect("it is pinned");
        assert_eq!(given.pages.raw(), self.layout.pages);
    }

    /// Pins once and looks closely: every page counted, some addresses looked up.
    ///
    /// # Panics
    /// If anything is not as it should be.
    pub fn check(&self) {
        let pinned = self.pin();
        assert_eq!(pinned.pages.raw(), self.layout.pages);
        assert_eq!((pinned.faults, pinned.migrated), (0, 0));
        for at in (0..self.layout.entries()).step_by(97) {
            let entry = self.leaves()[index(at)].load(Ordering::Relaxed);
            let addr = PhysAddr::new(entry & ((1 << 46) - 1) & !self.layout.mapped.mask());
            let va = VirtAddr::new(START.raw() + (at << self.layout.mapped.raw()) + 0x123);
            assert_eq!(self.pins().lookup(va), Ok(PhysAddr::new(addr.raw() + 0x123)));
        }
        self.assert_pins(self.layout.order().pages().raw());
        self.unpin();
        self.assert_pins(0);
    }

    /// Every folio has so many pins, and one reference beside them.
    fn assert_pins(&self, pins: u64) {
        let frames = self.frame_table();
        for folio in 0..self.layout.folios() {
            let head = frames.first().raw() + (folio << self.layout.order().raw());
            let counts = frames.counts_of(frames.folio(Pfn::new(head)).expect("a folio"));
            assert_eq!(u64::from(counts.pins()), pins);
            assert_eq!(u64::from(counts.references()), pins + 1);
        }
    }
}
