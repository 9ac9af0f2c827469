//! What else says where an address is: the floor, and what a program would use without pinfold.
//!
//! All but the two of `vm-memory` answer as pinfold does: they find the region, then read the
//! page's address from an array. That array is one and the same for all of them. Each is called as
//! a function that is not inlined, as in a program where it stands in another file; the floor is
//! the exception.

use std::collections::BTreeMap;

use pinfold::AddrRange;
use pinfold::sync::{Ordering, Word};
use pinfold_arch::addr::index;
use rangemap::RangeMap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, Iotlb, Permissions};

use crate::queries::Locate;
use crate::scene::BASE;

/// Physical addresses of the pages of regions that lie one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'m> {
    start: u64,
    slots: &'m [Word],
}

impl<'m> Pages<'m> {
    /// Page by page from `start` on.
    #[must_use]
    pub fn new(start: u64, slots: &'m [Word]) -> Self {
        Self { start, slots }
    }

    /// Those of one region.
    fn of(&self, region: &AddrRange) -> Self {
        let start = region.start().raw();
        let first = index((start - self.start) >> BASE.raw());
        Self { start, slots: &self.slots[first..][..index(region.pages().raw())] }
    }

    #[inline(always)]
    fn bytes(&self) -> u64 {
        (self.slots.len() as u64) << BASE.raw()
    }

    #[inline(always)]
    fn at(&self, va: u64) -> Option<u64> {
        let offset = va.wrapping_sub(self.start);
        let slot = self.slots.get(index(offset >> BASE.raw()))?;
        Some(slot.load(Ordering::Relaxed) + (offset & BASE.mask()))
    }
}

/// The floor: one array for everything, one load.
#[derive(Clone, Copy, Debug)]
pub struct OneLoad<'m>(pub Pages<'m>);

impl Locate for OneLoad<'_> {
    #[inline(always)]
    fn locate(&self, va: u64) -> Option<u64> {
        self.0.at(va)
    }
}

/// A list of regions with an array each, in the shape of powerpc's `mm_iommu`: newest first, asked
/// in two calls.
#[derive(Debug)]
pub struct List<'m> {
    newest: Option<Box<Listed<'m>>>,
}

/// A region in a list.
#[derive(Debug)]
struct Listed<'m> {
    older: Option<Box<Self>>,
    start: u64,
    bytes: u64,
    /// Of the smallest page in it.
    shift: u8,
    pages: Pages<'m>,
}

impl<'m> List<'m> {
    /// With these regions, the last one in front.
    #[must_use]
    pub fn new(regions: &[AddrRange], pages: Pages<'m>) -> Self {
        let newest = regions.iter().fold(None, |older, region| {
            let pages = pages.of(region);
            let (start, bytes) = (pages.start, pages.bytes());
            Some(Box::new(Listed { older, start, bytes, shift: BASE.raw(), pages }))
        });
        Self { newest }
    }

    #[inline(never)]
    fn lookup(&self, va: u64, bytes: u64) -> Option<&Listed<'m>> {
        let mut next = self.newest.as_deref();
        while let Some(region) = next {
            if region.start <= va && va + bytes <= region.start + region.bytes {
                return Some(region);
            }
            next = region.older.as_deref();
        }
        None
    }
}

impl Listed<'_> {
    #[inline(never)]
    fn translate(&self, va: u64, shift: u8) -> Option<u64> {
        if shift > self.shift {
            return None;
        }
        self.pages.at(va)
    }
}

impl Drop for List<'_> {
    fn drop(&mut self) {
        // One by one: a region that drops the rest of its list would need a deep stack.
        let mut next = self.newest.take();
        while let Some(mut region) = next {
            next = region.older.take();
        }
    }
}

impl Locate for List<'_> {
    #[inline(always)]
    fn locate(&self, va: u64) -> Option<u64> {
        self.lookup(va, 1)?.translate(va, BASE.raw())
    }
}

/// The standard library's ordered map, by the regions' starts.
#[derive(Debug)]
pub struct Tree<'m>(BTreeMap<u64, Pages<'m>>);

impl<'m> Tree<'m> {
    /// With these regions.
    #[must_use]
    pub fn new(regions: &[AddrRange], pages: Pages<'m>) -> Self {
        let region = |region: &AddrRange| (region.start().raw(), pages.of(region));
        Self(regions.iter().map(region).collect())
    }
}

impl Locate for Tree<'_> {
    #[inline(never)]
    fn locate(&self, va: u64) -> Option<u64> {
        self.0.range(..=va).next_back()?.1.at(va)
    }
}

/// Regions in a sorted array, found by halving.
#[derive(Debug)]
pub struct Sorted<'m>(Vec<Pages<'m>>);

impl<'m> Sorted<'m> {
    /// With these regions, which are sorted.
    #[must_use]
    pub fn new(regions: &[AddrRange], pages: Pages<'m>) -> Self {
        Self(regions.iter().map(|region| pages.of(region)).collect())
    }
}

impl Locate for Sorted<'_> {
    #[inline(never)]
    fn locate(&self, va: u64) -> Option<u64> {
        let behind = self.0.partition_point(|region| region.start <= va);
        self.0.get(behind.checked_sub(1)?)?.at(va)
    }
}

