//! What the machine keeps track of, under its one lock, and the steps that everything else is
//! made of: take a folio, put it into a page table, take it out again.
//!
//! # What counts as a reference
//!
//! One for every page-table entry that maps the folio or a part of it, whatever the entry's size; one for
//! the file that the folio is cached for; one a page for pins; one for a migration claim; one for whoever
//! took one by hand; one while it waits in a CPU's list of new pages. The base zero frame is not counted by
//! the entries that map it, the huge zero folio is. Page-table pages, the two zero folios and what was
//! allocated in one piece have one of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pinfold::folio::{Folio, FolioFlags, FolioKind};
use pinfold::frames::{FrameTable, Frozen};
use pinfold::host::SpaceId;
use pinfold::{AddressSpace, Order, PageCount, PageShift, Pfn, Rights, Table, VirtAddr};
use pinfold_arch::{Entry, Leaf, LeafFlags};

use crate::batch::Batches;
use crate::format::TableFormat;
use crate::guard::Guards;
use crate::layout::{FrameRange, ZoneKind};
use crate::objects::{File, FileId};
use crate::ram::Ram;
use crate::space::Vma;
use crate::swap::Swap;
use crate::tables::{Spot, Tables};
use crate::zones::{Place, Want, Zones};

/// A page-table entry: the space and the first address that it maps.
pub(crate) type Mapped = (u64, VirtAddr);

/// There is no memory for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the machine has no memory for it")]
pub struct NoMemory;

/// An address space and what is mapped in it.
#[derive(Debug)]
pub(crate) struct SpaceState<F> {
    pub(crate) handle: Arc<AddressSpace<F>>,
    /// By first address.
    pub(crate) vmas: BTreeMap<u64, Vma>,
}

#[derive(Debug)]
pub(crate) struct State<'m, F> {
    pub(crate) ram: &'m Ram,
    pub(crate) frames: FrameTable<'m>,
    pub(crate) tables: Tables<'m, F>,
    pub(crate) zones: Zones<'m>,
    pub(crate) guards: Arc<Guards>,
    pub(crate) spaces: BTreeMap<u64, SpaceState<F>>,
    pub(crate) next_space: u64,
    pub(crate) files: BTreeMap<FileId, File>,
    pub(crate) next_file: u32,
    /// Which entries map a folio, by its first frame.
    pub(crate) rmap: BTreeMap<Pfn, BTreeSet<Mapped>>,
    /// Which file a folio is cached for, by its first frame.
    pub(crate) cached: BTreeMap<Pfn, FileId>,
    /// References taken by hand, by first frame.
    pub(crate) foreign: BTreeMap<Pfn, u32>,
    /// New pages that wait to be put on lists, with a reference each.
    pub(crate) batches: Batches,
    pub(crate) swap: Swap,
    /// Huge pages set aside, free ones.
    pub(crate) pool: BTreeSet<Pfn>,
    /// How many huge pages are too many: so many of the next that become free go for good.
    pub(crate) surplus: u64,
    /// Frames that were allocated in one piece, or taken to make memory short.
    pub(crate) pieces: Vec<FrameRange>,
    pub(crate) hogged: Vec<Pfn>,
    /// Spaces whose fork has begun, and which folios it found pinned.
    pub(crate) forking: BTreeMap<u64, BTreeSet<Pfn>>,
    /// The shared zero frame and the huge zero folio.
    pub(crate) zero: Pfn,
    pub(crate) huge_zero: Option<Pfn>,
}

impl<'m, F: TableFormat> State<'m, F> {
    pub(crate) fn new(ram: &'m Ram, format: F, zero: Place, guards: Arc<Guards>) -> Self {
        let frames = ram.frame_table();
        let mut zones = Zones::new(frames, ram.layout());
        let frozen = zones
            .alloc(Order::ZERO, Want::In(zero), FolioKind::Anonymous, FolioFlags::ZERO)
            .expect("a machine has room for a zero page");
        let zero = frozen.head();
        frozen.unfreeze(1);
        Self {
            ram,
            frames,
            tables: Tables::new(ram, format),
            zones,
            guards,
            spaces: BTreeMap::new(),
            next_space: 1,
            files: BTreeMap::new(),
            next_file: 1,
            rmap: BTreeMap::new(),
            cached: BTreeMap::new(),
            foreign: BTreeMap::new(),
            batches: Batches::default(),
            swap: Swap::default(),
            pool: BTreeSet::new(),
            surplus: 0,
            pieces: Vec::new(),
            hogged: Vec::new(),
            forking: BTreeMap::new(),
            zero,
            huge_zero: None,
        }
    }

