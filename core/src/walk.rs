//! Walking page tables: which frames stand behind an address or a range.
//!
//! [`RangeWalk`] takes a range in one pass: each entry is decoded once, whatever the number of
//! pages, and neighbours that continue each other come as one run. It takes nothing for granted:
//! tables are reached through [`PhysMem`], which knows where memory ends; a
//! table that is not smaller than the one it was found in ends the walk; and every step is bounded.

use pinfold_arch::{PageFormat, PageShift, PhysAddr, Rights, VirtAddr};

use crate::host::PhysMem;
use crate::space::AddressSpace;

pub mod range;

pub use range::{Extent, LeafRun, RangeWalk};

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
    /// An entry has reserved bits set, or points to a table that is not smaller or that lies deeper
    /// than [`MAX_LEVELS`](pinfold_arch::format::MAX_LEVELS).
    #[error("entry {raw:#x} on the way to {at} is malformed")]
    Malformed {
        /// The address that was looked for.
        at: VirtAddr,
        /// The entry.
        raw: u64,
        /// What one entry of its table maps.
        level: PageShift,
    },
    /// The format cannot translate the range.
    #[error("the range at {at} is not one the page-table format can translate")]
    NotTranslatable {
        /// The start of the range.
        at: VirtAddr,
    },
}

/// Where an address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The byte in memory.
    pub addr: PhysAddr,
    /// Size of the page that maps it.
    pub shift: PageShift,
    /// What all entries on the way allow together.
    pub rights: Rights,
}

/// Where `va` leads in `space`, or `None` where nothing is present.
///
/// # Context
/// Any. The caller holds the walk guard, or knows that no table page is freed meanwhile.
///
/// # Errors
/// [`WalkError`].
pub fn translate<F: PageFormat, M: PhysMem>(
    space: &AddressSpace<F>,
    memory: &M,
    va: VirtAddr,
) -> Result<Option<Translation>, WalkError> {
    let base = space.format().base();
    let page = va.align_down(base);
    let range = pinfold_arch::AddrRange::new(page, pinfold_arch::PageCount::ONE, base)
        .map_err(|_| WalkError::NotTranslatable { at: va })?;
    let mut walk = RangeWalk::new(space.format(), space.root(), memory, range)?;
    Ok(match walk.next_extent()? {
        Some(Extent::Leaf(run)) => run
            .pfn
            .addr(base)
            .and_then(|frame| frame.checked_add(va.offset(base)))
            .map(|addr| Translation { addr, shift: run.shift, rights: run.rights }),
        _ => None,
    })
}