/// The crate `rangemap`: ranges in an ordered map, each with where its pages begin in the array.
#[derive(Debug)]
pub struct Ranges<'m> {
    regions: RangeMap<u64, u64>,
    pages: Pages<'m>,
}

impl<'m> Ranges<'m> {
    /// With these regions.
    #[must_use]
    pub fn new(regions: &[AddrRange], pages: Pages<'m>) -> Self {
        let region = |region: &AddrRange| {
            let start = region.start().raw();
            (start..start + pages.of(region).bytes(), (start - pages.start) >> BASE.raw())
        };
        Self { regions: regions.iter().map(region).collect(), pages }
    }
}

impl Locate for Ranges<'_> {
    #[inline(never)]
    fn locate(&self, va: u64) -> Option<u64> {
        let (range, first) = self.regions.get_key_value(&va)?;
        let page = first + ((va - range.start) >> BASE.raw());
        let slot = self.pages.slots.get(index(page))?;
        Some(slot.load(Ordering::Relaxed) + (va & BASE.mask()))
    }
}

/// The crate `vm-memory`: the memory of a guest, mapped in this process. No array is read: the
/// answer is a virtual address.
#[derive(Debug)]
pub struct Guest(GuestMemoryMmap);

impl Guest {
    /// With these regions, which are reserved but not touched.
    ///
    /// # Panics
    /// If the system refuses.
    #[must_use]
    pub fn new(regions: &[AddrRange]) -> Self {
        let region = |region: &AddrRange| {
            (GuestAddress(region.start().raw()), index(region.pages().raw() << BASE.raw()))
        };
        let regions: Vec<_> = regions.iter().map(region).collect();
        Self(GuestMemoryMmap::from_ranges(&regions).expect("address space for the guest"))
    }
}

impl Locate for Guest {
    #[inline(never)]
    fn locate(&self, va: u64) -> Option<u64> {
        Some(self.0.get_host_address(GuestAddress(va)).ok()?.addr() as u64)
    }
}

/// The IOTLB of the crate `vm-memory`: each region is one mapping. No array is read either.
#[derive(Debug)]
pub struct Tlb(Iotlb);

impl Tlb {
    /// With these regions, each mapped to somewhere else than the one before ends.
    ///
    /// # Panics
    /// Never: a mapping is always taken.
    #[must_use]
    pub fn new(regions: &[AddrRange]) -> Self {
        let mut tlb = Iotlb::new();
        for region in regions {
            let start = region.start().raw();
            let bytes = index(region.pages().raw() << BASE.raw());
            let (from, to) = (GuestAddress(start), GuestAddress(2 * start));
            tlb.set_mapping(from, to, bytes, Permissions::ReadWrite).expect("it is taken");
        }
        Self(tlb)
    }
}

impl Locate for Tlb {
    #[inline(never)]
    fn locate(&self, va: u64) -> Option<u64> {
        let mut found = Iotlb::lookup(&self.0, GuestAddress(va), 1, Permissions::Read).ok()?;
        Some(found.next()?.base.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Flat;
    use pinfold::{PageCount, VirtAddr};

    const START: u64 = 0x4000_0000;

    /// Three regions of four pages; page 4 lies at 0x104000.
    fn regions() -> Vec<AddrRange> {
        let region = |at: u64| {
            let start = VirtAddr::new(START + (at << 14));
            AddrRange::new(start, PageCount::new(4), BASE).expect("a range")
        };
        (0..3).map(region).collect()
    }

    #[test]
    fn all_find_the_same_page_and_nothing_outside() {
        let slots = Flat::new(12);
        for (page, slot) in (0x100_u64..).zip(slots.words()) {
            slot.store(page << 12, Ordering::Relaxed);
        }
        let (regions, pages) = (regions(), Pages::new(START, slots.words()));
        let list = List::new(&regions, pages);
        let tree = Tree::new(&regions, pages);
        let sorted = Sorted::new(&regions, pages);
        let ranges = Ranges::new(&regions, pages);
        let all: [&dyn Locate; 5] = [&OneLoad(pages), &list, &tree, &sorted, &ranges];
        for (at, peer) in all.into_iter().enumerate() {
            for (page, offset) in (0..12).flat_map(|page| [(page, 0), (page, 0xfff)]) {
                let found = peer.locate(START + (page << 12) + offset);
                assert_eq!(found, Some(((0x100 + page) << 12) + offset), "peer {at}, page {page}");
            }
            assert_eq!(peer.locate(START - 1), None, "peer {at}");
            assert_eq!(peer.locate(START + (12 << 12)), None, "peer {at}");
        }
    }

    #[test]
    fn those_without_an_array_find_their_regions_too() {
        let (guest, tlb) = (Guest::new(&regions()), Tlb::new(&regions()));
        let at = START + 0x5123;
        assert_eq!(tlb.locate(at), Some(2 * (START + 0x4000) + 0x1123));
        let [first, second] = [at, at + 0x1000].map(|va| guest.locate(va).expect("inside"));
        assert_eq!(second - first, 0x1000);
        for peer in [&guest as &dyn Locate, &tlb] {
            assert_eq!(peer.locate(START - 1), None);
            assert_eq!(peer.locate(START + (12 << 12)), None);
        }
    }
}
