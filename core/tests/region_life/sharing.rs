//! Who registers the same range shares it; whoever comes across another region is refused, and
//! nothing was pinned for it.

use pinfold::region::{Region, RegionError, Unregistered};
use pinfold::table::layout::HEADER_WORDS;
use pinfold::*;

use super::{BASE, BOTH, Stage, range, request};

#[test]
fn exactly_the_same_range_is_pinned_once_and_given_back_with_the_last() {
    let stage = Stage::new(range(0, 4096), 4);
    let first = stage.register(100, 30).unwrap();
    let pinned = first.pinned.unwrap();
    assert_eq!((pinned.pages.raw(), first.used), (30, 1));
    assert_eq!((stage.host.held(), stage.host.charged()), (30, 30));
    let calls = stage.host.calls();
    for used in 2..5 {
        let again = stage.register(100, 30).unwrap();
        assert_eq!((again.region, again.pinned, again.used), (first.region, None, used));
    }
    assert_eq!(stage.host.calls(), calls, "neither pinned nor charged again");
    let found = stage.registry.find(&range(100, 30)).unwrap();
    let expected = Region {
        id: first.region,
        range: range(100, 30),
        used: 4,
        mapped: 0,
        access: BOTH,
        usable: BASE,
        device: None,
    };
    assert_eq!(found, expected);
    assert_eq!(stage.registry.region(first.region), Some(expected));
    for left in [3, 2, 1] {
        assert_eq!(stage.unregister(first.region), Ok(Unregistered::StillUsed(left)));
        assert_eq!(stage.lookup(100, 30), Some(first.region));
        assert_eq!(stage.host.held(), 30);
    }
    let Ok(Unregistered::Gone(Some(unpinned))) = stage.unregister(first.region) else { panic!() };
    assert_eq!(unpinned.pages.raw(), 30);
    assert!(stage.host.is_clean());
    assert_eq!(stage.registry.find(&range(100, 30)), None);
    assert_eq!(stage.unregister(first.region), Err(RegionError::NotFound));
    assert_eq!(stage.reclaim().len(), 1, "only the table of the first was kept");
    stage.assert_empty();
}

/// The words that are offered with a shared registration stay the caller's, wherever they lie.
#[test]
fn sharing_takes_no_table_and_no_room() {
    let window = range(0, 4096);
    let stage = Stage::new(window, 1);
    let region = stage.register(100, 30).unwrap().region;
    let tables = stage.next.get();
    for table in [super::words(3), &[], &stage.memory[..stage.own], &stage.memory[tables - 39..]] {
        assert_eq!(stage.register_in(&request(100, 30), table).unwrap().region, region);
        // The record is the last, and it is not asked for.
        let other = stage.register_in(&request(200, 1), table).unwrap_err();
        assert!(matches!(other, RegionError::Full | RegionError::Unreachable), "{other:?}");
    }
    assert_eq!(stage.registry.find(&range(100, 30)).unwrap().used, 5);
}

#[test]
fn more_access_than_the_pins_were_taken_with_is_no_share() {
    for (has, wants, shared) in [
        (BOTH, Access::READ, true),
        (BOTH, Access::WRITE, true),
        (BOTH, BOTH, true),
        (Access::READ, Access::READ, true),
        (Access::READ, Access::WRITE, false),
        (Access::READ, BOTH, false),
        (Access::WRITE, BOTH, false),
    ] {
        let stage = Stage::new(range(0, 4096), 4);
        let asked = |access| PinRequest::longterm(range(100, 30), access);
        let first = stage.register_in(&asked(has), stage.table(100)).unwrap().region;
        let pins = stage.host.pins();
        let second = stage.register_in(&asked(wants), stage.table(100));
        assert_eq!(stage.host.pins(), pins);
        let used = match second {
            Ok(again) => again.used,
            Err(error) => {
                assert_eq!(error, RegionError::Overlap { with: first });
                1
            }
        };
        assert_eq!(used, if shared { 2 } else { 1 }, "{has:?} {wants:?}");
        let region = stage.registry.region(first).unwrap();
        assert_eq!((region.used, region.access), (used, has));
        assert_eq!(stage.registry.realmode().access(first), Ok(has));
    }
}