    pub(crate) fn base(&self) -> PageShift {
        self.ram.base()
    }

    pub(crate) fn pfn_of(&self, leaf: &Leaf) -> Pfn {
        leaf.addr.pfn(self.base())
    }

    pub(crate) fn folio(&self, pfn: Pfn) -> Option<Folio> {
        self.frames.folio(pfn)
    }

    pub(crate) fn root(&self, id: SpaceId) -> Option<Table> {
        Some(self.spaces.get(&id.0)?.handle.root())
    }

    pub(crate) fn spot(&self, id: SpaceId, va: VirtAddr) -> Option<Spot> {
        Some(self.tables.spot(self.root(id)?, va))
    }

    /// The start of the page that an entry of this size maps.
    pub(crate) fn page_at(va: VirtAddr, leaf: &Leaf) -> VirtAddr {
        va.align_down(leaf.shift)
    }

    /// A folio with zeroed contents and one reference, its allocator's, to be dropped with `put`.
    pub(crate) fn new_folio(
        &mut self,
        order: Order,
        want: Want,
        kind: FolioKind,
        flags: FolioFlags,
    ) -> Result<Pfn, NoMemory> {
        let frozen = self.zones.alloc(order, want, kind, flags).ok_or(NoMemory)?;
        let head = frozen.head();
        for pfn in FrameRange::new(head, order.pages()).iter() {
            self.ram.clear(pfn);
        }
        frozen.unfreeze(1);
        Ok(head)
    }

    /// Drops references and frees the folio with the last one.
    pub(crate) fn put(&mut self, pfn: Pfn, n: u32) {
        let folio = self.folio(pfn).expect("a folio in use");
        if let Some(last) = self.frames.put(folio, n).expect("the machine counts right") {
            self.free(last);
        }
    }

    /// Takes back a folio that nobody refers to.
    pub(crate) fn free(&mut self, folio: Frozen<'_>) {
        let head = folio.head();
        let kind = self.folio(head).map(|folio| folio.info().kind);
        if kind == Some(FolioKind::Hugetlb) && self.surplus > 0 {
            self.surplus -= 1;
            self.zones.release(folio);
        } else if kind == Some(FolioKind::Hugetlb) {
            self.pool.insert(head);
            folio.free();
            let clean = FolioFlags::EXCLUSIVE | FolioFlags::DIRTY;
            let idle = self.folio(head).expect("it is in the pool");
            self.frames.set_flags(idle, clean, false);
        } else {
            self.zones.release(folio);
        }
    }

    /// Adds a page-table page.
    fn new_table(&mut self, at: &Table) -> Result<Table, NoMemory> {
        let bytes = (at.entries() * 8) as u64;
        let pages = bytes.div_ceil(self.base().bytes()).next_power_of_two();
        let order = Order::new(pages.trailing_zeros() as u8).ok_or(NoMemory)?;
        let none = FolioFlags::empty();
        let pfn = self.new_folio(order, Want::Pinnable, FolioKind::Kernel, none)?;
        let base = pfn.addr(self.base()).expect("memory has addresses");
        let table = Table { base, ..*at };
        // New memory is zero, which means something in some formats.
        if self.tables.absent(&table) != 0 {
            self.tables.fill(&table, Entry::Absent);
        }
        Ok(table)
    }

    pub(crate) fn new_root(&mut self) -> Result<Table, NoMemory> {
        let root = self.tables.format().top(pinfold::PhysAddr::new(0));
        self.new_table(&root)
    }

