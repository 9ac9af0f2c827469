//! The long-term rules, row by row: every combination of what they look at, and every mapping.

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind, Why};
use pinfold::host::{Mapping, MappingKind};
use pinfold::policy::{self, Refusal, RequestError, Traits, Verdict};
use pinfold::{Access, AddrRange, Order, PageCount, PageShift, PinFlags, VirtAddr};

/// The table as it is written down for people: the first row that applies decides. Kept as data,
/// apart from the functions it checks.
const ROWS: [(Traits, Option<Why>); 6] = [
    (Traits::CMA, Some(Why::Cma)),
    (Traits::ISOLATED, Some(Why::Isolated)),
    (Traits::ZERO, None),
    (Traits::COHERENT, Some(Why::Coherent)),
    (Traits::FSDAX, Some(Why::FsDax)),
    (Traits::MOVABLE, Some(Why::Movable)),
];

#[test]
fn all_64_rows_of_the_longterm_table() {
    let mut pinnable = 0;
    for bits in 0..64 {
        let traits = Traits::from_bits(bits).expect("six bits");
        let expected = ROWS.iter().find(|row| traits.contains(row.0)).and_then(|row| row.1);
        assert_eq!(policy::longterm(traits), expected, "{traits:?}");
        pinnable += u32::from(expected.is_none());
    }
    // Neither CMA nor isolated: the zero frame with any of the rest (8), or nothing at all (1).
    assert_eq!(pinnable, 9);
}

#[test]
fn the_zero_frame_is_pinnable_in_any_zone_but_not_in_a_block_to_be_emptied() {
    assert_eq!(policy::longterm(Traits::ZERO | Traits::MOVABLE), None);
    assert_eq!(policy::longterm(Traits::ZERO | Traits::CMA), Some(Why::Cma));
    assert_eq!(policy::longterm(Traits::ZERO | Traits::ISOLATED), Some(Why::Isolated));
}

fn info(kind: FolioKind, flags: FolioFlags, order: u8) -> FolioInfo {
    FolioInfo { order: Order::new(order).unwrap(), kind, flags }
}

#[test]
fn what_can_move_is_moved_and_what_cannot_is_refused() {
    use FolioKind::{Anonymous, DeviceCoherent, FsDax};
    let none = FolioFlags::empty();
    for (folio, expected) in [
        (info(Anonymous, none, 0), Verdict::Pin),
        (info(Anonymous, FolioFlags::CMA, 0), Verdict::Move(Why::Cma)),
        (info(Anonymous, FolioFlags::CMA, 9), Verdict::Move(Why::Cma)),
        (info(Anonymous, FolioFlags::MOVABLE, 9), Verdict::Move(Why::Movable)),
        (info(Anonymous, FolioFlags::ISOLATED, 9), Verdict::Move(Why::Isolated)),
        (info(DeviceCoherent, none, 0), Verdict::Move(Why::Coherent)),
        (info(FsDax, none, 0), Verdict::Refuse(Refusal::FsDax)),
        (info(Anonymous, FolioFlags::ZERO, 0), Verdict::Pin),
        (info(Anonymous, FolioFlags::ZERO | FolioFlags::MOVABLE, 0), Verdict::Pin),
        (
            info(Anonymous, FolioFlags::ZERO | FolioFlags::CMA, 0),
            Verdict::Refuse(Refusal::ZeroPage(Why::Cma)),
        ),
        // The huge zero folio is no zero frame: a movable zone is no place for it, and it cannot
        // be moved either.
        (info(Anonymous, FolioFlags::ZERO, 9), Verdict::Pin),
        (
            info(Anonymous, FolioFlags::ZERO | FolioFlags::MOVABLE, 9),
            Verdict::Refuse(Refusal::ZeroPage(Why::Movable)),
        ),
    ] {
        assert_eq!(policy::verdict(folio), expected, "{folio:?}");
    }
}

