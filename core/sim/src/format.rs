//! What it takes to *build* tables of a format, beside reading them.

use pinfold::{AddrRange, PageCount, PageShift, PhysAddr, Rights, Table, VirtAddr};
use pinfold_arch::{Entry, Geometry, Leaf, LeafFlags};

/// The widest lower half that is used.
const MAX_BITS: u8 = 63;

/// A page-table format that the machine can build tables of: every one that says its geometry.
pub trait TableFormat: Geometry + Send + Sync + core::fmt::Debug + 'static {
    /// The smallest leaf above the base page: what a transparent huge page is mapped with. The base
    /// page where there is none.
    fn huge(&self) -> PageShift {
        let large = self.way().filter(|at| at.shift > self.base() && self.leaf_at(at));
        large.last().map_or(self.base(), |at| at.shift)
    }

    /// The shapes of the tables that a walk to a base page reads, from the top on.
    fn way(&self) -> impl Iterator<Item = Table> {
        let top = self.top(PhysAddr::new(0));
        std::iter::successors(Some(top), |at| self.below(at, at.base))
    }

    /// The last of them, which has base pages.
    fn last(&self) -> Table {
        self.way().last().expect("there is a top table")
    }

    /// How many tables a walk to a base page reads.
    fn levels(&self) -> usize {
        self.way().count()
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
        let bits = [whole.min(MAX_BITS), whole - 1].into_iter().find(lower);
        VirtAddr::new(1 << bits.expect("a format translates addresses from 0 on"))
    }

    /// Whether a base page at this physical address can be mapped, for reading.
    fn can_map(&self, addr: PhysAddr) -> bool {
        let leaf = Leaf::new(addr, self.base(), Rights::READ | Rights::USER);
        self.closest(&self.last(), &leaf).is_some()
    }

    /// Whether an entry can be for the kernel alone, so that the page stays and the process cannot
    /// reach it.
    fn can_hide(&self) -> bool {
        self.closest(&self.last(), &Leaf::new(PhysAddr::new(0), self.base(), Rights::READ))
            .is_some()
    }

    /// What an entry of this table says instead of `leaf` where it cannot say just that: code may be
    /// run where nothing keeps it from that, and marks are set beforehand where the CPU does not set
    /// them by itself and would fault. `None` where it cannot say that either.
    fn closest(&self, at: &Table, leaf: &Leaf) -> Option<Leaf> {
        let (accessed, dirty) = (LeafFlags::ACCESSED, LeafFlags::ACCESSED | LeafFlags::DIRTY);
        let marks = [LeafFlags::empty(), accessed, dirty];
        let marked = marks.map(|more| Leaf { flags: leaf.flags | (more & self.flags()), ..*leaf });
        let run = |leaf: Leaf| [leaf, Leaf { rights: leaf.rights | Rights::EXECUTE, ..leaf }];
        marked.into_iter().flat_map(run).find(|leaf| {
            let raw = self.encode(at, Entry::Leaf(*leaf));
            raw.is_ok_and(|raw| self.decode(at, raw) == Entry::Leaf(*leaf))
        })
    }

    /// The size of the leaves that a block of this size is mapped with: its own, or the next smaller
    /// one that there is. Then the block takes several.
    fn unit(&self, shift: PageShift) -> PageShift {
        let fits = |at: &Table| at.shift <= shift && self.leaf_at(at);
        self.way().find(fits).map_or(self.base(), |at| at.shift)
    }

    /// An absent entry of this table that names a swap slot, which is not 0.
    fn swap_entry(&self, at: &Table, slot: u64) -> Option<u64> {
        let raw = self.encode(at, Entry::Absent).ok()? | slot << self.base().raw();
        (self.decode(at, raw) == Entry::Absent).then_some(raw)
    }
}

impl<F: Geometry + Send + Sync + core::fmt::Debug + 'static> TableFormat for F {}

/// Whether an entry with these rights lets the process do anything.
pub(crate) fn reachable(rights: Rights) -> bool {
    rights.contains(Rights::USER) && rights != Rights::USER
}

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