/// Two regions in one block of the directory, over several, and over whole root blocks: another
/// range that overlaps one, in any way, is refused by name before anything is pinned or charged.
#[test]
fn any_overlap_is_refused_before_anything_is_pinned() {
    for (first, pages) in [(100, 30), (100, 2000), (1024, 512), (512, 2048), (4000, 1)] {
        let end = first + pages;
        let stage = Stage::new(range(0, 1 << 13), 8);
        let near = stage.register(first - 2, 2).unwrap().region;
        let region = stage.register(first, pages).unwrap().region;
        let far = stage.register(end, 1).unwrap().region;
        let calls = stage.host.calls();
        let middle = first + pages / 2;
        let mut others = vec![
            (first - 1, pages + 2),
            (first - 1, 2),
            (first - 1, pages + 1),
            (first, pages + 1),
            (end - 1, 2),
            (0, 1 << 13),
        ];
        if pages > 1 {
            others.extend([(first, pages - 1), (first + 1, pages - 1), (first, 1), (end - 1, 1)]);
            others.extend([(middle, 1), (middle, pages)]);
        }
        for (start, many) in others {
            let error = stage.register(start, many).unwrap_err();
            let RegionError::Overlap { with } = error else { panic!("{start} {many}: {error:?}") };
            assert!([near, region, far].contains(&with), "{start} {many}");
            let there = stage.registry.region(with).unwrap().range;
            assert!(there.overlaps(&range(start, many)));
            let error = stage.register_device(start, many, 1 << 40).unwrap_err();
            assert!(matches!(error, RegionError::Overlap { .. }));
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        assert_eq!(stage.host.calls(), calls);
        assert_eq!(stage.registry.len(&stage.host), 3);
        // What only touches it is no overlap.
        stage.register(end + 1, 5).unwrap();
        stage.register(first - 3, 1).unwrap();
        assert_eq!(stage.lookup(first, pages), Some(region));
    }
}

/// A range around a region that touches neither of its own ends is only met on the way between them:
/// also then nothing was pinned.
#[test]
fn a_region_in_the_middle_is_met_before_anything_is_pinned() {
    for (first, pages) in [(700, 1), (1024, 512), (1000, 1000)] {
        let stage = Stage::new(range(0, 1 << 13), 8);
        let region = stage.register(first, pages).unwrap().region;
        let (calls, free) = (stage.host.pins(), stage.next.get());
        let error = stage.register(5, 4000).unwrap_err();
        assert_eq!(error, RegionError::Overlap { with: region });
        assert_eq!(stage.host.pins(), calls);
        assert_eq!(stage.lookup(5, 1), None);
        stage.register_in(&request(5, 1), &stage.memory[free..free + HEADER_WORDS + 1]).unwrap();
        stage.unregister(region).unwrap();
        assert_eq!(stage.register(7, 3000).unwrap().used, 1);
    }
}

#[test]
fn what_is_not_asked_for_properly_is_refused_at_once() {
    let stage = Stage::new(range(512, 1024), 4);
    let refused = |request: PinRequest, error| {
        assert_eq!(stage.register_in(&request, stage.table(20)), Err(error));
    };
    refused(PinRequest { flags: PinFlags::empty(), ..request(600, 1) }, RegionError::NotLongterm);
    for (first, pages) in [(0, 1), (511, 1), (511, 2), (1535, 2), (1536, 1), ((1 << 52) - 1, 1)] {
        refused(request(first, pages), RegionError::OutsideWindow);
        let device = stage.register_device(first, pages, 0);
        assert_eq!(device, Err(RegionError::OutsideWindow));
    }
    let large =
        AddrRange::new(VirtAddr::new(0x40_0000), PageCount::ONE, PageShift::new(16).unwrap());
    refused(PinRequest::longterm(large.unwrap(), BOTH), RegionError::BaseMismatch);
    assert_eq!(stage.host.calls(), 0);
    stage.assert_empty();
    stage.register(512, 1).unwrap();
    stage.register(1535, 1).unwrap();
}

#[test]
fn a_range_is_registered_no_more_often_than_can_be_counted() {
    let stage = Stage::new(range(0, 512), 1);
    let region = stage.register(0, 1).unwrap().region;
    // Bits 16..64 of the seventh word of the record say how often.
    let word = &stage.memory[8 + 6];
    let raw = word.load(sync::Ordering::Relaxed);
    word.store(raw & 0xffff | (u64::from(u32::MAX) - 1) << 16, sync::Ordering::Relaxed);
    assert_eq!(stage.register(0, 1).unwrap().used, u64::from(u32::MAX));
    assert_eq!(stage.register(0, 1), Err(RegionError::Overflow));
    assert_eq!(stage.registry.region(region).unwrap().used, u64::from(u32::MAX));
    let left = u64::from(u32::MAX) - 1;
    assert_eq!(stage.unregister(region), Ok(Unregistered::StillUsed(left)));
}

#[test]
fn pins_that_may_be_revoked_are_not_shared_with_who_did_not_agree() {
    for (has, wants, shared) in
        [(false, false, true), (false, true, true), (true, true, true), (true, false, false)]
    {
        let stage = Stage::new(range(0, 4096), 4);
        let asked = |revocable| PinRequest { revocable, ..request(100, 30) };
        let first = stage.register_in(&asked(has), stage.table(100)).unwrap().region;
        let second = stage.register_in(&asked(wants), stage.table(100));
        match second {
            Ok(again) => assert!(shared && again.region == first),
            Err(error) => {
                assert!(!shared);
                assert_eq!(error, RegionError::Overlap { with: first });
            }
        }
    }
}