fn mapping(kind: MappingKind, shared: bool, access: Access) -> Mapping {
    let tracked = kind == MappingKind::File && shared && access.contains(Access::WRITE);
    Mapping {
        range: AddrRange::new(VirtAddr::new(0), PageCount::ONE, PageShift::SIZE_4K).unwrap(),
        kind,
        shared,
        access,
        may_write: true,
        dirty_tracked: tracked,
    }
}

/// The matrix of Linux's own long-term self-test, for a mapping that is readable and writable.
#[test]
fn backings_by_sharing_by_access() {
    use MappingKind::{Anonymous, Device, File, FsDax, Hugetlb, Secret, Shmem};
    let both = Access::READ | Access::WRITE;
    let ok = Ok(());
    for (kind, shared_write, shared_read, private) in [
        (Anonymous, ok, ok, ok),
        (Shmem, ok, ok, ok),
        (Hugetlb, ok, ok, ok),
        (File, Err(Refusal::DirtyTracked), ok, ok),
        (FsDax, Err(Refusal::FsDax), Err(Refusal::FsDax), Err(Refusal::FsDax)),
        (Secret, Err(Refusal::Secret), Err(Refusal::Secret), Err(Refusal::Secret)),
        (Device, Err(Refusal::Device), Err(Refusal::Device), Err(Refusal::Device)),
    ] {
        let ask = |shared, access| {
            policy::mapping(&mapping(kind, shared, both), access, PinFlags::LONGTERM)
        };
        assert_eq!(ask(true, both), shared_write, "{kind:?} shared, write");
        assert_eq!(ask(true, Access::READ), shared_read, "{kind:?} shared, read");
        assert_eq!(ask(false, both), private, "{kind:?} private, write");
        assert_eq!(ask(false, Access::READ), private, "{kind:?} private, read");
    }
}

#[test]
fn a_short_pin_may_hold_what_a_long_one_may_not() {
    let both = Access::READ | Access::WRITE;
    for kind in [MappingKind::File, MappingKind::FsDax] {
        let mapping = mapping(kind, true, both);
        assert_eq!(policy::mapping(&mapping, both, PinFlags::empty()), Ok(()), "{kind:?}");
        assert!(policy::mapping(&mapping, both, PinFlags::LONGTERM).is_err(), "{kind:?}");
    }
}

#[test]
fn the_order_of_the_mapping_rules() {
    let nothing = Access::empty();
    // Device memory, without rights, and anonymous memory was asked for: the device rule speaks.
    let flags = PinFlags::LONGTERM | PinFlags::ANONYMOUS;
    let ask = |kind| policy::mapping(&mapping(kind, true, nothing), Access::all(), flags);
    assert_eq!(ask(MappingKind::Device), Err(Refusal::Device));
    assert_eq!(ask(MappingKind::FsDax), Err(Refusal::NotAnonymous));
    assert_eq!(ask(MappingKind::Anonymous), Err(Refusal::NotWritable));
    let read = mapping(MappingKind::Anonymous, false, Access::WRITE);
    assert_eq!(policy::mapping(&read, Access::READ, flags), Err(Refusal::NotReadable));
}

/// Every combination of flags and access, known and unknown: an error or none, never silence.
#[test]
fn every_combination_of_flags() {
    for bits in 0..64u32 {
        for access in 0..8u8 {
            for revocable in [false, true] {
                let flags = PinFlags::from_bits_retain(bits);
                let wanted = Access::from_bits_retain(access);
                let expected = if bits >= 16 || access >= 4 {
                    Err(RequestError::UnknownBits)
                } else if access == 0 {
                    Err(RequestError::NoAccess)
                } else if bits & 9 == 9 {
                    Err(RequestError::LongtermPeerToPeer)
                } else if revocable && bits & 1 == 0 {
                    Err(RequestError::RevocableShortterm)
                } else {
                    Ok(())
                };
                assert_eq!(policy::request(wanted, flags, revocable), expected, "{bits} {access}");
            }
        }
    }
}
