//! What is mapped where: the process's side of an address space.

use std::collections::BTreeMap;
use std::sync::Arc;

use pinfold::folio::FolioFlags;
use pinfold::host::{Mapping, MappingKind, SpaceId};
use pinfold::{
    Access, AddrRange, AddressSpace, PageCount, PageShift, Pfn, Rights, Table, VirtAddr,
};
use pinfold_arch::{Entry, Leaf, LeafFlags};

use crate::format::TableFormat;
use crate::map::{MapError, MapSpec};
use crate::state::{NoMemory, SpaceState, State};
use crate::tables::Spot;

/// One mapping of a space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vma {
    pub(crate) spec: MapSpec,
    pub(crate) range: AddrRange,
}

impl Vma {
    /// What the engine is told.
    pub(crate) fn mapping(&self) -> Mapping {
        Mapping {
            range: self.range,
            kind: self.spec.kind,
            shared: self.spec.shared,
            access: self.spec.access,
            may_write: self.spec.may_write,
            dirty_tracked: self.spec.dirty_tracked
                && self.spec.shared
                && self.spec.access.contains(Access::WRITE),
        }
    }

    /// The page of the file behind an address.
    pub(crate) fn file_page(&self, va: VirtAddr) -> u64 {
        self.spec.offset + self.range.index_of(va).map_or(0, PageCount::raw)
    }

    /// Whether the naturally aligned block of this size around `va` lies inside.
    pub(crate) fn holds_block(&self, va: VirtAddr, shift: PageShift) -> bool {
        let start = va.align_down(shift);
        let last = VirtAddr::new(start.raw() | shift.mask());
        self.range.contains(start) && self.range.contains(last)
    }

    /// What an entry may grant; without any access it belongs to the kernel alone.
    pub(crate) fn rights(&self, write: bool) -> Rights {
        let mut rights = Rights::READ;
        rights.set(Rights::USER, !self.spec.access.is_empty());
        rights.set(Rights::WRITE, write && self.spec.access.contains(Access::WRITE));
        rights
    }

    /// The part of it from `range`, as a mapping of its own.
    fn part(&self, range: AddrRange) -> Self {
        let skipped = self.range.index_of(range.start()).map_or(0, PageCount::raw);
        let spec = MapSpec {
            at: range.start(),
            pages: range.pages(),
            offset: self.spec.offset + skipped,
            ..self.spec
        };
        Self { spec, range }
    }
}

