//! Arithmetic on addresses, ranges and counts, compared with the same in 128 bits.

use pinfold_arch::addr::RangeError;
use pinfold_arch::{AddrRange, Order, PageCount, PageShift, Pfn, PhysAddr, VirtAddr};
use proptest::prelude::*;

fn shift() -> impl Strategy<Value = PageShift> {
    let raw = prop_oneof![2 => Just(12_u8), 1 => 0..64_u8, 1 => prop::sample::select(&[0_u8, 63])];
    raw.prop_map(|raw| PageShift::new(raw).unwrap())
}

/// Any value, and those near a power of two or the end.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => (0..64_u32, -2..=2_i64).prop_map(|(bit, add)| (1_u64 << bit).wrapping_add_signed(add)),
        1 => any::<u64>(),
        1 => 0..9_u64,
    ]
}

const SPACE: u128 = 1 << 64;

fn in_space(value: u128) -> Option<u64> {
    u64::try_from(value).ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_range_exists_when_its_last_byte_does(
        start in number(), aligned in any::<bool>(), pages in number(), base in shift(),
    ) {
        let start = VirtAddr::new(start);
        let start = if aligned { start.align_down(base) } else { start };
        let end = u128::from(start.raw()) + (u128::from(pages) << base.raw());
        match AddrRange::new(start, PageCount::new(pages), base) {
            Ok(range) => {
                prop_assert!(pages > 0 && end <= SPACE && start.raw() % base.bytes() == 0);
                prop_assert_eq!(u128::from(range.last().raw()), end - 1);
            }
            Err(RangeError::Empty) => prop_assert_eq!(pages, 0),
            Err(RangeError::Unaligned { .. }) => prop_assert!(start.raw() % base.bytes() != 0),
            Err(_) => prop_assert!(end > SPACE),
        }
    }

    #[test]
    fn parts_of_a_range_are_ranges(
        start in number(), pages in number(), base in shift(), cut in number(), va in number(),
    ) {
        let start = VirtAddr::new(start).align_down(base);
        let Ok(range) = AddrRange::new(start, PageCount::new(pages), base) else { return Ok(()) };
        let cut = PageCount::new(cut);
        let again = |part: AddrRange| AddrRange::new(part.start(), part.pages(), base).ok();
        let (head, tail) = (range.take(cut), range.skip(cut));
        prop_assert_eq!(head.and_then(again), head);
        prop_assert_eq!(tail.and_then(again), tail);
        // Together they are the whole, and they do not meet.
        let count = |part: Option<AddrRange>| part.map_or(0, |part| part.pages().raw());
        prop_assert_eq!(count(head) + count(tail), pages);
        if let (Some(head), Some(tail)) = (head, tail) {
            prop_assert!(!head.overlaps(&tail) && !tail.overlaps(&head));
            prop_assert_eq!(head.last().checked_add(1), Some(tail.start()));
        }
        let va = VirtAddr::new(va);
        let inside = start <= va && va <= range.last();
        prop_assert_eq!(range.contains(va), inside);
        let index = inside.then(|| PageCount::new((va.raw() - start.raw()) / base.bytes()));
        prop_assert_eq!(range.index_of(va), index);
    }

    #[test]
    fn sizes_do_not_wrap(number in number(), base in shift(), other in shift()) {
        let bytes = in_space(u128::from(number) << base.raw());
        prop_assert_eq!(PageCount::new(number).bytes(base), bytes);
        prop_assert_eq!(Pfn::new(number).addr(base), bytes.map(PhysAddr::new));
        prop_assert_eq!(PhysAddr::new(number).pfn(base).raw(), number / base.bytes());
        let pages = base.bytes().div_ceil(other.bytes());
        prop_assert_eq!(base.pages(other).raw(), pages);
        prop_assert_eq!(base.order(other).pages().raw(), pages);
    }

    #[test]
    fn frames_are_aligned_within_their_block(number in number(), order in 0..64_u8) {
        let pages = Order::new(order).unwrap().pages();
        let head = Pfn::new(number).align_down(Order::new(order).unwrap());
        prop_assert_eq!(head.raw(), number - number % pages.raw());
        let end = Pfn::new(number).checked_add(pages);
        prop_assert_eq!(end.map(Pfn::raw), number.checked_add(pages.raw()));
    }
}

#[test]
fn shifts_and_orders_stay_below_64() {
    assert!(PageShift::new(63).is_some() && Order::new(63).is_some());
    for raw in 64..=u8::MAX {
        assert!(PageShift::new(raw).is_none() && Order::new(raw).is_none());
    }
}
