//! Moving folios, splitting them, and emptying a range of frames.

use std::sync::Arc;

use pinfold::folio::{Folio, FolioFlags, FolioInfo, FolioKind};
use pinfold::frames::{Claim, FreezeError, Frozen};
use pinfold::host::{MigrateError, SpaceId};
use pinfold::{AddressSpace, Order, Pfn, PhysAddr, Table};
use pinfold_arch::{Entry, Leaf};

use crate::format::TableFormat;
use crate::layout::ZoneKind;
use crate::state::{Mapped, State};
use crate::zones::{Place, Want};

/// An entry that was taken out of a table, to be put back or to be pointed elsewhere.
pub(crate) struct Cleared {
    pub(crate) table: Table,
    pub(crate) index: usize,
    raw: u64,
    pub(crate) mapped: Mapped,
}

/// The claim's reference, beside those of mappings and the file.
const CLAIM: u32 = 1;

impl<'m, F: TableFormat> State<'m, F> {
    /// Moves a claimed folio; see [`Migrate`](pinfold::host::Migrate) for the steps.
    /// Returns where it is now.
    pub(crate) fn relocate(&mut self, claim: &Claim<'_>, want: Want) -> Result<Pfn, MigrateError> {
        let head = claim.folio().head();
        let folio = self.folio(head).filter(|folio| folio.head() == head);
        let folio = folio.ok_or(MigrateError::Unmovable)?;
        let target = self.target(folio, want)?;
        let handles = self.owners(head);
        handles.iter().for_each(|handle| handle.invalidate_start());
        let cleared = self.clear_entries(head);
        let expected = cleared.len() as u32 + u32::from(self.cached.contains_key(&head));
        let result = match self.frames.freeze(folio, expected + CLAIM) {
            Ok(frozen) if expected == 0 => {
                // Nobody maps it any more: it goes with the claim.
                self.free(target);
                frozen.unfreeze(CLAIM);
                Ok(head)
            }
            Ok(frozen) => {
                let to = target.head();
                self.copy_frames(head, to, folio.order().pages());
                let dirty =
                    self.folio(head).is_some_and(|f| f.info().flags.contains(FolioFlags::DIRTY));
                self.point_at(&cleared, head, to);
                self.recache(head, to);
                target.unfreeze(expected);
                if dirty && let Some(moved) = self.folio(to) {
                    self.frames.set_flags(moved, FolioFlags::DIRTY, true);
                }
                frozen.unfreeze(CLAIM);
                Ok(to)
            }
            Err(FreezeError { found, .. }) => {
                self.restore(&cleared);
                self.free(target);
                Err(MigrateError::Busy { expected: expected + CLAIM, found })
            }
        };
        handles.iter().for_each(|handle| handle.invalidate_end());
        result
    }

