//! Words: how many a registry takes, where they may lie, what grows and what comes back.

use pinfold::region::RegionError;
use pinfold::sync::Word;
use pinfold::table::layout::HEADER_WORDS;
use pinfold::*;
use proptest::prelude::*;

use super::{BASE, PinHost, Stage, range, request, words};

/// Words of a node.
const NODE: usize = 520;

fn register(registry: &Registry<'_>, first: u64, pages: u64) -> Result<RegionId, RegionError> {
    let host = PinHost::new(BASE);
    let region = registry.register_device(&host, &range(first, pages), PhysAddr::new(0))?;
    Ok(region.region)
}

/// Windows with blocks of each size at the root, and the nodes that two pages side by side take there.
const WINDOWS: [(u64, u64, usize); 7] = [
    (0, 512, 0),
    (700, 512, 0),
    (700, 513, 1),
    (0, 1 << 24, 1),
    (700, (1 << 24) + 1, 2),
    (1, 1 << 35, 2),
    ((1 << 52) - (1 << 35) - 1, (1 << 35) + 1, 3),
];

#[test]
fn exactly_what_is_said_suffices() {
    for (first, pages, nodes) in WINDOWS {
        let window = range(first, pages);
        let levels = nodes;
        let fixed = Registry::words_for(&window, 2).unwrap() - 2 * 2 * levels * NODE;
        let too_few = words(fixed - 1);
        let areas = Areas::new(&[too_few]).unwrap();
        let error = Registry::new(areas, too_few, &window, 2).unwrap_err();
        assert_eq!(error, RegionError::NoSpace { need: fixed });
        let need = fixed + nodes * NODE;
        for have in [fixed, need.saturating_sub(1).max(fixed), need] {
            let all = words(need);
            let areas = Areas::new(&[all]).unwrap();
            let registry = Registry::new(areas, &all[..have], &window, 2).unwrap();
            let one = register(&registry, first + 2, 1).unwrap();
            let two = register(&registry, first + 3, 1);
            let realmode = registry.realmode();
            if have == need {
                let va = VirtAddr::new((first + 3) << 12);
                assert_eq!(realmode.lookup(va, 1), Ok(two.unwrap()));
            } else {
                assert_eq!(two, Err(RegionError::NoSpace { need }), "{have} of {need}");
                // Nothing has changed, and with what is missing it goes on.
                let host = PinHost::new(BASE);
                registry.grow(&host, &all[have..need]).unwrap();
                register(&registry, first + 3, 1).unwrap();
            }
            assert_eq!(realmode.lookup(VirtAddr::new((first + 2) << 12), 1), Ok(one));
            let refused = register(&registry, first + 5, 1).unwrap_err();
            assert!(matches!(refused, RegionError::Full), "{refused:?}");
        }
    }
}

/// A region whose two ends lie in the blocks of two others takes nodes for both.
#[test]
fn each_end_takes_nodes_of_its_own() {
    // A quarter of the window is a block of the root, or more.
    for (pages, levels, far) in [(1 << 12, 1, 1 << 10), (1 << 26, 2, 1 << 20)] {
        let window = range(0, pages);
        let fixed = Registry::words_for(&window, 3).unwrap() - 3 * 2 * levels * NODE;
        let need = fixed + 2 * levels * NODE;
        let all = words(need);
        let areas = Areas::new(&[all]).unwrap();
        let registry = Registry::new(areas, &all[..need - 1], &window, 3).unwrap();
        let neighbours = [0, far + 9].map(|page| register(&registry, page, 1).unwrap());
        let refused = register(&registry, 1, far);
        assert_eq!(refused, Err(RegionError::NoSpace { need }), "{pages:#x}");
        registry.grow(&PinHost::new(BASE), &all[need - 1..]).unwrap();
        let region = register(&registry, 1, far).unwrap();
        let found = [0, 1, far, far + 1, far + 9]
            .map(|page| registry.realmode().lookup(VirtAddr::new(page << 12), 1).ok());
        let [before, behind] = neighbours.map(Some);
        assert_eq!(found, [before, Some(region), Some(region), None, behind]);
    }
}

