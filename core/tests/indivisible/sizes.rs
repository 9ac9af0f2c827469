//! Folios of every kind and size, alone and together.

use pinfold::folio::FolioKind;
use pinfold::{Access, Dirtied, Engine, Pfn, PinTable};
use pinfold_sim::{Layout, Machine, MapSpec, Ram, Thp, Want, mib};

use super::{GIANT, HUGE, SMALL, World, order, request, words};

#[test]
fn a_hugetlb_page_is_as_large_as_it_is_however_it_is_mapped() {
    let world = World::new(2 * GIANT);
    world.hugetlb(HUGE, 9);
    world.hugetlb(2 * HUGE, 9);
    world.hugetlb(GIANT, 18);
    // By entries for base pages, by one of its size, by one of its size on the next level.
    world.map(0, HUGE, HUGE);
    world.map(4 * HUGE, 1, 2 * HUGE);
    world.map(GIANT, 1, GIANT);
    assert_eq!(world.indivisible(0, HUGE), 9);
    assert_eq!(world.indivisible(4 * HUGE, HUGE), 9);
    assert_eq!(world.indivisible(GIANT, GIANT), 18);
    // Several in a row, also in the wrong order or twice the same.
    for heads in [[1, 2], [2, 1], [2, 2]] {
        world.map(0, HUGE, heads[0] * HUGE);
        world.map(HUGE, HUGE, heads[1] * HUGE);
        assert_eq!(world.indivisible(0, 2 * HUGE), 9, "{heads:?}");
    }
    // The giant one by entries for huge pages, as far as they go.
    world.map(4 * HUGE, 508, GIANT + 4 * HUGE);
    assert_eq!(world.indivisible(4 * HUGE, GIANT - 4 * HUGE), 18);
}

/// D26: the level of a page table was taken for the size of a page, and the mapping was split later.
#[test]
fn a_huge_page_that_can_be_split_is_base_pages() {
    let world = World::new(8 * HUGE);
    for (at, kind) in [FolioKind::Anonymous, FolioKind::Shmem, FolioKind::File].iter().enumerate() {
        let head = (1 + at as u64) * HUGE;
        world.folio(head, 9, *kind);
        world.map(4 * HUGE, 1, head);
        world.map(0, HUGE, head);
        assert_eq!(world.indivisible(4 * HUGE, HUGE), 0, "{kind:?}");
        assert_eq!(world.indivisible(0, HUGE), 0, "{kind:?} in small entries");
    }

    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(16)));
    let machine = Machine::new(&ram);
    let (space, at) = (machine.add_space(), SMALL << 12);
    machine.map(space.id(), MapSpec::anonymous(at, HUGE).with_thp(Thp::Whole)).unwrap();
    let table_words = words(64);
    let table = PinTable::new(&table_words).unwrap();
    let engine = Engine::new(&machine, machine.frames());
    let pinned = engine.pin(&space, &table, &request(SMALL, HUGE)).unwrap();
    assert_eq!((pinned.runs, pinned.indivisible.raw()), (1, 0));
    machine.split_mapping(space.id(), at).unwrap();
    engine.unpin(&table, Dirtied::No).unwrap();
}

/// D29: the size of the page before was used for those behind it.
#[test]
fn the_size_of_one_page_is_not_that_of_those_behind_it() {
    let world = World::new(8 * HUGE);
    world.hugetlb(HUGE, 9);
    world.hugetlb(2 * HUGE, 9);
    world.folio(3 * HUGE, 9, FolioKind::Anonymous);
    (4 * HUGE..5 * HUGE).for_each(|pfn| world.folio(pfn, 0, FolioKind::Anonymous));
    let [one, other, thp, small] = [1, 2, 3, 4].map(|block| block * HUGE);
    for blocks in [
        [one, small, other],
        [one, other, small],
        [small, one, other],
        [one, thp, other],
        [one, other, thp],
        [thp, one, other],
    ] {
        for (at, block) in (0..).step_by(HUGE as usize).zip(blocks) {
            world.map(at, HUGE, block);
        }
        assert_eq!(world.indivisible(0, 3 * HUGE), 0, "{blocks:?}");
    }
    // One page is enough; what lies outside the range does not matter.
    world.map(0, HUGE, one);
    world.map(HUGE, HUGE, small);
    assert_eq!([world.indivisible(0, HUGE), world.indivisible(0, HUGE + 1)], [9, 0]);
    world.map(0, HUGE, small);
    world.map(HUGE, HUGE, one);
    assert_eq!([world.indivisible(HUGE, HUGE), world.indivisible(HUGE - 1, HUGE + 1)], [9, 0]);

    // In one run of frames: 64 KiB each, the third of which can be split.
    for i in 0..8 {
        let kind = if i == 2 { FolioKind::Anonymous } else { FolioKind::Hugetlb };
        world.folio(5 * HUGE + i * 16, 4, kind);
    }
    world.map(0, HUGE, 5 * HUGE);
    for (first, pages, expected) in [(0, 32, 4), (0, 33, 0), (47, 2, 0), (48, 80, 4), (0, 128, 0)] {
        assert_eq!(world.indivisible(first, pages), expected, "{pages} pages from {first}");
    }

    // On a machine, also when all of it must be faulted in first.
    for hugetlb_first in [true, false] {
        let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(16)));
        let machine = Machine::new(&ram);
        let space = machine.add_space();
        machine.reserve_huge(order(9), Want::Pinnable).unwrap();
        let [huge, rest] = if hugetlb_first { [0, HUGE] } else { [HUGE, 0] }.map(|at| SMALL + at);
        machine.map(space.id(), MapSpec::hugetlb(huge << 12, HUGE, order(9))).unwrap();
        machine.map(space.id(), MapSpec::anonymous(rest << 12, HUGE)).unwrap();
        let engine = Engine::new(&machine, machine.frames());
        for (first, pages, expected) in [(huge, HUGE, 9), (SMALL, 2 * HUGE, 0), (rest, 9, 0)] {
            let table_words = words(2048);
            let table = PinTable::new(&table_words).unwrap();
            let pinned = engine.pin(&space, &table, &request(first, pages)).unwrap();
            assert_eq!(pinned.indivisible.raw(), expected, "{pages} pages from {first}");
            engine.unpin(&table, Dirtied::No).unwrap();
        }
    }
}