impl<F: TableFormat> State<'_, F> {
    pub(crate) fn add_space(&mut self) -> Result<Arc<AddressSpace<F>>, NoMemory> {
        let root = self.new_root()?;
        let id = self.next_space;
        self.next_space += 1;
        let handle = Arc::new(AddressSpace::new(SpaceId(id), self.tables.format(), root));
        let space = SpaceState { handle: Arc::clone(&handle), vmas: BTreeMap::new() };
        self.spaces.insert(id, space);
        Ok(handle)
    }

    /// The mapping that holds `va`.
    pub(crate) fn vma(&self, id: SpaceId, va: VirtAddr) -> Option<Vma> {
        let (_, vma) = self.spaces.get(&id.0)?.vmas.range(..=va.raw()).next_back()?;
        vma.range.contains(va).then_some(*vma)
    }

    pub(crate) fn range(&self, at: VirtAddr, pages: PageCount) -> Result<AddrRange, MapError> {
        let range = AddrRange::new(at, pages, self.base()).map_err(|_| MapError::Range)?;
        let end = self.tables.format().end();
        if range.last() < end { Ok(range) } else { Err(MapError::Range) }
    }

    pub(crate) fn map(&mut self, id: SpaceId, mut spec: MapSpec) -> Result<(), MapError> {
        let range = self.range(spec.at, spec.pages)?;
        if let Some(file) = spec.file {
            let file = self.files.get(&file).ok_or(MapError::NoFile)?;
            file.shape(&mut spec)?;
        }
        let needs_file = !matches!(
            spec.kind,
            MappingKind::Anonymous | MappingKind::Hugetlb | MappingKind::Device
        );
        if needs_file && spec.file.is_none() {
            return Err(MapError::NoFile);
        }
        // Shared memory without a file has one that nobody else can name.
        if spec.file.is_none() && spec.shared != (spec.kind == MappingKind::Device) {
            return Err(MapError::Kind);
        }
        let hugetlb = spec.kind == MappingKind::Hugetlb;
        if hugetlb {
            let pages = spec.hugetlb.pages().raw();
            let first = spec.at.raw() >> self.base().raw();
            let numbers = [first, spec.pages.raw(), spec.offset];
            if numbers.iter().any(|number| !number.is_multiple_of(pages)) {
                return Err(MapError::Unaligned);
            }
        }
        let space = self.spaces.get(&id.0).ok_or(MapError::NoSpace)?;
        if space.vmas.values().any(|vma| vma.range.overlaps(&range)) {
            return Err(MapError::Overlap);
        }
        let vma = Vma { spec, range };
        if spec.kind == MappingKind::Device {
            self.map_device(id, &vma)?;
        }
        self.spaces.get_mut(&id.0).expect("looked up above").vmas.insert(range.start().raw(), vma);
        Ok(())
    }

    fn map_device(&mut self, id: SpaceId, vma: &Vma) -> Result<(), MapError> {
        if vma.spec.access.is_empty() && !self.tables.format().can_hide() {
            return Err(MapError::Kind);
        }
        let frames = self.ram.frames();
        let pages = vma.range.pages().raw();
        if (0..pages).any(|i| frames.contains(Pfn::new(vma.spec.offset + i))) {
            return Err(MapError::Kind);
        }
        for i in 0..pages {
            let va = VirtAddr::new(vma.range.start().raw() + (i << self.base().raw()));
            let pfn = Pfn::new(vma.spec.offset + i);
            if let Err(error) = self.map_leaf(id, va, self.base(), pfn, vma.rights(true)) {
                self.zap(id, &vma.range);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Cuts the mappings at both ends of the range, and the leaves too. Nothing is unmapped.
    fn cut(&mut self, id: SpaceId, range: &AddrRange) -> Result<(), MapError> {
        let end = range.last().checked_add(1).ok_or(MapError::Range)?;
        for at in [range.start(), end] {
            let Some(vma) = self.vma(id, at).filter(|vma| vma.range.start() < at) else { continue };
            let pages = vma.range.index_of(at).expect("it holds the address");
            if vma.spec.kind == MappingKind::Hugetlb
                && pages.raw() % vma.spec.hugetlb.pages().raw() != 0
            {
                return Err(MapError::Unaligned);
            }
            self.split_at(id, at)?;
            let (Some(low), Some(high)) = (vma.range.take(pages), vma.range.skip(pages)) else {
                continue;
            };
            let vmas = &mut self.spaces.get_mut(&id.0).ok_or(MapError::NoSpace)?.vmas;
            vmas.insert(low.start().raw(), vma.part(low));
            vmas.insert(high.start().raw(), vma.part(high));
        }
        Ok(())
    }

    /// The mappings that lie inside the range.
    pub(crate) fn inside(&self, id: SpaceId, range: &AddrRange) -> Vec<Vma> {
        let Some(space) = self.spaces.get(&id.0) else { return Vec::new() };
        let inside = space.vmas.values().filter(|vma| range.overlaps(&vma.range));
        inside.copied().collect()
    }

    pub(crate) fn unmap(
        &mut self,
        id: SpaceId,
        at: VirtAddr,
        pages: PageCount,
    ) -> Result<(), MapError> {
        let range = self.range(at, pages)?;
        let handle = Arc::clone(&self.spaces.get(&id.0).ok_or(MapError::NoSpace)?.handle);
        self.cut(id, &range)?;
        handle.invalidate_start();
        for vma in self.inside(id, &range) {
            let space = self.spaces.get_mut(&id.0).ok_or(MapError::NoSpace)?;
            space.vmas.remove(&vma.range.start().raw());
        }
        self.zap(id, &range);
        handle.invalidate_end();
        Ok(())
    }

    /// Every leaf in the range, cut to it.
    pub(crate) fn leaves_in(&self, id: SpaceId, range: &AddrRange) -> Vec<(VirtAddr, Spot, Leaf)> {
        let Some(root) = self.root(id) else { return Vec::new() };
        let mut found = Vec::new();
        let mut at = Some(range.start());
        while let Some(va) = at.filter(|va| range.contains(*va)) {
            let spot = self.tables.spot(root, va);
            let shift = match spot.entry {
                Entry::Leaf(leaf) => {
                    found.push((Self::page_at(va, &leaf), spot, leaf));
                    leaf.shift
                }
                _ => spot.table.shift,
            };
            at = VirtAddr::new(va.raw() | shift.mask()).checked_add(1);
        }
        found
    }

    /// Clears every entry in the range. The caller has cut the leaves at its ends and brackets it
    /// as an invalidation.
    pub(crate) fn zap(&mut self, id: SpaceId, range: &AddrRange) {
        for (va, spot, _) in self.leaves_in(id, range) {
            self.unmap_leaf(id, va, &spot);
            self.prune(id, va);
        }
        self.drop_swapped(id, range);
    }

    pub(crate) fn protect(
        &mut self,
        id: SpaceId,
        at: VirtAddr,
        pages: PageCount,
        access: Access,
    ) -> Result<(), MapError> {
        let range = self.range(at, pages)?;
        let handle = Arc::clone(&self.spaces.get(&id.0).ok_or(MapError::NoSpace)?.handle);
        let denied = |vma: &Vma| {
            access.contains(Access::WRITE) && !vma.spec.may_write
                || access.is_empty() && !self.tables.format().can_hide()
                || vma.spec.kind == MappingKind::Device
        };
        if self.inside(id, &range).iter().any(denied) {
            return Err(MapError::Kind);
        }
        self.cut(id, &range)?;
        handle.invalidate_start();
        for mut vma in self.inside(id, &range) {
            vma.spec.access = access;
            let space = self.spaces.get_mut(&id.0).ok_or(MapError::NoSpace)?;
            space.vmas.insert(vma.range.start().raw(), vma);
            for (_, spot, leaf) in self.leaves_in(id, &vma.range) {
                // A right comes back by a fault, which knows whether the page is shared.
                let rights = vma.rights(leaf.rights.contains(Rights::WRITE));
                self.set_rights(&spot, &leaf, rights);
            }
        }
        handle.invalidate_end();
        Ok(())
    }

    /// Changes what a leaf grants and keeps its marks.
    pub(crate) fn set_rights(&self, spot: &Spot, leaf: &Leaf, rights: Rights) {
        self.store_leaf(&spot.table, spot.index, Leaf { rights, ..*leaf });
    }

    /// Writes a leaf, as closely as the format can say it. Where that is not that the page was written,
    /// or not together with its rights, the folio says it.
    pub(crate) fn store_leaf(&self, table: &Table, index: usize, leaf: Leaf) {
        let format = self.tables.format();
        let known = Leaf { flags: leaf.flags & format.flags(), ..leaf };
        let clean = Leaf { flags: known.flags.difference(LeafFlags::DIRTY), ..known };
        let said = format.closest(table, &known).or_else(|| format.closest(table, &clean));
        let said = said.expect("the machine writes what the format has");
        let lost = leaf.flags.difference(said.flags).contains(LeafFlags::DIRTY);
        let folio = self.folio(self.pfn_of(&leaf)).filter(|folio| !folio.is_zero_frame());
        if let Some(folio) = folio.filter(|_| lost) {
            self.frames.set_flags(folio, FolioFlags::DIRTY, true);
        }
        self.tables.store(table, index, Entry::Leaf(said));
    }

    /// Sets marks of a leaf, as the CPU does.
    pub(crate) fn set_marks(&self, spot: &Spot, leaf: &Leaf, marks: LeafFlags) {
        let leaf = Leaf { flags: leaf.flags | marks, ..*leaf };
        self.store_leaf(&spot.table, spot.index, leaf);
    }

    /// Unmaps everything and frees the tables.
    pub(crate) fn drop_space(&mut self, id: SpaceId) -> Result<(), MapError> {
        let space = self.spaces.get_mut(&id.0).ok_or(MapError::NoSpace)?;
        let handle = Arc::clone(&space.handle);
        space.vmas.clear();
        handle.invalidate_start();
        let end = self.tables.format().end().raw() >> self.base().raw();
        if let Ok(all) = AddrRange::new(VirtAddr::new(0), PageCount::new(end), self.base()) {
            self.drop_swapped(id, &all);
        }
        for (va, spot, _) in self.tables.leaves(handle.root()) {
            self.unmap_leaf(id, va, &spot);
        }
        let mut tables = self.tables.all(handle.root());
        while let Some(table) = tables.pop() {
            // What stays behind for a walker that is inside says nothing any more.
            self.tables.fill(&table, Entry::Absent);
            self.free_table(id, table);
        }
        handle.invalidate_end();
        self.spaces.remove(&id.0);
        Ok(())
    }
}