proptest! {
    /// Wherever regions lie, if what is retired is reclaimed before it is missed.
    #[test]
    fn what_a_window_takes_is_enough_for_any_regions(
        which in 0..WINDOWS.len(),
        parts in prop::collection::vec((0..4_u64, 0..3_u64, 0..700_u64, 0..30_u32, 1..4_u64), 1..40),
    ) {
        const REGIONS: usize = 6;
        let (start, pages, _) = WINDOWS[which];
        let window = range(start, pages);
        let own = words(Registry::words_for(&window, REGIONS as u32).unwrap());
        let registry = Registry::new(Areas::new(&[own]).unwrap(), own, &window, REGIONS as u32);
        let registry = registry.unwrap();
        let host = PinHost::new(BASE);
        let mut there = Vec::new();
        for (high, middle, low, order, count) in parts {
            let first = start + ((high << 27) + (middle << 18) + (low << 3)) % pages;
            let many = (count << order).min(start + pages - first);
            match register(&registry, first, many) {
                Ok(region) => there.push(region),
                Err(RegionError::Overlap { .. }) => {}
                Err(error) => panic!("{error} of {first:#x}, {many:#x}"),
            }
            let full = there.len() == REGIONS;
            if full {
                let oldest = there.remove(low as usize % REGIONS);
                registry.unregister(&host, oldest, Dirtied::No).unwrap();
            }
            registry.reclaim(&host, registry.retired(&host), |_| ());
        }
    }
}

#[test]
fn areas_are_at_most_four_and_do_not_overlap() {
    let all = words(100);
    let parts: Vec<&[Word]> = all.chunks(20).collect();
    assert!(Areas::new(&[]).is_some());
    assert!(Areas::new(&parts[..4]).is_some());
    assert!(Areas::new(&parts).is_none(), "five");
    for (one, other) in [(0..20, 19..30), (0..20, 0..20), (5..6, 0..20), (10..30, 0..11)] {
        assert!(
            Areas::new(&[&all[one.clone()], &all[other.clone()]]).is_none(),
            "{one:?} {other:?}"
        );
        assert!(Areas::new(&[parts[4], &all[other], &all[one]]).is_none());
    }
    let areas = Areas::new(&[&all[40..60], &all[0..20]]).unwrap();
    // Counted through the areas in their order, not by address.
    assert_eq!(areas.place(&all[41..60]), Some(1));
    assert_eq!(areas.place(&all[0..1]), Some(20));
    assert_eq!(areas.place(&all[19..20]), Some(39));
    for outside in [&all[20..21], &all[19..21], &all[39..41], &all[59..61], &all[0..60], &[]] {
        assert_eq!(areas.place(outside), None);
    }
}

#[test]
fn a_registry_lies_inside_one_area_and_grows_inside_it() {
    let window = range(0, 4096);
    let all = words(4000);
    let (here, there) = all.split_at(2000);
    let areas = Areas::new(&[here, there]).unwrap();
    let new = |from: usize, to: usize| Registry::new(areas, &all[from..to], &window, 4).err();
    assert_eq!(new(1900, 2100), Some(RegionError::Unreachable), "across two");
    let elsewhere = words(1000);
    assert_eq!(Registry::new(areas, elsewhere, &window, 4).err(), Some(RegionError::Unreachable));
    let host = PinHost::new(BASE);
    let registry = Registry::new(areas, &here[100..200], &window, 4).unwrap();
    for (more, error) in [
        (&here[199..300], RegionError::NotBehind),
        (&here[201..300], RegionError::NotBehind),
        (&here[0..100], RegionError::NotBehind),
        (&there[0..10], RegionError::NotBehind),
        (elsewhere, RegionError::Unreachable),
        (&all[200..2001], RegionError::Unreachable),
    ] {
        assert_eq!(registry.grow(&host, more), Err(error));
    }
    registry.grow(&host, &here[200..300]).unwrap();
    assert_eq!(registry.grow(&host, &here[200..300]), Err(RegionError::NotBehind), "twice");
    registry.grow(&host, &here[300..2000]).unwrap();
    register(&registry, 0, 1).unwrap();
    register(&registry, 1, 1).unwrap();
}

