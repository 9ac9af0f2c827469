//! One process's memory: page tables as x86-64 has them, frames with counts, and room for a pin
//! table. Everything lies flat, so that nothing of it costs anything but its memory.

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::host::{
    LeakFrames, Mapping, MappingKind, Mappings, NeverFreed, NoAccount, NoFault, NoMigrate, Parts,
    PhysMem, SpaceId, SpinWait, TableView, Wait,
};
use pinfold::sync::{Ordering, Word};
use pinfold::{
    AccountId, AddrRange, AddressSpace, Dirtied, Engine, FrameTable, HolderId, Order, PageCount,
    PageFormat, PageShift, Pfn, PhysAddr, PinFlags, PinRequest, PinTable, Pinned, Rights, Table,
    VirtAddr, X86_64,
};
use pinfold_arch::addr::index;
use pinfold_arch::{Access, Entry, Leaf, LeafFlags};

use crate::allocator;
use crate::memory::Flat;
use crate::random::Random;

/// The base page.
pub const BASE: PageShift = PageShift::SIZE_4K;
/// Where the memory is mapped: where a table of the two lowest levels starts, inside the first
/// table of the level above.
const START: VirtAddr = VirtAddr::new(0x10_0000_0000);
/// Where the page tables lie.
const TABLES: PhysAddr = PhysAddr::new(0x10_0000);
/// Where the memory lies.
pub const FRAMES: PhysAddr = PhysAddr::new(1 << 40);
/// Entries of a page table.
const ENTRIES: usize = 512;

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
    tables: Flat,
    frames: Flat,
    pins: Flat,
    space: AddressSpace<X86_64>,
}

/// The host of a scene: page tables in flat memory, one private mapping, ready-made parts.
pub type SceneHost<'m, W = SpinWait> =
    Parts<FlatTables<'m>, OneMapping, NeverFreed, NoFault, NoMigrate, LeakFrames, NoAccount, W>;

/// Page tables from `TABLES` on.
#[derive(Clone, Copy, Debug)]
pub struct FlatTables<'m> {
    words: &'m [Word],
}

impl PhysMem for FlatTables<'_> {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = index(base.raw().checked_sub(TABLES.raw())? / 8);
        Some(TableView::from_words(self.words.get(first..first.checked_add(entries)?)?))
    }
}

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
        let root = format.root(TABLES.raw()).expect("a root below 46 bits");
        let frames = Flat::new(index(layout.pages) * 2);
        let range = AddrRange::new(START, PageCount::new(layout.pages), BASE).expect("a range");
        let pins = Flat::new(PinTable::words_for(&range, layout.page).expect("a size"));
        // One table of each level above, and all of the two lowest: as many as there can be.
        let smallest = if layout.mapped == BASE { layout.pages } else { 0 };
        let tables = Flat::new(
            (2 + layout.pages.div_ceil(1 << 18) as usize) * ENTRIES
                + smallest.next_multiple_of(ENTRIES as u64) as usize,
        );
        let space = AddressSpace::new(SpaceId(1), format, root);
        PinTable::new(pins.words()).expect("room for a header");
        let scene = Self { layout, tables, frames, pins, space };
        let folios = scene.folio_order();
        scene.make_folios();
        scene.map(format, root, &folios);
        scene
    }

    fn folio_order(&self) -> Vec<u64> {
        let mut folios: Vec<u64> = (0..self.layout.folios()).collect();
        if self.layout.shuffled {
            Random::new().shuffle(&mut folios);
        }
        folios
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

    /// Lays the tables out level by level, root first, and each level in order of address: so the
    /// entries that map memory are one flat array, which the floor reads too.
    fn map(&self, format: X86_64, root: Table, folios: &[u64]) {
        let per_folio = self.layout.page.pages(self.layout.mapped).raw();
        let mut level = vec![root];
        let mut next_free = 1;
        loop {
            let shift = level[0].shift;
            let entries = (self.layout.pages << BASE.raw()).div_ceil(shift.bytes());
            let mut below = Vec::new();
            for at in 0..entries {
                let va = VirtAddr::new(START.raw() + (at << shift.raw()));
                let table = &level[index(at) / ENTRIES];
                let entry = if shift == self.layout.mapped {
                    let (folio, inside) = (at / per_folio, at % per_folio);
                    let folio = folios[index(folio)] << self.layout.page.raw();
                    leaf(PhysAddr::new(FRAMES.raw() + folio + (inside << shift.raw())), shift)
                } else {
                    let base = TABLES.raw() + next_free * 4096;
                    next_free += 1;
                    let next = PageShift::new(shift.raw() - 9).expect("a lower level");
                    let next = Table { base: PhysAddr::new(base), shift: next, ..root };
                    below.push(next);
                    Entry::Table(next, Rights::READ | Rights::WRITE | Rights::USER)
                };
                let raw = format.encode(table, entry).expect("an entry of the format");
                let word =
                    index((table.base.raw() - TABLES.raw()) / 8 + u64::from(table.index(va)));
                self.tables.words()[word].store(raw, Ordering::Relaxed);
            }
            if shift == self.layout.mapped {
                return;
            }
            level = below;
        }
    }

    /// The entries that map memory, in order of address.
    #[must_use]
    pub fn leaves(&self) -> &[Word] {
        let gibs = index(self.layout.pages.div_ceil(1 << 18));
        let first = match self.layout.mapped {
            BASE => (2 + gibs) * ENTRIES,
            PageShift::SIZE_2M => 2 * ENTRIES,
            // In the middle of the second table.
            _ => ENTRIES + index(START.raw() >> PageShift::SIZE_1G.raw()),
        };
        &self.tables.words()[first..][..index(self.layout.entries())]
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
        let memory = FlatTables { words: self.tables.words() };
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

fn leaf(addr: PhysAddr, shift: PageShift) -> Entry {
    let rights = Rights::READ | Rights::WRITE | Rights::USER;
    let flags = LeafFlags::ACCESSED | LeafFlags::DIRTY;
    Entry::Leaf(Leaf { flags, ..Leaf::new(addr, shift, rights) })
}