    /// Memory of the same kind and size to move a folio to, frozen.
    fn target(&mut self, folio: Folio, want: Want) -> Result<Frozen<'m>, MigrateError> {
        let FolioInfo { order, kind, flags } = folio.info();
        if flags.contains(FolioFlags::ZERO) {
            return Err(MigrateError::Unmovable);
        }
        let kept = flags & (FolioFlags::EXCLUSIVE | FolioFlags::DIRTY);
        let kind = match (kind, want) {
            (FolioKind::Hugetlb, _) => {
                let longterm = want != Want::Movable;
                let head = self.huge_target(order, want, longterm)?;
                let taken = self.folio(head).ok_or(MigrateError::NoMemory)?;
                self.frames.set_flags(taken, kept, true);
                let taken = self.folio(head).ok_or(MigrateError::NoMemory)?;
                return self.frames.freeze(taken, 1).map_err(|_| MigrateError::NoMemory);
            }
            (FolioKind::Anonymous, Want::In(Place::Zone(ZoneKind::Coherent))) => {
                FolioKind::DeviceCoherent
            }
            (FolioKind::Anonymous, Want::In(Place::Zone(ZoneKind::PeerToPeer))) => {
                FolioKind::PeerToPeer
            }
            // Only anonymous memory lies with devices.
            (_, Want::In(Place::Zone(zone)))
                if zone != ZoneKind::Normal && zone != ZoneKind::Movable =>
            {
                return Err(MigrateError::Unmovable);
            }
            (FolioKind::Anonymous | FolioKind::DeviceCoherent, _) => FolioKind::Anonymous,
            (FolioKind::File | FolioKind::Shmem, _) => kind,
            _ => return Err(MigrateError::Unmovable),
        };
        self.zones.alloc(order, want, kind, kept).ok_or(MigrateError::NoMemory)
    }

    /// A huge page to move one to: a new one, for which an old one will go, or one of the pool. The
    /// pool's own may be reserved for somebody.
    fn huge_target(
        &mut self,
        order: Order,
        want: Want,
        longterm: bool,
    ) -> Result<Pfn, MigrateError> {
        if !matches!(want, Want::In(_)) && self.reserve_huge(order, want).is_ok() {
            self.surplus += 1;
        }
        self.new_huge(order, longterm).map_err(|_| MigrateError::NoMemory)
    }

    pub(crate) fn owners(&self, head: Pfn) -> Vec<Arc<AddressSpace<F>>> {
        self.rmap.get(&head).map(|entries| self.handles(entries)).unwrap_or_default()
    }

    /// Takes every entry that maps the folio out of its table. The references stay.
    pub(crate) fn clear_entries(&self, head: Pfn) -> Vec<Cleared> {
        let entries = self.rmap.get(&head).cloned().unwrap_or_default();
        let clear = |mapped: Mapped| {
            let spot = self.spot(SpaceId(mapped.0), mapped.1).expect("a space with mappings");
            let raw = self.tables.clear(&spot.table, spot.index);
            Cleared { table: spot.table, index: spot.index, raw, mapped }
        };
        entries.into_iter().map(clear).collect()
    }

    /// Puts entries back as they were.
    pub(crate) fn restore(&self, cleared: &[Cleared]) {
        for entry in cleared {
            self.tables.swap_raw(&entry.table, entry.index, entry.raw);
        }
    }

    /// Points entries at the new frames, marks and rights as they were.
    fn point_at(&mut self, cleared: &[Cleared], from: Pfn, to: Pfn) {
        for entry in cleared {
            let Entry::Leaf(leaf) = self.tables.format().decode(&entry.table, entry.raw) else {
                continue;
            };
            let offset = self.pfn_of(&leaf).raw() - from.raw();
            let addr = self.addr(Pfn::new(to.raw() + offset));
            self.tables.store(&entry.table, entry.index, Entry::Leaf(Leaf { addr, ..leaf }));
        }
        self.rmap.remove(&from);
        if !cleared.is_empty() {
            let entries = cleared.iter().map(|entry| entry.mapped).collect();
            self.rmap.insert(to, entries);
        }
    }

    fn recache(&mut self, from: Pfn, to: Pfn) {
        let Some(file) = self.cached.remove(&from) else { return };
        self.cached.insert(to, file);
        let cache = self.files.get_mut(&file).map(|file| file.cache.values_mut());
        for (head, _) in cache.into_iter().flatten().filter(|(head, _)| *head == from) {
            *head = to;
        }
    }

    pub(crate) fn addr(&self, pfn: Pfn) -> PhysAddr {
        pfn.addr(self.base()).expect("memory has addresses")
    }

    /// Claims a folio, moves it, and gives the old frames back.
    pub(crate) fn claim_and_move(&mut self, head: Pfn, want: Want) -> Result<Pfn, MigrateError> {
        self.drain_caches();
        let folio = self.folio(head).ok_or(MigrateError::Unmovable)?;
        let found = self.frames.counts_of(folio).references();
        let busy = MigrateError::Busy { expected: self.expected(head), found };
        let claim = match self.frames.claim(folio) {
            Ok(claim) => claim,
            Err(lost) => {
                if let Some(last) = lost.last {
                    self.free(last);
                }
                return Err(busy);
            }
        };
        let moved = self.relocate(&claim, want);
        if let Some(last) = claim.release() {
            self.free(last);
        }
        moved
    }

    /// References that mappings and the file account for.
    pub(crate) fn expected(&self, head: Pfn) -> u32 {
        self.mappings_of(head) + u32::from(self.cached.contains_key(&head))
    }

    /// Takes a folio apart into base pages. Entries larger than that are split first.
    pub(crate) fn split_folio(&mut self, head: Pfn) -> Result<(), MigrateError> {
        self.drain_caches();
        let folio = self.folio(head).ok_or(MigrateError::Unmovable)?;
        let info = folio.info();
        if info.kind != FolioKind::Anonymous || info.flags.contains(FolioFlags::ZERO) {
            return Err(MigrateError::Unmovable);
        }
        let entries = self.rmap.get(&head).cloned().unwrap_or_default();
        for (id, va) in entries {
            while let Some(spot) = self.spot(SpaceId(id), va)
                && let Entry::Leaf(leaf) = spot.entry
                && leaf.shift > self.base()
            {
                self.split_leaf(SpaceId(id), va).map_err(|_| MigrateError::NoMemory)?;
            }
        }
        let handles = self.owners(head);
        handles.iter().for_each(|handle| handle.invalidate_start());
        let cleared = self.clear_entries(head);
        let expected = cleared.len() as u32;
        let frozen = self.frames.freeze(folio, expected);
        self.restore(&cleared);
        let result = match frozen {
            Ok(frozen) => {
                self.take_apart(frozen, info, &cleared);
                Ok(())
            }
            Err(FreezeError { found, .. }) => Err(MigrateError::Busy { expected, found }),
        };
        handles.iter().for_each(|handle| handle.invalidate_end());
        result
    }

    fn take_apart(&mut self, mut frozen: Frozen<'m>, info: FolioInfo, cleared: &[Cleared]) {
        self.rmap.remove(&frozen.head());
        for entry in cleared {
            let Entry::Leaf(leaf) = self.tables.format().decode(&entry.table, entry.raw) else {
                continue;
            };
            self.rmap.entry(self.pfn_of(&leaf)).or_default().insert(entry.mapped);
        }
        let mut parts = Vec::new();
        let small = FolioInfo { order: Order::ZERO, ..info };
        frozen.reshape(small, |part| parts.push(part)).expect("order 0 is not larger than any");
        parts.push(frozen);
        for part in parts {
            match self.mappings_of(part.head()) {
                0 => self.free(part),
                mappings => part.unfreeze(mappings),
            }
        }
    }
}
