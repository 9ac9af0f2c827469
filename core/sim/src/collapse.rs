//! Putting small pages together: a table of base pages becomes one huge leaf, as khugepaged does.

use std::sync::Arc;

use pinfold::folio::{Folio, FolioFlags, FolioKind};
use pinfold::frames::{FreezeError, Frozen};
use pinfold::host::{MappingKind, MigrateError, SpaceId};
use pinfold::{Order, Pfn, Table, VirtAddr};
use pinfold_arch::{Entry, Leaf, LeafFlags};

use crate::format::TableFormat;
use crate::space::Vma;
use crate::state::State;
use crate::zones::Want;

/// References of a page that is mapped once and that nobody else knows.
const MAPPED: u32 = 1;

impl<'m, F: TableFormat> State<'m, F> {
    /// Replaces the table that maps the huge page's worth of memory around `va` by one leaf. Every
    /// page of it must be there, be the space's own, and have no reference but its mapping's.
    ///
    /// The table is detached first and then pins are looked for. Its entries are left as they are:
    /// a walker inside goes on finding them until the table is freed, and must look at the entry
    /// above once more.
    pub(crate) fn collapse(&mut self, id: SpaceId, va: VirtAddr) -> Result<Pfn, MigrateError> {
        self.drain_caches();
        let huge = self.tables.format().huge();
        let start = va.align_down(huge);
        let vma = self.vma(id, va).filter(|vma| Self::may_collapse(vma, va, huge));
        let vma = vma.ok_or(MigrateError::Unmovable)?;
        let root = self.root(id).ok_or(MigrateError::Unmovable)?;
        let path = self.tables.path(root, start);
        let [.., (above, index), (table, _)] = path[..] else {
            return Err(MigrateError::Unmovable);
        };
        if above.shift != huge || table.shift != self.base() {
            return Err(MigrateError::Unmovable);
        }
        let pages = self.small_pages(&table)?;
        let (order, exclusive) = (huge.order(self.base()), FolioFlags::EXCLUSIVE);
        let target = self.new_folio(order, Want::Movable, FolioKind::Anonymous, exclusive);
        let target = target.map_err(|_| MigrateError::NoMemory)?;

        let handle = Arc::clone(&self.spaces[&id.0].handle);
        handle.invalidate_start();
        let raw = self.tables.clear(&above, index);
        let frozen = self.freeze_all(&pages);
        let result = match frozen {
            Ok(frozen) => {
                for (i, page) in (0..).zip(frozen) {
                    let part = Pfn::new(target.raw() + i);
                    self.ram.copy(page.head(), part);
                    self.rmap.remove(&page.head());
                    self.free(page);
                }
                let dirty = LeafFlags::ACCESSED | LeafFlags::DIRTY;
                self.map_in(id, &above, start, target, vma.rights(true), dirty);
                self.put(target, 1);
                self.free_table(id, table);
                Ok(target)
            }
            Err(error) => {
                self.tables.swap_raw(&above, index, raw);
                self.put(target, 1);
                Err(error)
            }
        };
        handle.invalidate_end();
        result
    }

    fn may_collapse(vma: &Vma, va: VirtAddr, huge: pinfold::PageShift) -> bool {
        vma.spec.kind == MappingKind::Anonymous && vma.holds_block(va, huge)
    }

    /// The folios behind a table, if each entry maps one whole, that is the space's own.
    fn small_pages(&self, table: &Table) -> Result<Vec<Folio>, MigrateError> {
        let own = |leaf: &Leaf| {
            let folio = self.folio(self.pfn_of(leaf))?;
            let info = folio.info();
            let exclusive = info.flags.contains(FolioFlags::EXCLUSIVE);
            let small = info.order == Order::ZERO && info.kind == FolioKind::Anonymous;
            (small && exclusive).then_some(folio)
        };
        let page = |index| match self.tables.load(table, index) {
            Entry::Leaf(leaf) => own(&leaf).ok_or(MigrateError::Unmovable),
            _ => Err(MigrateError::Unmovable),
        };
        (0..table.entries()).map(page).collect()
    }

    /// All of them or none.
    fn freeze_all(&self, pages: &[Folio]) -> Result<Vec<Frozen<'m>>, MigrateError> {
        let mut frozen = Vec::new();
        for page in pages {
            match self.frames.freeze(*page, MAPPED) {
                Ok(taken) => frozen.push(taken),
                Err(FreezeError { found, .. }) => {
                    frozen.into_iter().for_each(|taken: Frozen<'_>| taken.unfreeze(MAPPED));
                    return Err(MigrateError::Busy { expected: MAPPED, found });
                }
            }
        }
        Ok(frozen)
    }
}
