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
        self.begin_fork(id)?;
        let parent = Arc::clone(&self.spaces[&id.0].handle);
        let forked = self.copy_space(id, &parent);
        self.forking.remove(&id.0);
        parent.fork_end();
        forked
    }

    /// The first half of a fork that takes its time: it looks which pages are pinned, and will share
    /// the others. Whoever pins one of them before the second half must notice that a fork has
    /// begun.
    pub(crate) fn begin_fork(&mut self, id: SpaceId) -> Result<(), MapError> {
        let space = self.spaces.get(&id.0).ok_or(MapError::NoSpace)?;
        if self.forking.contains_key(&id.0) {
            return Ok(());
        }
        space.handle.fork_start();
        let pins = |head: Pfn| self.folio(head).map_or(0, |f| self.frames.counts_of(f).pins());
        let pinned = self.rmap.keys().copied().filter(|head| pins(*head) > 0).collect();
        self.forking.insert(id.0, pinned);
        Ok(())
    }

    fn copy_space(
        &mut self,
        id: SpaceId,
        parent: &AddressSpace<F>,
    ) -> Result<Arc<AddressSpace<F>>, MapError> {
        let child = self.add_space()?;
        let vmas = self.spaces[&id.0].vmas.clone();
        self.spaces.get_mut(&child.id().0).expect("just made").vmas.clone_from(&vmas);
        parent.invalidate_start();
        let copied = vmas.values().try_for_each(|vma| self.fork_mapping(id, child.id(), vma));
        if copied.is_err() {
            // It stopped where a huge page is mapped piece by piece, and half of them are shared.
            vmas.values().for_each(|vma| self.protect_shared(id, vma));
        }
        parent.invalidate_end();
        if let Err(error) = copied {
            self.drop_space(child.id())?;
            return Err(error.into());
        }
        Ok(child)
    }

    /// Takes the right to write off entries whose page is not the space's own any more.
    fn protect_shared(&self, id: SpaceId, vma: &Vma) {
        let private = if vma.spec.shared { Vec::new() } else { self.leaves_in(id, &vma.range) };
        for (_, spot, leaf) in private {
            let flags = self.folio(self.pfn_of(&leaf)).map(|folio| folio.info().flags);
            if flags.is_some_and(|flags| !flags.contains(FolioFlags::EXCLUSIVE)) {
                self.set_rights(&spot, &leaf, leaf.rights.difference(Rights::WRITE));
            }
        }
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
        self.frames.set_flags(folio, FolioFlags::EXCLUSIVE, false);
        let pinned =
            self.forking.get(&parent.0).is_some_and(|pinned| pinned.contains(&folio.head()));
        if exclusive && pinned {
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
        let hugetlb = vma.spec.kind == MappingKind::Hugetlb;
        let shift = if hugetlb { self.shift_of(vma.spec.hugetlb) } else { leaf.shift };
        let (order, pages) = (shift.order(self.base()), shift.pages(self.base()));
        let (va, first) = (va.align_down(shift), Pfn::new(first.raw() & !(pages.raw() - 1)));
        let exclusive = FolioFlags::EXCLUSIVE;
        let copy = if hugetlb {
            if matches!(self.spot(child, va).map(|spot| spot.entry), Some(Entry::Leaf(_))) {
                // It takes several entries, and was copied with the first of them.
                return Ok(());
            }
            let head = self.new_huge(order, false)?;
            let folio = self.folio(head).expect("just made");
            self.frames.set_flags(folio, exclusive, true);
            Ok(head)
        } else {
            self.new_folio(order, Want::Movable, FolioKind::Anonymous, exclusive)
        };
        if let Ok(head) = copy {
            self.copy_frames(first, head, pages);
            let mapped = self.map_leaf(child, va, shift, head, vma.rights(true));
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
