//! Commands for an IOMMU, in memory.

use core::sync::atomic::{AtomicU64, Ordering};

use pinfold::host::FlushError;
use pinfold_arch::PhysAddr;

use super::until;
use crate::memory::Memory;

/// A power of two.
pub(super) const LOG_ENTRIES: u8 = 8;
pub(super) const ENTRIES: u64 = 1 << LOG_ENTRIES;
const ENTRY: u64 = 16;

/// Commands of two words, which the IOMMU takes in order.
#[derive(Debug)]
pub(super) struct Ring<'m> {
    memory: &'m Memory,
    start: PhysAddr,
    made: AtomicU64,
}

impl<'m> Ring<'m> {
    pub(super) fn new(memory: &'m Memory) -> Self {
        Self { memory, start: memory.structure(ENTRIES * ENTRY), made: AtomicU64::new(0) }
    }

    pub(super) const fn start(&self) -> PhysAddr {
        self.start
    }

    /// Begins anew: the IOMMU has taken all, and goes on at the start.
    pub(super) fn restart(&self) {
        self.made.store(0, Ordering::Relaxed);
    }

    /// Commands that were made.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Puts a command where there is room, and says how many were made. The IOMMU has `taken` so many, or so
    /// many in the round it is in.
    pub(super) fn push(
        &self,
        command: [u64; 2],
        taken: impl Fn() -> u64,
    ) -> Result<u64, FlushError> {
        let (place, made) = (self.made() % ENTRIES, self.made() + 1);
        // One stays free: full and empty differ.
        until(|| taken() % ENTRIES != made % ENTRIES)?;
        self.memory.store(PhysAddr::new(self.start.raw() + place * ENTRY), command);
        self.made.store(made, Ordering::Relaxed);
        Ok(made)
    }
}
