//! References of mappings: what they keep, what they are counted to, and what marks reach.

use pinfold::region::{RegionError, Unregistered};
use pinfold::sync::Ordering;
use pinfold::table::TooHard;
use pinfold::*;

use super::{BASE, Stage, gone, page, range};

#[test]
fn what_is_mapped_cannot_be_unregistered() {
    let stage = Stage::new(range(0, 4096), 4);
    let region = stage.register(10, 5).unwrap().region;
    stage.register(10, 5).unwrap();
    let realmode = stage.realmode();
    for mapped in 1..4 {
        realmode.map_get(region).unwrap();
        assert_eq!(stage.registry.region(region).unwrap().mapped, mapped);
    }
    assert_eq!(stage.unregister(region), Ok(Unregistered::StillUsed(1)), "not the last");
    for mapped in [3, 2, 1] {
        let refused = stage.unregister(region);
        assert_eq!(refused, Err(RegionError::Mapped { mapped }));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Busy);
        // All is as it was.
        let found = stage.registry.region(region).unwrap();
        assert_eq!((found.used, found.mapped), (1, mapped));
        assert_eq!(realmode.translate(region, page(10), BASE), Ok(stage.host.behind(page(10))));
        assert_eq!(stage.host.held(), 5);
        realmode.map_put(region).unwrap();
    }
    assert_eq!(gone(stage.unregister(region)), 5);
    assert!(stage.host.is_clean());
    for _ in 0..2 {
        assert_eq!(realmode.map_get(region), Err(TooHard));
        assert_eq!(realmode.map_put(region), Err(TooHard));
        assert_eq!(realmode.translate(region, page(10), BASE), Err(TooHard));
        assert_eq!(realmode.mark_dirty(region, page(10)), Err(TooHard));
        assert_eq!(realmode.lookup(page(10), 1), Err(TooHard));
        assert_eq!(stage.unregister(region), Err(RegionError::NotFound));
        stage.reclaim();
    }
}

/// The count ends at "nobody" below and at its limit above, and a refused change is none.
#[test]
fn the_count_never_leaves_its_bounds() {
    let stage = Stage::new(range(0, 4096), 4);
    let region = stage.register(10, 5).unwrap().region;
    let realmode = stage.realmode();
    assert_eq!(realmode.map_put(region), Err(TooHard));
    let mapped = || stage.registry.region(region).map(|region| region.mapped);
    assert_eq!(mapped(), Some(0));
    // The first word of the first record: generation and count.
    let word = &stage.memory[8];
    let raw = word.load(Ordering::Relaxed);
    assert_eq!(raw, 1 << 32 | 1);
    word.store(raw | 0xffff_fffe, Ordering::Relaxed);
    assert_eq!(mapped(), Some(0xffff_fffe));
    assert_eq!(realmode.map_get(region), Err(TooHard), "its limit");
    assert_eq!(word.load(Ordering::Relaxed), 1 << 32 | 0xffff_ffff, "no carry");
    realmode.map_put(region).unwrap();
    realmode.map_get(region).unwrap();
    assert_eq!(realmode.map_get(region), Err(TooHard));
    let refused = stage.unregister(region);
    assert_eq!(refused, Err(RegionError::Mapped { mapped: 0xffff_fffe }));
    word.store(raw, Ordering::Relaxed);
    stage.unregister(region).unwrap();
}

/// D34: a mark is made in the table, where nothing but the address stands, and reaches the run when
/// it is given back.
#[test]
fn a_mark_reaches_the_run_when_it_is_unpinned() {
    let stage = Stage::new(range(0, 4096), 4);
    for (marked, expected) in [(&[][..], &[][..]), (&[600, 603][..], &[512][..])] {
        let region = stage.register(510, 600).unwrap().region;
        let realmode = stage.realmode();
        assert_eq!(realmode.mark_dirty(region, page(600)), Err(TooHard), "nobody maps it");
        realmode.map_get(region).unwrap();
        for va in [509, 1110, 0, 1 << 51] {
            assert_eq!(realmode.mark_dirty(region, page(va)), Err(TooHard));
        }
        for va in marked {
            realmode.mark_dirty(region, VirtAddr::new(va << 12 | 0x123)).unwrap();
            assert_eq!(
                realmode.translate(region, page(*va), BASE),
                Ok(stage.host.behind(page(*va)))
            );
        }
        realmode.map_put(region).unwrap();
        gone(stage.unregister(region));
        let dirty = stage.host.take_dirty();
        let expected: Vec<_> = expected
            .iter()
            .map(|va| (stage.host.behind(page(*va)).pfn(BASE), PageCount::new(512)))
            .collect();
        assert_eq!(dirty, expected, "the block that was marked, and no other");
        stage.reclaim();
    }
    // And everything, if the caller of the removal says so.
    let region = stage.register(510, 2).unwrap().region;
    stage.registry.unregister(&stage.host, region, Dirtied::All).unwrap();
    assert_eq!(stage.host.take_dirty().iter().map(|(_, pages)| pages.raw()).sum::<u64>(), 2);
}