    /// The table in which entries of this size for `va` stand, made where it is missing.
    /// `None` inside where a larger leaf is in the way.
    pub(crate) fn ensure(
        &mut self,
        id: SpaceId,
        va: VirtAddr,
        shift: PageShift,
    ) -> Result<Option<Table>, NoMemory> {
        let mut table = self.root(id).expect("a space of this machine");
        while table.shift > shift {
            let index = usize::from(table.index(va));
            table = match self.tables.load(&table, index) {
                Entry::Table(next, _) => next,
                Entry::Absent => {
                    let below = self.tables.format().below(&table, pinfold::PhysAddr::new(0));
                    let next = self.new_table(&below.expect("a size that the format has"))?;
                    self.tables.link(&table, index, next);
                    next
                }
                Entry::Leaf(_) | Entry::Malformed => return Ok(None),
            };
        }
        Ok((table.shift == shift).then_some(table))
    }

    /// Maps frames where nothing is mapped, with a reference of their folio's for each entry: one,
    /// or as many as a page of this size takes where there is no such leaf.
    pub(crate) fn map_leaf(
        &mut self,
        id: SpaceId,
        va: VirtAddr,
        shift: PageShift,
        pfn: Pfn,
        rights: Rights,
    ) -> Result<(), NoMemory> {
        let unit = self.tables.format().unit(shift);
        let flags = if unit < shift { LeafFlags::CONTIGUOUS } else { LeafFlags::empty() };
        let mut tables = Vec::new();
        for i in 0..shift.pages(unit).raw() {
            let part = VirtAddr::new(va.raw() + (i << unit.raw()));
            let table = self.ensure(id, part, unit)?.expect("no larger page is in the way");
            tables.push((table, part, Pfn::new(pfn.raw() + i * unit.pages(self.base()).raw())));
        }
        for (table, part, pfn) in tables {
            self.map_in(id, &table, part, pfn, rights, flags);
        }
        Ok(())
    }

    /// [`map_leaf`](Self::map_leaf) in a table that is there.
    pub(crate) fn map_in(
        &mut self,
        id: SpaceId,
        table: &Table,
        va: VirtAddr,
        pfn: Pfn,
        rights: Rights,
        flags: LeafFlags,
    ) {
        let at = usize::from(table.index(va));
        let absent = self.tables.absent(table);
        debug_assert_eq!(self.tables.load_raw(table, at), absent, "something is mapped at {va}");
        if let Some(folio) = self.folio(pfn).filter(|folio| !folio.is_zero_frame()) {
            self.frames.get(folio, 1).expect("a folio in use");
            self.rmap.entry(folio.head()).or_default().insert((id.0, va));
        }
        let addr = pfn.addr(self.base()).expect("memory has addresses");
        let leaf = Leaf { flags, ..Leaf::new(addr, table.shift, rights) };
        self.store_leaf(table, at, leaf);
    }

    /// Takes a leaf out of its table, hands its dirty mark to the folio, drops its reference.
    /// The caller brackets it as an invalidation.
    pub(crate) fn unmap_leaf(&mut self, id: SpaceId, va: VirtAddr, spot: &Spot) {
        let Entry::Leaf(_) = spot.entry else { return };
        let raw = self.tables.clear(&spot.table, spot.index);
        let Entry::Leaf(leaf) = self.tables.format().decode(&spot.table, raw) else { return };
        let pfn = self.pfn_of(&leaf);
        let Some(folio) = self.folio(pfn).filter(|folio| !folio.is_zero_frame()) else { return };
        if leaf.flags.contains(LeafFlags::DIRTY) {
            self.frames.set_flags(folio, FolioFlags::DIRTY, true);
        }
        let head = folio.head();
        let entries = self.rmap.get_mut(&head).expect("every mapping is recorded");
        let known = entries.remove(&(id.0, Self::page_at(va, &leaf)));
        debug_assert!(known, "every mapping is recorded");
        if entries.is_empty() {
            self.rmap.remove(&head);
        }
        self.put(head, 1);
    }

    /// How many entries map the folio.
    pub(crate) fn mappings_of(&self, head: Pfn) -> u32 {
        self.rmap.get(&head).map_or(0, |entries| entries.len() as u32)
    }

    /// Frees the tables on the way to `va` that have become empty, but for the root.
    pub(crate) fn prune(&mut self, id: SpaceId, va: VirtAddr) {
        let Some(root) = self.root(id) else { return };
        let mut path = self.tables.path(root, va);
        while let (Some((table, _)), Some((above, index))) = (path.pop(), path.last().copied()) {
            if !self.tables.is_empty(&table) {
                return;
            }
            self.tables.clear(&above, index);
            self.free_table(id, table);
        }
    }

