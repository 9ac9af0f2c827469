//! What it takes to *build* tables of a format, beside reading them.

use pinfold::{AddrRange, PageCount, PageShift, PhysAddr, Rights, VirtAddr};
use pinfold_arch::{Entry, Geometry, Leaf, LeafFlags};

/// A page-table format that the machine can build tables of: every one that says its geometry.
pub trait TableFormat: Geometry + Send + Sync + core::fmt::Debug + 'static {
    /// The smallest leaf above the base page: what a transparent huge page is mapped with. The base
    /// page where there is none.
    fn huge(&self) -> PageShift {
        let mut huge = self.base();
        let mut table = Some(self.top(PhysAddr::new(0)));
        while let Some(at) = table.filter(|at| at.shift > self.base()) {
            if self.leaf_at(&at) {
                huge = at.shift;
            }
            table = self.below(&at, at.base);
        }
        huge
    }

    /// How many tables a walk to a base page reads.
    fn levels(&self) -> usize {
        let top = self.top(PhysAddr::new(0));
        std::iter::successors(Some(top), |at| self.below(at, at.base)).count()
    }

    /// The first address of the lower half that is not translated any more.
    fn end(&self) -> VirtAddr {
        let top = self.top(PhysAddr::new(0));
        let whole = top.shift.raw() + top.bits;
        let pages = |bits: u8| PageCount::new(1 << (bits - self.base().raw()));
        let lower = |bits: &u8| {
            AddrRange::new(VirtAddr::new(0), pages(*bits), self.base())
                .is_ok_and(|range| self.valid(&range))
        };
        // The whole of what the top table indexes, or the half of it below the hole.
        let bits = [whole, whole - 1].into_iter().find(lower);
        VirtAddr::new(1 << bits.expect("a format translates addresses from 0 on"))
    }

    /// Whether a base page at this physical address can be mapped, for reading.
    fn can_map(&self, addr: PhysAddr) -> bool {
        let top = self.top(PhysAddr::new(0));
        let way = std::iter::successors(Some(top), |at| self.below(at, at.base));
        let last = way.last().unwrap_or(top);
        let leaf = Leaf {
            flags: self.flags() & LeafFlags::ACCESSED,
            ..Leaf::new(addr, self.base(), Rights::READ | Rights::USER)
        };
        self.encode(&last, Entry::Leaf(leaf)).is_ok()
    }

    /// An absent entry that names a swap slot, which is not 0.
    fn swap_entry(&self, slot: u64) -> u64 {
        slot << self.base().raw()
    }
}

impl<F: Geometry + Send + Sync + core::fmt::Debug + 'static> TableFormat for F {}

#[cfg(test)]
mod tests {
    use super::*;
    use pinfold::X86_64;

    #[test]
    fn four_levels_translate_47_bits_of_the_lower_half() {
        let format = X86_64::new(4, 46).unwrap();
        assert_eq!(format.end().raw(), 1 << 47);
        assert_eq!(format.huge(), PageShift::SIZE_2M);
        assert_eq!(format.levels(), 4);
        assert!(format.can_map(PhysAddr::new((1 << 46) - 4096)));
        assert!(!format.can_map(PhysAddr::new(1 << 46)));
    }
}
