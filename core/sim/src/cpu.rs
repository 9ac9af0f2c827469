//! Loads and stores of a process, through its page tables.

use pinfold::host::{Fault, FaultError, SpaceId};
use pinfold::{Access, PhysAddr, Rights, VirtAddr};
use pinfold_arch::{Entry, LeafFlags};

use crate::format::TableFormat;
use crate::state::State;
use crate::tables::Spot;

/// Faults that one access may take: the page, its private copy, and once more.
const FAULTS: usize = 4;

impl<F: TableFormat> State<'_, F> {
    /// Where the tables translate `va` to for this access, without a fault.
    pub(crate) fn translate(&self, id: SpaceId, va: VirtAddr, access: Access) -> Option<PhysAddr> {
        let Spot { entry: Entry::Leaf(leaf), .. } = self.spot(id, va)? else { return None };
        if !leaf.rights.allow(access) {
            return None;
        }
        leaf.addr.checked_add(va.offset(leaf.shift))
    }

    /// Translates as the CPU does: faults, and leaves its marks in the entry.
    pub(crate) fn touch(
        &mut self,
        id: SpaceId,
        va: VirtAddr,
        access: Access,
    ) -> Result<PhysAddr, FaultError> {
        for _ in 0..FAULTS {
            if let Some(spot) = self.spot(id, va)
                && let Entry::Leaf(leaf) = spot.entry
                && leaf.rights.allow(access)
            {
                let mut marks = LeafFlags::ACCESSED;
                let stores = access.contains(Access::WRITE) && leaf.rights.contains(Rights::WRITE);
                marks.set(LeafFlags::DIRTY, stores);
                self.set_marks(&spot, &leaf, marks);
                return Ok(leaf.addr.checked_add(va.offset(leaf.shift)).expect("inside the page"));
            }
            self.fault(id, va, Fault { access, unshare: false, longterm: false })?;
        }
        Err(FaultError::Poisoned)
    }

    pub(crate) fn read(
        &mut self,
        id: SpaceId,
        va: VirtAddr,
        bytes: &mut [u8],
    ) -> Result<(), FaultError> {
        for (i, byte) in bytes.iter_mut().enumerate() {
            let va = va.checked_add(i as u64).ok_or(FaultError::Denied)?;
            let at = self.touch(id, va, Access::READ)?;
            self.ram.read(at, std::slice::from_mut(byte)).ok_or(FaultError::Poisoned)?;
        }
        Ok(())
    }

    pub(crate) fn write(
        &mut self,
        id: SpaceId,
        va: VirtAddr,
        bytes: &[u8],
    ) -> Result<(), FaultError> {
        for (i, byte) in bytes.iter().enumerate() {
            let va = va.checked_add(i as u64).ok_or(FaultError::Denied)?;
            let at = self.touch(id, va, Access::WRITE)?;
            self.ram.write(at, std::slice::from_ref(byte)).ok_or(FaultError::Poisoned)?;
        }
        Ok(())
    }
}