#[test]
fn a_table_lies_in_reach_and_is_nobody_elses() {
    let stage = Stage::new(range(0, 4096), 4);
    let own = stage.own;
    let refused = |table: &'static [Word], error| {
        let found = stage.register_in(&request(10, 5), table);
        assert_eq!(found.unwrap_err(), error);
        assert!(stage.host.is_clean() && stage.registry.is_empty(&stage.host));
    };
    refused(words(100), RegionError::Unreachable);
    refused(&[], RegionError::Unreachable);
    refused(&stage.memory[..own], RegionError::TableInUse);
    refused(&stage.memory[own - 1..own + 20], RegionError::TableInUse);
    refused(&stage.memory[..stage.memory.len()], RegionError::TableInUse);
    let small = RegionError::Table(table::TableError::NoSpace { need: HEADER_WORDS + 1 });
    refused(&stage.memory[own..own + 8], small);
    assert_eq!(stage.host.pins(), 0, "all that was known before");
    let table = &stage.memory[own + 50..own + 100];
    let region = stage.register_in(&request(10, 5), table).unwrap().region;
    let in_use = |from: usize, to: usize| {
        let error = stage.register_in(&request(50, 5), &stage.memory[from..to]).unwrap_err();
        assert_eq!((error, error.kind()), (RegionError::TableInUse, ErrorKind::Busy));
    };
    for (from, to) in [(50, 100), (30, 51), (99, 120), (60, 80), (30, 120)] {
        in_use(own + from, own + to);
    }
    stage.register_in(&request(20, 5), &stage.memory[own + 30..own + 50]).unwrap();
    stage.register_in(&request(30, 5), &stage.memory[own + 100..own + 120]).unwrap();
    // Who still reads it may do so until it is reclaimed.
    stage.unregister(region).unwrap();
    in_use(own + 50, own + 100);
    assert_eq!(stage.reclaim(), [(own + 50, 50)]);
    stage.register_in(&request(40, 5), table).unwrap();
}

/// Directly behind the registry's words there may be a table, until it comes back.
#[test]
fn a_registry_does_not_grow_over_a_table() {
    let stage = Stage::new(range(0, 4096), 4);
    let region = stage.register(10, 5).unwrap().region;
    let more = &stage.memory[stage.own..stage.own + 600];
    let grow = || stage.registry.grow(&stage.host, more);
    assert_eq!(grow(), Err(RegionError::TableInUse));
    stage.unregister(region).unwrap();
    assert_eq!(grow(), Err(RegionError::TableInUse), "who reads it may still be at it");
    stage.reclaim();
    assert_eq!(grow(), Ok(()));
    let refused = stage.register_in(&request(10, 5), &more[..20]);
    assert_eq!(refused.unwrap_err(), RegionError::TableInUse);
}

/// A grace is good for what was retired before it, whatever order they come back in.
#[test]
fn only_what_was_retired_before_the_grace_is_reclaimed() {
    let stage = Stage::new(range(0, 4096), 8);
    let regions: Vec<RegionId> =
        (0..4).map(|at| stage.register(at * 10, 1).unwrap().region).collect();
    let mut graces = Vec::new();
    for region in &regions[..3] {
        graces.push(stage.registry.retired(&stage.host));
        stage.unregister(*region).unwrap();
    }
    let back = |grace| {
        let mut tables = 0;
        stage.registry.reclaim(&stage.host, grace, |_| tables += 1);
        (tables, stage.registry.len(&stage.host))
    };
    let last = graces.pop().unwrap();
    // Of the three, two were retired before it; the earlier ones find nothing more.
    assert_eq!(back(last), (2, 2));
    for grace in graces {
        assert_eq!(back(grace), (0, 2));
    }
    assert_eq!(stage.reclaim().len(), 1);
    assert_eq!(stage.reclaim().len(), 0);
    assert_eq!(stage.registry.len(&stage.host), 1);
}
