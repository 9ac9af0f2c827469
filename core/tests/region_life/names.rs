//! A region's name is never another region's, and no number that is none does any harm.

use pinfold::region::RegionError;
use pinfold::sync::Ordering;
use pinfold::table::TooHard;
use pinfold::*;

use super::{BASE, Stage, gone, page, range};

fn nobody(stage: &Stage, region: RegionId, about: &str) {
    let realmode = stage.realmode();
    assert_eq!(realmode.translate(region, page(10), BASE), Err(TooHard), "{about}");
    assert_eq!(realmode.map_get(region), Err(TooHard), "{about}");
    assert_eq!(realmode.map_put(region), Err(TooHard), "{about}");
    assert_eq!(realmode.mark_dirty(region, page(10)), Err(TooHard), "{about}");
    assert_eq!(stage.registry.region(region), None, "{about}");
    assert_eq!(stage.unregister(region), Err(RegionError::NotFound), "{about}");
}

#[test]
fn numbers_that_are_no_names_are_nobody() {
    let stage = Stage::new(range(0, 4096), 4);
    let region = stage.register(10, 5).unwrap().region;
    stage.realmode().map_get(region).unwrap();
    let raw = region.raw();
    assert_ne!(raw, 0);
    assert_eq!(RegionId::from_raw(raw), region);
    let before: Vec<u64> = stage.memory.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    let bits = (0..64).map(|bit| raw ^ 1 << bit);
    let special = [0, 1, u64::MAX, u64::MAX << 32, 0xffff_ffff, raw + (1 << 32), raw | 0xffff_ffff];
    for other in bits.chain(special).chain((1..9).map(|n| raw + n)) {
        nobody(&stage, RegionId::from_raw(other), &format!("{other:#x}"));
    }
    let after: Vec<u64> = stage.memory.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    assert_eq!(before, after, "not a word has changed");
}

#[test]
fn a_record_that_is_used_again_gives_another_name() {
    let stage = Stage::new(range(0, 4096), 1);
    let mut names = Vec::new();
    for _ in 0..50 {
        let region = stage.register(10, 1).unwrap().region;
        for old in &names {
            nobody(&stage, *old, "an old name");
        }
        assert!(!names.contains(&region));
        names.push(region);
        gone(stage.unregister(region));
        nobody(&stage, region, "gone");
        assert_eq!(stage.register(10, 1), Err(RegionError::Full), "it waits to be reclaimed");
        stage.reclaim();
    }
}

/// A record whose generations are used up is not used any more, rather than from the first one on.
#[test]
fn names_that_would_come_again_are_not_given() {
    let stage = Stage::new(range(0, 4096), 1);
    // The first word of the first record: generation and count.
    stage.memory[8].store(0xffff_fffd << 32, Ordering::Relaxed);
    for generation in [0xffff_fffd, 0xffff_fffe] {
        let region = stage.register(10, 1).unwrap().region;
        assert_eq!(region.raw() >> 32, generation);
        gone(stage.unregister(region));
        assert_eq!(stage.reclaim().len(), 1);
        assert!(stage.registry.is_empty(&stage.host));
    }
    assert_eq!(stage.register(10, 1), Err(RegionError::Full));
}
