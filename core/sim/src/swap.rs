//! Swap: anonymous pages whose contents are elsewhere. The entry is absent and says where.

use std::collections::BTreeMap;

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::frames::FreezeError;
use pinfold::host::{Fault, FaultError, MigrateError, SpaceId};
use pinfold::{Access, AddrRange, Order, Pfn, Table, VirtAddr};

use crate::fault::want;
use crate::format::TableFormat;
use crate::space::Vma;
use crate::state::{Mapped, NoMemory, State};
use crate::tables::Spot;

/// Contents of one page, and how many entries name them.
#[derive(Clone, Debug)]
struct Slot {
    bytes: Vec<u8>,
    users: u32,
}

/// The swap device, and the entries that lead to it.
#[derive(Debug, Default)]
pub(crate) struct Swap {
    slots: BTreeMap<u64, Slot>,
    /// The slot that each swapped-out entry names.
    entries: BTreeMap<Mapped, u64>,
    next: u64,
}

impl Swap {
    /// Entries that name a slot.
    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    fn keep(&mut self, bytes: Vec<u8>) -> u64 {
        // An entry of 0 would say that nothing was ever there.
        self.next += 1;
        self.slots.insert(self.next, Slot { bytes, users: 0 });
        self.next
    }

    fn add(&mut self, at: Mapped, slot: u64) {
        self.entries.insert(at, slot);
        self.slots.get_mut(&slot).expect("a slot in use").users += 1;
    }

    /// The entry is gone; the slot goes with the last one. Returns the contents.
    fn remove(&mut self, at: Mapped) -> Option<Vec<u8>> {
        let slot = self.entries.remove(&at)?;
        let used = self.slots.get_mut(&slot)?;
        used.users -= 1;
        let bytes = used.bytes.clone();
        if used.users == 0 {
            self.slots.remove(&slot);
        }
        Some(bytes)
    }

    /// Entries of a space inside a range, with their slots.
    fn inside(&self, id: SpaceId, range: &AddrRange) -> Vec<(VirtAddr, u64)> {
        let bounds = (id.0, range.start())..=(id.0, range.last());
        self.entries.range(bounds).map(|((_, va), slot)| (*va, *slot)).collect()
    }
}

impl<F: TableFormat> State<'_, F> {
    /// Takes a page out of memory. A page that anybody beside its mappings refers to stays: what a
    /// device may write to is not swapped.
    pub(crate) fn swap_out(&mut self, head: Pfn) -> Result<(), MigrateError> {
        self.drain_caches();
        let folio = self.folio(head).ok_or(MigrateError::Unmovable)?;
        let FolioInfo { order, kind, flags } = folio.info();
        let anonymous = kind == FolioKind::Anonymous && !flags.contains(FolioFlags::ZERO);
        if !anonymous || order != Order::ZERO {
            return Err(MigrateError::Unmovable);
        }
        let handles = self.owners(head);
        handles.iter().for_each(|handle| handle.invalidate_start());
        let cleared = self.clear_entries(head);
        let expected = cleared.len() as u32;
        let result = match self.frames.freeze(folio, expected) {
            Ok(frozen) => {
                let mut bytes = vec![0; self.base().bytes() as usize];
                self.ram.read(self.addr(head), &mut bytes).expect("a frame of the machine");
                let slot = self.swap.keep(bytes);
                for entry in &cleared {
                    let raw = self.swap_entry(&entry.table, slot);
                    self.tables.swap_raw(&entry.table, entry.index, raw);
                    self.swap.add(entry.mapped, slot);
                }
                self.rmap.remove(&head);
                self.free(frozen);
                Ok(())
            }
            Err(FreezeError { found, .. }) => {
                self.restore(&cleared);
                Err(MigrateError::Busy { expected, found })
            }
        };
        handles.iter().for_each(|handle| handle.invalidate_end());
        result
    }

    fn swap_entry(&self, table: &Table, slot: u64) -> u64 {
        self.tables.format().swap_entry(table, slot).expect("an absent entry has room for a number")
    }

    /// Takes over entries of somebody else's, absent and not empty: pages of zeroes that are swapped
    /// out.
    pub(crate) fn adopt_swapped(&mut self, id: SpaceId, entries: &[VirtAddr]) {
        if entries.is_empty() {
            return;
        }
        let slot = self.swap.keep(vec![0; self.base().bytes() as usize]);
        for va in entries {
            self.swap.add((id.0, *va), slot);
        }
    }

    /// Brings a page back, as the space's own. `None` where none was taken out.
    pub(crate) fn swap_in(
        &mut self,
        id: SpaceId,
        vma: &Vma,
        va: VirtAddr,
        spot: &Spot,
        fault: &Fault,
    ) -> Option<Result<(), FaultError>> {
        let at = (id.0, va);
        if !self.swap.entries.contains_key(&at) {
            return None;
        }
        let exclusive = FolioFlags::EXCLUSIVE;
        let fresh = self.new_folio(Order::ZERO, want(fault), FolioKind::Anonymous, exclusive);
        let Ok(head) = fresh else { return Some(Err(FaultError::NoMemory)) };
        let bytes = self.swap.remove(at)?;
        self.ram.write(self.addr(head), &bytes).expect("a frame of the machine");
        self.tables.clear(&spot.table, spot.index);
        let write = fault.access.contains(Access::WRITE);
        Some(self.map_new(id, vma, va, self.base(), head, write))
    }

    /// Forgets what was taken out of a range.
    pub(crate) fn drop_swapped(&mut self, id: SpaceId, range: &AddrRange) {
        for (va, _) in self.swap.inside(id, range) {
            self.swap.remove((id.0, va));
            if let Some(spot) = self.spot(id, va) {
                self.tables.clear(&spot.table, spot.index);
                self.prune(id, va);
            }
        }
    }

    /// A child finds what its parent finds.
    pub(crate) fn fork_swapped(
        &mut self,
        parent: SpaceId,
        child: SpaceId,
        range: &AddrRange,
    ) -> Result<(), NoMemory> {
        for (va, slot) in self.swap.inside(parent, range) {
            let table = self.ensure(child, va, self.base())?.expect("no larger page is there");
            let raw = self.swap_entry(&table, slot);
            let at = usize::from(table.index(va));
            self.tables.swap_raw(&table, at, raw);
            self.swap.add((child.0, va), slot);
        }
        Ok(())
    }
}