    /// Frees a table that nothing points to any more, now or when the last walker has left.
    pub(crate) fn free_table(&mut self, id: SpaceId, table: Table) {
        let guards = Arc::clone(&self.guards);
        guards.free(id, table, |table| self.release_table(&table));
    }

    /// Overwrites a table and gives its memory back. Nobody may be reading it.
    pub(crate) fn release_table(&mut self, table: &Table) {
        self.poison(table);
        self.put(table.base.pfn(self.base()), 1);
    }

    /// What a table page looks like to a walker that should not be there any more: the kernel's
    /// own memory, writable.
    fn poison(&self, table: &Table) {
        let addr = table.base.align_down(table.shift);
        let rights = Rights::READ | Rights::WRITE | Rights::USER;
        let leaf = Leaf::new(addr, table.shift, rights);
        let said = self.tables.format().closest(table, &leaf);
        self.tables.fill(table, said.map_or(Entry::Absent, Entry::Leaf));
    }

    /// Replaces a leaf by a table of smaller ones that map the same frames.
    pub(crate) fn split_leaf(&mut self, id: SpaceId, va: VirtAddr) -> Result<(), NoMemory> {
        let Some(spot) = self.spot(id, va) else { return Ok(()) };
        let Entry::Leaf(leaf) = spot.entry else { return Ok(()) };
        let Some(shape) = self.tables.format().below(&spot.table, pinfold::PhysAddr::new(0)) else {
            return Ok(());
        };
        let table = self.new_table(&shape)?;
        let (start, first) = (Self::page_at(va, &leaf), self.pfn_of(&leaf));
        let step = shape.shift.pages(self.base()).raw();
        let parts = leaf.shift.pages(self.base()).raw() / step;
        let handle = Arc::clone(&self.spaces[&id.0].handle);
        handle.invalidate_start();
        for i in 0..parts {
            let part = VirtAddr::new(start.raw() + (i << shape.shift.raw()));
            let pfn = Pfn::new(first.raw() + i * step);
            self.map_in(id, &table, part, pfn, leaf.rights, leaf.flags);
        }
        // The first part's record and the whole's are the same pair.
        let raw = self.tables.clear(&spot.table, spot.index);
        debug_assert!(matches!(self.tables.format().decode(&spot.table, raw), Entry::Leaf(_)));
        self.tables.link(&spot.table, spot.index, table);
        if self.folio(first).is_some_and(|folio| !folio.is_zero_frame()) {
            self.put(first, 1);
        }
        handle.invalidate_end();
        Ok(())
    }

    /// Splits leaves until none larger than a base page maps `va`, unless it is hugetlb.
    pub(crate) fn split_at(&mut self, id: SpaceId, va: VirtAddr) -> Result<(), NoMemory> {
        while let Some(Spot { entry: Entry::Leaf(leaf), .. }) = self.spot(id, va) {
            let start = Self::page_at(va, &leaf);
            if start == va || leaf.shift == self.base() {
                break;
            }
            self.split_leaf(id, va)?;
        }
        Ok(())
    }

    /// The huge zero folio, made on first use.
    pub(crate) fn huge_zero(&mut self) -> Option<Pfn> {
        if self.huge_zero.is_none() {
            let order = self.tables.format().huge().order(self.base());
            let place = Want::In(Place::Zone(ZoneKind::Normal));
            let flags = FolioFlags::ZERO;
            self.huge_zero = self.new_folio(order, place, FolioKind::Anonymous, flags).ok();
        }
        self.huge_zero
    }

    pub(crate) fn copy_frames(&self, from: Pfn, to: Pfn, pages: PageCount) {
        for i in 0..pages.raw() {
            self.ram.copy(Pfn::new(from.raw() + i), Pfn::new(to.raw() + i));
        }
    }

    /// Handles of the spaces that have one of these entries, each once.
    pub(crate) fn handles(&self, entries: &BTreeSet<Mapped>) -> Vec<Arc<AddressSpace<F>>> {
        let ids: BTreeSet<u64> = entries.iter().map(|(id, _)| *id).collect();
        ids.iter().filter_map(|id| Some(Arc::clone(&self.spaces.get(id)?.handle))).collect()
    }
}