/// What was found in the way, and was not pinned, does not count.
#[test]
fn a_hugetlb_page_that_must_be_moved_first_is_as_large_as_it_is() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    machine.reserve_huge(order(9), Want::Movable).unwrap();
    machine.map(space.id(), MapSpec::hugetlb(SMALL << 12, HUGE, order(9))).unwrap();
    machine.touch(space.id(), SMALL << 12, HUGE, Access::WRITE).unwrap();
    let table_words = words(64);
    let table = PinTable::new(&table_words).unwrap();
    let engine = Engine::new(&machine, machine.frames());
    let pinned = engine.pin(&space, &table, &request(SMALL, HUGE)).unwrap();
    assert_eq!((pinned.migrated, pinned.indivisible.raw()), (1, 9));
    engine.unpin(&table, Dirtied::No).unwrap();
}

/// D28: pages of several sizes in one region made maps fail that were right. The smallest decides.
#[test]
fn of_several_sizes_the_smallest_holds() {
    let world = World::new(2 * GIANT);
    world.hugetlb(HUGE, 9);
    world.hugetlb(GIANT, 18);
    (0..32).for_each(|i| world.hugetlb(2 * HUGE + i * 16, 4));
    // 2 MiB, then 1 GiB; as 16 folios of 64 KiB, then 2 MiB; and the other way round.
    world.map(GIANT - HUGE, 1, HUGE);
    world.map(GIANT, 1, GIANT);
    assert_eq!(world.indivisible(GIANT - HUGE, HUGE + GIANT), 9);
    for [first, second] in [[1, 2], [2, 1]] {
        world.map(0, HUGE, first * HUGE);
        world.map(HUGE, HUGE, second * HUGE);
        assert_eq!(world.indivisible(0, 2 * HUGE), 4);
    }
}

/// D27: an IOMMU page reached past the page that was pinned. A folio mapped off its alignment is good
/// for pages of a device as far as addresses and frames are aligned alike.
#[test]
fn a_folio_off_its_alignment_is_good_for_as_much_as_they_are_aligned_alike() {
    let world = World::new(4 * HUGE);
    world.hugetlb(HUGE, 9);
    world.hugetlb(2 * HUGE, 9);
    for (page, expected) in [(1, 0), (2, 1), (4, 2), (0x30, 4), (0x100, 8), (0x101, 0)] {
        world.map(page, HUGE, HUGE);
        assert_eq!(world.indivisible(page, HUGE), expected, "mapped at page {page:#x}");
        assert_eq!(world.indivisible(page + 3, 1), expected, "and one page of it");
    }
    // Aligned alike, but not in a row: half of one, the other half of another.
    world.map(0, 256, HUGE);
    world.map(256, 256, 2 * HUGE + 256);
    assert_eq!(world.indivisible(0, HUGE), 8);
    assert_eq!(world.indivisible(0, 256), 9);
    world.map(0, HUGE, HUGE);
    world.map(77, 1, 2 * HUGE + 77);
    assert_eq!(world.indivisible(0, HUGE), 0);
    // Where a page is missing of those in a row, in a range that begins behind it.
    assert_eq!(world.indivisible(78, HUGE - 78), 9);
}

/// The ends of the range are not looked at: a part of a folio is of the folio's size.
#[test]
fn a_range_may_begin_and_end_inside_a_folio() {
    let mut world = World::new(4 * HUGE);
    world.hugetlb(HUGE, 9);
    world.hugetlb(2 * HUGE, 9);
    world.map(0, 2 * HUGE, HUGE);
    for (first, pages) in [(0, 1), (5, 1), (5, 200), (511, 2), (1, 2 * HUGE - 2), (300, 724)] {
        for step in [1, 3, 600, 4096] {
            world.step = step;
            let found = world.indivisible(first, pages);
            assert_eq!(found, 9, "{pages} pages from {first}, in steps of {step}");
        }
    }
}

#[test]
fn base_pages_are_base_pages() {
    let world = World::new(4 * HUGE);
    (HUGE..2 * HUGE).for_each(|pfn| world.folio(pfn, 0, FolioKind::Anonymous));
    world.hugetlb(2 * HUGE, 0);
    world.map(0, HUGE + 1, HUGE);
    for (first, pages) in [(0, HUGE), (0, 1), (HUGE - 1, 2), (HUGE, 1)] {
        assert_eq!(world.indivisible(first, pages), 0);
    }
}
