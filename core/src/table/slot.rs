//! The tagged word of a pin table.
//!
//! | bits | vacant | page | address | stale | link |
//! |---|---|---|---|---|---|
//! | 0..3 tag | 0 | 1 | 2 | 3 | 4 |
//! | 3 | | | dirty | dirty | |
//! | 4..10 | | | | | order of the child's entries |
//! | 10..64 | | | | | origin of the child, in words |
//! | 8..64 | | frame number | | | |
//! | 12..64 | | | address | address | |
//!
//! A *page* is a frame on which the table holds a count while pinning is under way. An *address* may be
//! handed to a device. The *origin* of a node is where its entry for the block of number 0 would stand,
//! which may be in front of the table: an entry is found by adding its block's number. A *stale* address
//! was taken from the device but is not flushed yet.

use pinfold_arch::{Order, PageShift, Pfn, PhysAddr};

const TAG: u64 = 7;
const PAGE: u64 = 1;
const ADDRESS: u64 = 2;
const STALE: u64 = 3;
const LINK: u64 = 4;
const PAGE_SHIFT: u32 = 8;
const LINK_ORDER_SHIFT: u32 = 4;
const LINK_ORIGIN_SHIFT: u32 = 10;
/// Frames are 4 KiB or more, so the low bits of their addresses are free.
const ADDRESS_MASK: u64 = !0xfff;

/// The device wrote to the block.
pub(super) const DIRTY: u64 = 1 << 3;

/// What a word of the table says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// Nothing.
    Vacant,
    /// A frame that is being pinned.
    Page(Pfn),
    /// A pinned block's first byte.
    Address {
        /// Where it is.
        addr: PhysAddr,
        /// Whether the device wrote to it.
        dirty: bool,
    },
    /// A block that devices may still reach through a TLB.
    Stale {
        /// Where it is.
        addr: PhysAddr,
        /// Whether the device wrote to it.
        dirty: bool,
    },
    /// A node with finer blocks.
    Link {
        /// Where its entry for block 0 would stand, counted from the table's first word; below zero it
        /// wraps.
        origin: u64,
        /// The size of its blocks.
        order: Order,
    },
}

impl Slot {
    /// Reads a word. Total: a word that says nothing known is vacant.
    #[inline]
    #[must_use]
    pub fn decode(raw: u64) -> Self {
        let addr = PhysAddr::new(raw & ADDRESS_MASK);
        let dirty = raw & DIRTY != 0;
        match raw & TAG {
            PAGE => Self::Page(Pfn::new(raw >> PAGE_SHIFT)),
            ADDRESS => Self::Address { addr, dirty },
            STALE => Self::Stale { addr, dirty },
            LINK => {
                let order = Order::new((raw >> LINK_ORDER_SHIFT & 0x3f) as u8);
                let order = order.unwrap_or(Order::ZERO);
                let origin = (raw.cast_signed() >> LINK_ORIGIN_SHIFT).cast_unsigned();
                Self::Link { origin, order }
            }
            _ => Self::Vacant,
        }
    }

    /// The word that says this. Frame numbers have at most 56 bits, origins 54 with their sign: a frame
    /// whose number is wider has no address and is never recorded.
    #[inline]
    #[must_use]
    pub fn encode(self) -> u64 {
        let mark = |dirty| if dirty { DIRTY } else { 0 };
        match self {
            Self::Vacant => 0,
            Self::Page(pfn) => pfn.raw() << PAGE_SHIFT | PAGE,
            Self::Address { addr, dirty } => addr.raw() & ADDRESS_MASK | mark(dirty) | ADDRESS,
            Self::Stale { addr, dirty } => addr.raw() & ADDRESS_MASK | mark(dirty) | STALE,
            Self::Link { origin, order } => {
                origin << LINK_ORIGIN_SHIFT | u64::from(order.raw()) << LINK_ORDER_SHIFT | LINK
            }
        }
    }

    /// The address word for a page word, whose frame has an address. `None` for any other word.
    #[inline]
    pub(super) fn settled(raw: u64, base: PageShift) -> Option<u64> {
        (raw & TAG == PAGE).then_some(raw >> PAGE_SHIFT << base.raw() | ADDRESS)
    }

    /// The word of a block whose frames continue those of a block of `pages` pages with the word
    /// `raw`, in the same state. `None` for a word without frames.
    #[inline]
    pub(super) fn continued(raw: u64, pages: u64, base: PageShift) -> Option<u64> {
        match raw & TAG {
            PAGE => raw.checked_add(pages << PAGE_SHIFT),
            ADDRESS | STALE => raw.checked_add(pages << base.raw()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_comes_back() {
        let addr = PhysAddr::new(0xf_ffff_ffff_f000);
        let order = Order::new(63).unwrap();
        for slot in [
            Slot::Vacant,
            Slot::Page(Pfn::new((1 << 52) - 1)),
            Slot::Page(Pfn::new(0)),
            Slot::Address { addr, dirty: false },
            Slot::Address { addr, dirty: true },
            Slot::Address { addr: PhysAddr::new(0), dirty: false },
            Slot::Stale { addr, dirty: true },
            Slot::Link { origin: (1 << 53) - 1, order },
            Slot::Link { origin: 0_u64.wrapping_sub(1 << 53), order },
        ] {
            assert_eq!(Slot::decode(slot.encode()), slot);
        }
    }

    #[test]
    fn a_page_settles_as_its_address_and_nothing_else_does() {
        let base = PageShift::SIZE_4K;
        let pfn = Pfn::new((1 << 52) - 1);
        let address = Slot::Address { addr: pfn.addr(base).unwrap(), dirty: false };
        assert_eq!(Slot::settled(Slot::Page(pfn).encode(), base), Some(address.encode()));
        assert_eq!(Slot::settled(address.encode(), base), None);
        let link = Slot::Link { origin: 9, order: Order::ZERO };
        assert_eq!(Slot::settled(link.encode(), base), None);
    }

    #[test]
    fn frame_zero_and_address_zero_are_not_vacant() {
        assert_ne!(Slot::Page(Pfn::new(0)).encode(), 0);
        assert_ne!(Slot::Address { addr: PhysAddr::new(0), dirty: false }.encode(), 0);
    }

    #[test]
    fn an_address_is_never_read_as_a_page() {
        for raw in (0..=0xffff).map(|low| 0x1234_5678_0000_0000 | low) {
            match (Slot::decode(raw), raw & TAG) {
                (Slot::Page(_), tag) => assert_eq!(tag, PAGE),
                (Slot::Address { .. }, tag) => assert_eq!(tag, ADDRESS),
                (Slot::Stale { .. }, tag) => assert_eq!(tag, STALE),
                (Slot::Link { .. }, tag) => assert_eq!(tag, LINK),
                (Slot::Vacant, tag) => assert!(tag == 0 || tag > LINK),
            }
        }
    }
}
