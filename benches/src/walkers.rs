//! Who reads page tables in one pass over a range: pinfold, the least that a program can do, and other
//! crates.
//!
//! Each adds up the addresses of all pages, so that all must come to the same. The other crates build
//! their own tables, of the same pages; they read them entry by entry from the top, as their
//! interface has it, or in a pass of their own.

use aarch64_paging::descriptor::El1Attributes;
use aarch64_paging::idmap::IdMap;
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion};
use pinfold::sync::{Ordering, Word};
use pinfold::walk::{Extent, RangeWalk};
use pinfold::{AddrRange, PageShift};
use pinfold_arch::Geometry;
use pinfold_arch::addr::index;

use crate::tables::PageTables;

#[cfg(target_arch = "x86_64")]
mod multiarch;
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub(crate) use multiarch::FourLevels;
#[cfg(target_arch = "x86_64")]
pub use multiarch::Multiarch;
pub use x86_64::Mapped;

/// pinfold: the sum of the addresses of all pages of the range.
///
/// # Panics
/// If the tables do not map all of it.
#[inline(never)]
pub fn pinfold<F: Geometry>(tables: &PageTables<F>, range: &AddrRange) -> u64 {
    let (memory, base) = (tables.memory(), range.base());
    let walk = RangeWalk::new(tables.format(), tables.root(), &memory, *range);
    let mut sum = 0_u64;
    let add = |extent| {
        let Extent::Leaf(run) = extent else { panic!("a hole") };
        let (first, pages) = (run.pfn.raw() << base.raw(), run.pages.raw());
        sum = sum.wrapping_add(sum_of(first, pages, base));
    };
    walk.expect("a range that the format translates").for_each(add).expect("tables in memory");
    sum
}

/// The sum of the addresses of consecutive pages.
fn sum_of(first: u64, pages: u64, base: PageShift) -> u64 {
    let steps = (pages * pages.wrapping_sub(1) / 2) << base.raw();
    first.wrapping_mul(pages).wrapping_add(steps)
}

/// The floor: the same sum from the array of leaves, which somebody has found already. `mask` has the
/// bits of an address.
#[inline(never)]
#[must_use]
pub fn floor(leaves: &[Word], big_endian: bool, mask: u64) -> u64 {
    let mut sum = 0_u64;
    for leaf in leaves {
        let raw = leaf.load(Ordering::Relaxed);
        let raw = if big_endian { u64::from_be(raw) } else { u64::from_le(raw) };
        sum = sum.wrapping_add(raw & mask);
    }
    sum
}

/// Who builds tables of its own, with each page at the address that it is mapped at.
pub trait Peer {
    /// The sum of the addresses of all pages of the range that was mapped.
    fn pass(&self) -> u64;
}

/// The crate `aarch64-paging`, in its own pass over a range.
#[derive(Debug)]
pub struct Aarch64Paging {
    map: IdMap<El1And0>,
    range: MemoryRegion,
}

impl Aarch64Paging {
    /// Maps a range with the smallest pages.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn new(range: &AddrRange) -> Self {
        let end = range.last().raw() + 1;
        let range = MemoryRegion::new(index(range.start().raw()), index(end));
        let mut map = IdMap::with_asid(1, 0, El1And0);
        let flags = El1Attributes::VALID
            | El1Attributes::ACCESSED
            | El1Attributes::NON_GLOBAL
            | El1Attributes::USER
            | El1Attributes::UXN;
        let pages = Constraints::NO_BLOCK_MAPPINGS | Constraints::NO_CONTIGUOUS_HINT;
        map.map_range_with_constraints(&range, flags, pages).expect("a range that can be mapped");
        Self { map, range }
    }
}

impl Peer for Aarch64Paging {
    #[inline(never)]
    fn pass(&self) -> u64 {
        let mut sum = 0_u64;
        let mut add = |_: &MemoryRegion, entry: &aarch64_paging::descriptor::Descriptor<_>, _| {
            sum = sum.wrapping_add(entry.output_address().0 as u64);
            Ok(())
        };
        self.map.walk_range(&self.range, &mut add).expect("a range that was mapped");
        sum
    }
}
