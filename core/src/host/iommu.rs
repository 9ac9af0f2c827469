//! Memory for the tables of an IOMMU, and who keeps what they say.

use pinfold_arch::PhysAddr;

use super::mem::PhysMem;
use super::wait::Wait;
use crate::iova::IovaRange;

/// Where the tables of IOMMUs live: memory that the host gives, reached through [`PhysMem`]. Long calls
/// let others run by [`Wait`].
///
/// Duties: [`table-views`](super::duties#table-views), [`table-lines`](super::duties#table-lines).
pub trait IoTables: PhysMem + Wait {
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
    /// writes these lines back now. Nothing else is called for them: ordering them before the device is
    /// told to use them is the host's, where it tells the device. A call names each line once, neighbours
    /// together; but a table that it makes empty comes once when it is made, before an IOMMU can find it, and
    /// what is mapped in it then comes once more. The default does nothing.
    ///
    /// # Context
    /// Any; must not sleep.
    fn written(&self, at: PhysAddr, bytes: u64) {
        let _ = (at, bytes);
    }
}

/// Whoever keeps translations of a domain's tables: an IOMMU, or a device with a TLB of its own (ATS).
///
/// Forgetting comes in two calls, so that several of them can be at it at the same time:
/// [`invalidate`](Self::invalidate) on all, then [`complete`](Self::complete) on all.
///
/// Duties: [`iommu-attach`](super::duties#iommu-attach), [`tlb-complete`](super::duties#tlb-complete),
/// [`tlb-tables`](super::duties#tlb-tables), [`tlb-absent`](super::duties#tlb-absent).
pub trait IoTlb: Sync {
    /// Whether it may also keep that an address leads nowhere, so that it must be told of new mappings: an
    /// IOMMU in caching mode (VT-d CAP_REG.CM), one that another hypervisor emulates (AMD-Vi NpCache), a
    /// zPCI function whose hypervisor shadows its tables.
    fn keeps_absent(&self) -> bool {
        false
    }

    /// Begins to forget what was kept of a range.
    ///
    /// # Context
    /// Any; must not sleep. Several callers may be at it at the same time.
    ///
    /// # Errors
    /// [`FlushError`]: nothing may have begun.
    fn invalidate(&self, range: IovaRange, kept: Kept) -> Result<(), FlushError>;

    /// Returns when all that was begun before has come to its end, and accesses that were under way with it.
    ///
    /// # Context
    /// May sleep, if every caller of the domain may.
    ///
    /// # Errors
    /// [`FlushError`]: something may still be kept. The caller may try again, from
    /// [`invalidate`](Self::invalidate) on.
    fn complete(&self) -> Result<(), FlushError>;
}

/// What a TLB may have kept of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// Entries that map memory, or nothing, have changed; the tables above them have not.
    Leaves,
    /// Tables were taken out too: caches of the entries that led to them must forget as well.
    Tables,
}

/// A TLB did not say in time that it has forgotten, or cannot be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a TLB was not flushed in time")]
pub struct FlushError;
