//! Memory for the tables of an IOMMU.

use pinfold_arch::PhysAddr;

use super::mem::PhysMem;

/// Where the tables of IOMMUs live: memory that the host gives, reached through [`PhysMem`].
pub trait IoTables: PhysMem {
    /// Memory for a table: `bytes` (a power of two) at a multiple of as much, contiguous. What is in it
    /// does not matter. Never at address 0. `None` where there is none.
    ///
    /// # Context
    /// Any; must not sleep.
    fn allocate(&self, bytes: u64) -> Option<PhysAddr>;

    /// Takes back what [`allocate`](Self::allocate) gave. No IOMMU can reach it any more.
    ///
    /// # Context
    /// Any; must not sleep.
    fn free(&self, table: PhysAddr, bytes: u64);

    /// `bytes` of a table from `at` on were written. A host whose IOMMU does not look into the CPU's caches
    /// writes these lines back now. Nothing else is called for them: ordering them before the device is told to
    /// use them is the host's, where it tells the device. The default does nothing.
    ///
    /// # Context
    /// Any; must not sleep.
    fn written(&self, at: PhysAddr, bytes: u64) {
        let _ = (at, bytes);
    }
}
