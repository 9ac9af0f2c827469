//! A device that reads and writes memory by physical address, as through an IOMMU that lets it.

use pinfold::folio::FolioKind;
use pinfold::{Pfn, PhysAddr};

use crate::format::TableFormat;
use crate::machine::Machine;

/// A device. It has no page tables and no manners: what it is told, it reads or writes.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a, 'm, F> {
    machine: &'a Machine<'m, F>,
}

/// The device was sent where it must not go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DmaError {
    /// There is no memory at the address.
    #[error("no memory at {at}")]
    NoMemory {
        /// The address.
        at: PhysAddr,
    },
    /// The memory there is not pinned: it may be anybody's by now.
    #[error("frame {pfn} is not pinned")]
    NotPinned {
        /// The frame.
        pfn: Pfn,
    },
}

impl<'a, 'm, F: TableFormat> Device<'a, 'm, F> {
    pub(crate) fn new(machine: &'a Machine<'m, F>) -> Self {
        Self { machine }
    }

    /// Reads bytes of pinned memory.
    ///
    /// # Errors
    /// [`DmaError`].
    pub fn read(&self, at: PhysAddr, bytes: &mut [u8]) -> Result<(), DmaError> {
        self.check(at, bytes.len(), false)?;
        self.machine.ram().read(at, bytes).ok_or(DmaError::NoMemory { at })
    }

    /// Writes bytes of pinned memory. The zero frame is not written: what is not counted as
    /// pinned is not a device's to change.
    ///
    /// # Errors
    /// [`DmaError`].
    pub fn write(&self, at: PhysAddr, bytes: &[u8]) -> Result<(), DmaError> {
        self.check(at, bytes.len(), true)?;
        self.machine.ram().write(at, bytes).ok_or(DmaError::NoMemory { at })
    }

    fn check(&self, at: PhysAddr, bytes: usize, write: bool) -> Result<(), DmaError> {
        let base = self.machine.ram().base();
        let last = at.checked_add(bytes.max(1) as u64 - 1).ok_or(DmaError::NoMemory { at })?;
        for pfn in (at.pfn(base).raw()..=last.pfn(base).raw()).map(Pfn::new) {
            let frames = self.machine.frames();
            let folio = frames.folio(pfn).ok_or(DmaError::NoMemory { at })?;
            let zero = folio.is_zero_frame() && !write;
            let used = folio.info().kind != FolioKind::Free;
            let pinned = used && frames.counts_of(folio).pins() > 0;
            if !zero && !pinned {
                return Err(DmaError::NotPinned { pfn });
            }
        }
        Ok(())
    }
}
