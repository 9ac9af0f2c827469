//! Fork: a second space that shares private pages until one of the two writes.

use std::sync::Arc;

use pinfold::folio::{FolioFlags, FolioKind};
use pinfold::host::{MappingKind, SpaceId};
use pinfold::{AddressSpace, Order, Pfn, Rights, VirtAddr};
use pinfold_arch::{Entry, Leaf};

use crate::format::TableFormat;
use crate::map::MapError;
use crate::space::Vma;
use crate::state::{NoMemory, State};
use crate::tables::Spot;
use crate::zones::Want;

impl<F: TableFormat> State<'_, F> {
    pub(crate) fn fork(&mut self, id: SpaceId) -> Result<Arc<AddressSpace<F>>, MapError> {
        let parent = Arc::clone(&self.spaces.get(&id.0).ok_or(MapError::NoSpace)?.handle);
        let child = self.add_space()?;
        let vmas = self.spaces[&id.0].vmas.clone();
        self.spaces.get_mut(&child.id().0).expect("just made").vmas.clone_from(&vmas);
        parent.fork_start();
        parent.invalidate_start();
        let copied = vmas.values().try_for_each(|vma| self.fork_mapping(id, child.id(), vma));
        parent.invalidate_end();
        parent.fork_end();
        if let Err(error) = copied {
            self.drop_space(child.id())?;
            return Err(error.into());
        }
        Ok(child)
    }

    fn fork_mapping(&mut self, parent: SpaceId, child: SpaceId, vma: &Vma) -> Result<(), NoMemory> {
        if vma.spec.shared && vma.spec.kind != MappingKind::Device {
            // The child finds these pages in the file.
            return Ok(());
        }
        self.fork_swapped(parent, child, &vma.range)?;
        for (va, spot, leaf) in self.leaves_in(parent, &vma.range) {
            let Some(folio) = self.folio(self.pfn_of(&leaf)) else {
                self.map_leaf(child, va, leaf.shift, self.pfn_of(&leaf), leaf.rights)?;
                continue;
            };
            let info = folio.info();
            if info.flags.contains(FolioFlags::ZERO) {
                self.map_leaf(child, va, leaf.shift, self.pfn_of(&leaf), leaf.rights)?;
            } else if matches!(
                info.kind,
                FolioKind::Anonymous | FolioKind::DeviceCoherent | FolioKind::Hugetlb
            ) {
                self.fork_page(parent, child, vma, va, &spot, &leaf)?;
            }
        }
        Ok(())
    }

    /// Shares one private page, or copies it if a device may write to it.
    fn fork_page(
        &mut self,
        parent: SpaceId,
        child: SpaceId,
        vma: &Vma,
        va: VirtAddr,
        spot: &Spot,
        leaf: &Leaf,
    ) -> Result<(), NoMemory> {
        let read_only = leaf.rights.difference(Rights::WRITE);
        self.set_rights(spot, leaf, read_only);
        let first = self.pfn_of(leaf);
        let folio = self.folio(first).expect("looked up by the caller");
        let exclusive = folio.info().flags.contains(FolioFlags::EXCLUSIVE);
        // First the mark goes, then pins are looked for: a pin that comes later sees that the mark
        // is gone, or the fork.
        self.frames.set_flags(folio, FolioFlags::EXCLUSIVE, false);
        if exclusive && self.frames.counts_of(folio).pins() > 0 {
            self.frames.set_flags(folio, FolioFlags::EXCLUSIVE, true);
            self.set_rights(spot, leaf, leaf.rights);
            return self.copy_for_child(child, vma, va, first, leaf);
        }
        debug_assert!(matches!(self.spot(parent, va).map(|s| s.entry), Some(Entry::Leaf(_))));
        self.map_leaf(child, va, leaf.shift, first, read_only)
    }

    /// Copies what one leaf maps, in one piece if there is one, else page by page.
    fn copy_for_child(
        &mut self,
        child: SpaceId,
        vma: &Vma,
        va: VirtAddr,
        first: Pfn,
        leaf: &Leaf,
    ) -> Result<(), NoMemory> {
        let (order, pages) = (leaf.shift.order(self.base()), leaf.shift.pages(self.base()));
        let exclusive = FolioFlags::EXCLUSIVE;
        let copy = if vma.spec.kind == MappingKind::Hugetlb {
            let head = self.new_huge(order, false)?;
            let folio = self.folio(head).expect("just made");
            self.frames.set_flags(folio, exclusive, true);
            Ok(head)
        } else {
            self.new_folio(order, Want::Movable, FolioKind::Anonymous, exclusive)
        };
        if let Ok(head) = copy {
            self.copy_frames(first, head, pages);
            let mapped = self.map_leaf(child, va, leaf.shift, head, vma.rights(true));
            self.put(head, 1);
            return mapped;
        }
        for i in 0..pages.raw() {
            let page =
                self.new_folio(Order::ZERO, Want::Movable, FolioKind::Anonymous, exclusive)?;
            self.ram.copy(Pfn::new(first.raw() + i), page);
            let at = VirtAddr::new(va.raw() + (i << self.base().raw()));
            let mapped = self.map_leaf(child, at, self.base(), page, vma.rights(true));
            self.put(page, 1);
            mapped?;
        }
        Ok(())
    }
}
