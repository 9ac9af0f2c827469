//! Walking page tables.

use pinfold_arch::{PageShift, PhysAddr, VirtAddr};

/// Why a walk ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalkError {
    /// A table lies outside memory, wholly or in part.
    #[error("the table at {table} on the way to {at} is outside memory")]
    OutsideMemory {
        /// The address that was looked for.
        at: VirtAddr,
        /// Where the table should be.
        table: PhysAddr,
    },
    /// An entry has reserved bits set, or points to a table that is not smaller.
    #[error("entry {raw:#x} on the way to {at} is malformed")]
    Malformed {
        /// The address that was looked for.
        at: VirtAddr,
        /// The entry.
        raw: u64,
        /// What one entry of its table maps.
        level: PageShift,
    },
}
