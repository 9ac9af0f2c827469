//! Page faults: making a page present, writable or private.

use std::sync::Arc;

use pinfold::folio::{Folio, FolioFlags, FolioKind};
use pinfold::host::{Fault, FaultError, MappingKind, SpaceId};
use pinfold::{Access, AddrRange, Order, PageShift, Pfn, VirtAddr};
use pinfold_arch::{Entry, Leaf};

use crate::format::TableFormat;
use crate::layout::FrameRange;
use crate::map::Thp;
use crate::space::Vma;
use crate::state::{NoMemory, State};
use crate::tables::Spot;
use crate::zones::Want;

impl From<NoMemory> for FaultError {
    fn from(_: NoMemory) -> Self {
        Self::NoMemory
    }
}

/// Where the memory for a fault may come from.
pub(crate) fn want(fault: &Fault) -> Want {
    if fault.longterm { Want::Pinnable } else { Want::Movable }
}

impl<F: TableFormat> State<'_, F> {
    /// Makes the page at `va` what the fault asks for, as a CPU access would.
    pub(crate) fn fault(
        &mut self,
        id: SpaceId,
        va: VirtAddr,
        fault: Fault,
    ) -> Result<(), FaultError> {
        let va = va.align_down(self.base());
        let vma = self.vma(id, va).ok_or(FaultError::Denied)?;
        // What can be written can be read.
        let allowed = match vma.spec.access.contains(Access::WRITE) {
            true => Access::READ | Access::WRITE,
            false => vma.spec.access,
        };
        if !allowed.contains(fault.access) || vma.spec.access.is_empty() {
            return Err(FaultError::Denied);
        }
        let spot = self.spot(id, va).ok_or(FaultError::Denied)?;
        match spot.entry {
            Entry::Absent => self
                .swap_in(id, &vma, va, &spot, &fault)
                .unwrap_or_else(|| self.fault_absent(id, &vma, va, &fault)),
            Entry::Leaf(leaf) => self.fault_present(id, &vma, va, &spot, &leaf, &fault),
            Entry::Malformed | Entry::Table(..) => Err(FaultError::Poisoned),
        }
    }

    fn fault_absent(
        &mut self,
        id: SpaceId,
        vma: &Vma,
        va: VirtAddr,
        fault: &Fault,
    ) -> Result<(), FaultError> {
        let private = fault.access.contains(Access::WRITE) || fault.unshare;
        match (vma.spec.kind, vma.spec.file) {
            (MappingKind::Anonymous, _) if private => self.fresh(id, vma, va, fault),
            (MappingKind::Anonymous, _) => self.map_zero(id, vma, va),
            (MappingKind::Hugetlb, None) => {
                let shift = self.shift_of(vma.spec.hugetlb);
                let head = self.new_huge(vma.spec.hugetlb, fault.longterm)?;
                self.mark_exclusive(head);
                self.map_new(id, vma, va.align_down(shift), shift, head, private)
            }
            (_, Some(_)) if private && !vma.spec.shared => self.copy_from_file(id, vma, va, fault),
            (_, Some(_)) => self.map_file(id, vma, va, fault),
            (_, None) => Err(FaultError::Denied),
        }
    }

    fn fault_present(
        &mut self,
        id: SpaceId,
        vma: &Vma,
        va: VirtAddr,
        spot: &Spot,
        leaf: &Leaf,
        fault: &Fault,
    ) -> Result<(), FaultError> {
        let write = fault.access.contains(Access::WRITE);
        // A right that a change of protection took and another gave back. Code may run as before.
        let rights = vma.rights(leaf.rights.contains(pinfold::Rights::WRITE))
            | leaf.rights & pinfold::Rights::EXECUTE;
        if leaf.rights != rights {
            self.set_rights(spot, leaf, rights);
        }
        let satisfied = leaf.rights.contains(pinfold::Rights::WRITE) || !(write || fault.unshare);
        if satisfied {
            return Ok(());
        }
        if vma.spec.shared {
            if write {
                self.mark_dirty(leaf, va);
                self.set_rights(spot, leaf, vma.rights(true));
            }
            return Ok(());
        }
        let pfn = self.page_pfn(va, leaf);
        let folio = self.folio(pfn).ok_or(FaultError::Poisoned)?;
        if self.is_sole_owner(id, folio) {
            self.frames.set_flags(folio, FolioFlags::EXCLUSIVE, true);
            if write {
                self.set_rights(spot, leaf, vma.rights(true));
            }
            return Ok(());
        }
        self.copy_on_write(id, vma, va, leaf, fault)
    }

    /// The frame behind an address that a leaf maps.
    pub(crate) fn page_pfn(&self, va: VirtAddr, leaf: &Leaf) -> Pfn {
        Pfn::new(self.pfn_of(leaf).raw() + (va.offset(leaf.shift) >> self.base().raw()))
    }

    pub(crate) fn shift_of(&self, order: Order) -> PageShift {
        PageShift::new(self.base().raw() + order.raw()).expect("a page size")
    }

    /// Whether a private page belongs to this space alone, so that a write needs no copy.
    fn is_sole_owner(&self, id: SpaceId, folio: Folio) -> bool {
        let info = folio.info();
        let anonymous = matches!(
            info.kind,
            FolioKind::Anonymous | FolioKind::DeviceCoherent | FolioKind::Hugetlb
        );
        if !anonymous || info.flags.contains(FolioFlags::ZERO) {
            return false;
        }
        if info.flags.contains(FolioFlags::EXCLUSIVE) {
            return true;
        }
        let Some(entries) = self.rmap.get(&folio.head()) else { return false };
        let references = self.frames.counts_of(folio).references();
        references == entries.len() as u32 && entries.iter().all(|(space, _)| *space == id.0)
    }

    fn mark_exclusive(&self, head: Pfn) {
        let folio = self.folio(head).expect("a folio in use");
        self.frames.set_flags(folio, FolioFlags::EXCLUSIVE, true);
    }

    /// A file system hears of a write before it happens.
    fn mark_dirty(&self, leaf: &Leaf, va: VirtAddr) {
        if let Some(folio) = self.folio(self.page_pfn(va, leaf)) {
            self.frames.set_flags(folio, FolioFlags::DIRTY, true);
        }
    }

    /// Maps a folio that was made for this and hands its first reference over to the entry.
    pub(crate) fn map_new(
        &mut self,
        id: SpaceId,
        vma: &Vma,
        va: VirtAddr,
        shift: PageShift,
        pfn: Pfn,
        write: bool,
    ) -> Result<(), FaultError> {
        let mapped = self.map_leaf(id, va, shift, pfn, vma.rights(write));
        self.added(pfn);
        Ok(mapped?)
    }

    /// Whether a huge page fits around `va`: inside the mapping, with nothing there yet.
    fn huge_fits(&self, id: SpaceId, vma: &Vma, va: VirtAddr) -> Option<PageShift> {
        let huge = self.tables.format().huge();
        let spot = self.spot(id, va)?;
        let free = spot.entry == Entry::Absent && spot.table.shift >= huge;
        let large = huge > self.base();
        (large && free && vma.holds_block(va, huge)).then_some(huge)
    }

    /// Zeroes of one's own.
    fn fresh(
        &mut self,
        id: SpaceId,
        vma: &Vma,
        va: VirtAddr,
        fault: &Fault,
    ) -> Result<(), FaultError> {
        let write = fault.access.contains(Access::WRITE);
        let exclusive = FolioFlags::EXCLUSIVE;
        if let Some(huge) = self.huge_fits(id, vma, va).filter(|_| vma.spec.thp != Thp::Never) {
            let order = huge.order(self.base());
            let folio = self.new_folio(order, want(fault), FolioKind::Anonymous, exclusive);
            if let Ok(head) = folio {
                let start = va.align_down(huge);
                let whole = self.map_new(id, vma, start, huge, head, write);
                if whole.is_ok() && vma.spec.thp == Thp::Split {
                    self.split_leaf(id, start)?;
                }
                return whole;
            }
        }
        let pfn = self.new_folio(Order::ZERO, want(fault), FolioKind::Anonymous, exclusive)?;
        self.map_new(id, vma, va, self.base(), pfn, write)
    }

    /// Everybody's zeroes.
    fn map_zero(&mut self, id: SpaceId, vma: &Vma, va: VirtAddr) -> Result<(), FaultError> {
        if vma.spec.huge_zero
            && let Some(huge) = self.huge_fits(id, vma, va)
            && let Some(zero) = self.huge_zero()
        {
            return Ok(self.map_leaf(id, va.align_down(huge), huge, zero, vma.rights(false))?);
        }
        Ok(self.map_leaf(id, va, self.base(), self.zero, vma.rights(false))?)
    }

    /// A private copy of a file's page that is not mapped yet.
    fn copy_from_file(
        &mut self,
        id: SpaceId,
        vma: &Vma,
        va: VirtAddr,
        fault: &Fault,
    ) -> Result<(), FaultError> {
        let file = vma.spec.file.ok_or(FaultError::Denied)?;
        let page = vma.file_page(va);
        let (start, head, _) = self.cache_page(file, page, false)?;
        let source = Pfn::new(head.raw() + (page - start));
        let exclusive = FolioFlags::EXCLUSIVE;
        let copy = self.new_folio(Order::ZERO, want(fault), FolioKind::Anonymous, exclusive)?;
        self.ram.copy(source, copy);
        self.map_new(id, vma, va, self.base(), copy, fault.access.contains(Access::WRITE))
    }

    /// Maps a file's page, or all of the folio that holds it by one entry where that fits.
    fn map_file(
        &mut self,
        id: SpaceId,
        vma: &Vma,
        va: VirtAddr,
        fault: &Fault,
    ) -> Result<(), FaultError> {
        let file = vma.spec.file.ok_or(FaultError::Denied)?;
        let page = vma.file_page(va);
        let (start, head, order) = self.cache_page(file, page, fault.longterm)?;
        let write = fault.access.contains(Access::WRITE);
        let writable = vma.spec.shared && (write || !vma.spec.dirty_tracked);
        let pfn = Pfn::new(head.raw() + (page - start));
        if write && let Some(folio) = self.folio(pfn) {
            self.frames.set_flags(folio, FolioFlags::DIRTY, true);
        }
        let whole = if vma.spec.kind == MappingKind::Hugetlb {
            Some(self.shift_of(order))
        } else {
            let huge = self.huge_fits(id, vma, va);
            huge.filter(|huge| {
                huge.order(self.base()) == order && self.congruent(vma, start, *huge)
            })
        };
        let (at, shift, pfn) = match whole {
            Some(shift) => (va.align_down(shift), shift, head),
            None => (va, self.base(), pfn),
        };
        Ok(self.map_leaf(id, at, shift, pfn, vma.rights(writable))?)
    }

    /// Whether the file's page `start` is mapped at a multiple of this size.
    fn congruent(&self, vma: &Vma, start: u64, shift: PageShift) -> bool {
        let Some(index) = start.checked_sub(vma.spec.offset) else { return false };
        let va = vma.range.start().raw() + (index << self.base().raw());
        VirtAddr::new(va).is_aligned(shift)
    }

    /// Replaces a page that others see too by a copy.
    fn copy_on_write(
        &mut self,
        id: SpaceId,
        vma: &Vma,
        va: VirtAddr,
        leaf: &Leaf,
        fault: &Fault,
    ) -> Result<(), FaultError> {
        let write = fault.access.contains(Access::WRITE);
        let handle = Arc::clone(&self.spaces[&id.0].handle);
        let hugetlb = vma.spec.kind == MappingKind::Hugetlb;
        let source = self.page_pfn(va, leaf);
        let zero = self.folio(source).is_some_and(|f| f.info().flags.contains(FolioFlags::ZERO));
        if !hugetlb && leaf.shift > self.base() {
            if zero {
                // Nothing is lost with it: the other pages are faulted in again.
                let spot = self.spot(id, va).ok_or(FaultError::Denied)?;
                handle.invalidate_start();
                self.unmap_leaf(id, va.align_down(leaf.shift), &spot);
                handle.invalidate_end();
                return self.fresh(id, vma, va, fault);
            }
            self.split_leaf(id, va)?;
        }
        let shift = if hugetlb { self.shift_of(vma.spec.hugetlb) } else { self.base() };
        let at = va.align_down(shift);
        let copy = if hugetlb {
            let head = self.new_huge(vma.spec.hugetlb, fault.longterm)?;
            self.mark_exclusive(head);
            head
        } else {
            let exclusive = FolioFlags::EXCLUSIVE;
            self.new_folio(Order::ZERO, want(fault), FolioKind::Anonymous, exclusive)?
        };
        let pages = shift.pages(self.base());
        let from = Pfn::new(source.raw() & !(pages.raw() - 1));
        self.copy_frames(from, copy, pages);
        let block = AddrRange::new(at, pages, self.base()).map_err(|_| FaultError::Denied)?;
        handle.invalidate_start();
        for (va, spot, _) in self.leaves_in(id, &block) {
            self.unmap_leaf(id, va, &spot);
        }
        let mapped = self.map_leaf(id, at, shift, copy, vma.rights(write));
        handle.invalidate_end();
        self.put(copy, 1);
        Ok(mapped?)
    }

    /// Sets huge pages aside. They come from pinnable memory, or from wherever user memory may be.
    pub(crate) fn reserve_huge(&mut self, order: Order, want: Want) -> Result<Pfn, NoMemory> {
        let none = FolioFlags::empty();
        let frozen = self.zones.alloc(order, want, FolioKind::Hugetlb, none).ok_or(NoMemory)?;
        let head = frozen.head();
        self.free(frozen);
        Ok(head)
    }

    /// A zeroed huge page from the pool, with one reference.
    pub(crate) fn new_huge(&mut self, order: Order, longterm: bool) -> Result<Pfn, NoMemory> {
        let fits = |head: &Pfn| {
            let Some(folio) = self.folio(*head).filter(|folio| folio.order() == order) else {
                return false;
            };
            let block = FrameRange::new(*head, order.pages());
            let kept = FolioFlags::CMA | FolioFlags::MOVABLE;
            let pinnable = !folio.info().flags.intersects(kept);
            (pinnable || !longterm) && !self.zones.isolated.iter().any(|r| r.overlaps(&block))
        };
        let head = self.pool.iter().copied().find(fits).ok_or(NoMemory)?;
        let folio = self.folio(head).ok_or(NoMemory)?;
        let frozen = self.frames.freeze(folio, 0).map_err(|_| NoMemory)?;
        self.pool.remove(&head);
        for pfn in FrameRange::new(head, order.pages()).iter() {
            self.ram.clear(pfn);
        }
        frozen.unfreeze(1);
        Ok(head)
    }
}
