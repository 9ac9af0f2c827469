//! What lies where it must not stay is moved first, and what cannot be moved is named.

use pinfold::folio::{FolioFlags, Why};
use pinfold::host::{Event, MigrateError};
use pinfold::{ErrorKind, Order, Pfn, PinCause, PinFlags, PinRequest, PinTable, VirtAddr};
use pinfold_sim::{HostCall, Layout, MapSpec, Thp, Want, mib};

use super::{AT, BOTH, HUGE, coherent, nothing_misplaced, request, words};

#[test]
fn untouched_memory_is_faulted_in_where_it_may_stay() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 100));
    bench
        .while_pinned(&request(AT, 100, BOTH), |table, pinned| {
            assert_eq!((pinned.faults, pinned.migrated), (100, 0));
            nothing_misplaced(&bench, table);
            for i in [0, 57, 99] {
                coherent(&bench, table, AT + (i << 12));
            }
        })
        .unwrap();
}

/// D9: a slow pin of CMA memory failed instead of moving it. D18, D19: and so did the zero page.
#[test]
fn memory_in_the_movable_zone_is_moved_and_pinned() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 64));
    bench.map(MapSpec::anonymous(AT + (HUGE << 12), 2 * HUGE).with_thp(Thp::Whole));
    bench.touch(AT, 64, BOTH);
    bench.touch(AT + (HUGE << 12), 2 * HUGE, BOTH);
    bench.write(AT + 0x123, 77);
    assert!(bench.folio(AT).info().flags.contains(FolioFlags::MOVABLE));
    bench
        .while_pinned(&request(AT, 64, BOTH), |table, pinned| {
            assert_eq!((pinned.faults, pinned.migrated), (0, 64));
            nothing_misplaced(&bench, table);
            assert_eq!(bench.read(AT + 0x123), 77, "the contents went with it");
            coherent(&bench, table, AT + 0x123);
        })
        .unwrap();
    let _ = machine.take_events();
    bench
        .while_pinned(&request(AT + (HUGE << 12), 2 * HUGE, BOTH), |table, pinned| {
            assert_eq!(pinned.migrated, 2, "a huge page moves as one");
            nothing_misplaced(&bench, table);
            coherent(&bench, table, AT + (HUGE << 12) + 0x1234);
        })
        .unwrap();
    let nine = Order::new(9).unwrap();
    let moved = machine.take_events();
    assert!(moved.iter().any(
        |event| matches!(event, Event::Migrated { order, why: Why::Movable, .. } if *order == nine)
    ));
}

/// D22: a failed migration was ignored and the page stayed pinned where it was.
/// D23: a folio that could not be isolated was taken for one that need not move.
#[test]
fn a_folio_that_others_refer_to_is_named_with_both_counts() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 8));
    bench.touch(AT, 8, BOTH);
    let held = machine.get_page(bench.space.id(), AT + 0x5000).unwrap();
    let request = request(AT, 8, BOTH);
    let memory = words(64);
    let table = PinTable::new(&memory).unwrap();
    let error = bench.pin(&table, &request).unwrap_err();
    assert_eq!(error.at, VirtAddr::new(AT + 0x5000));
    assert_eq!(error.kind(), ErrorKind::Unmovable);
    let PinCause::Unmovable { folio, why, error, .. } = error.cause else { panic!("{error}") };
    assert_eq!((folio, why), (held, Why::Movable));
    // One mapping and the claim were expected; the foreign reference is one more.
    assert_eq!(error, MigrateError::Busy { expected: 2, found: 3 });
    bench.nothing_is_held(&request);
    // When the other lets go, the same call succeeds.
    assert!(machine.put_page(held));
    bench.while_pinned(&request, |table, _| nothing_misplaced(&bench, table)).unwrap();
}

#[test]
fn no_memory_to_move_to_is_an_error_that_leaves_everything() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 8));
    bench.touch(AT, 8, BOTH);
    for nth in 1..=20 {
        machine.fail(HostCall::Migrate, nth);
    }
    let cause = bench.refused(&request(AT, 8, BOTH));
    let PinCause::Unmovable { error: MigrateError::NoMemory, .. } = cause else {
        panic!("{cause}")
    };
}

/// D16: NUMA balancing moved a page under a pin. With threads: `races::threads`.
#[test]
fn what_is_pinned_cannot_be_moved() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 1));
    bench
        .while_pinned(&request(AT, 1, BOTH), |table, _| {
            let moved = machine.move_page(bench.space.id(), AT, Want::Movable);
            assert!(matches!(moved, Err(MigrateError::Busy { .. })), "{moved:?}");
            let swapped = machine.swap_out(bench.space.id(), AT);
            assert!(matches!(swapped, Err(MigrateError::Busy { .. })), "{swapped:?}");
            coherent(&bench, table, AT);
        })
        .unwrap();
    machine.move_page(bench.space.id(), AT, Want::Movable).unwrap();
}

/// The reason for all this: guest memory in the CMA area, and a guest that cannot start because
/// its hash page table finds no room there.
#[test]
fn the_cma_area_can_be_emptied_although_its_guest_is_pinned() {
    let area = mib(16).raw();
    for longterm in [false, true] {
        let layout = Layout::new(Pfn::new(0x1000)).normal(mib(48)).cma(mib(16));
        scene!(machine, bench, layout);
        let pages = 4 * HUGE;
        bench.map(MapSpec::anonymous(AT, pages).with_thp(Thp::Whole));
        bench.touch(AT, pages, BOTH);
        assert!(bench.folio(AT).info().flags.contains(FolioFlags::CMA));
        let flags = if longterm { PinFlags::LONGTERM } else { PinFlags::empty() };
        bench
            .while_pinned(&PinRequest { flags, ..request(AT, pages, BOTH) }, |_, pinned| {
                let contig = machine.alloc_contig(0, area);
                assert_eq!(contig.is_ok(), longterm, "{contig:?}");
                assert_eq!(pinned.migrated, if longterm { 4 } else { 0 });
                if let Ok(range) = contig {
                    assert!(machine.free_contig(&range));
                }
            })
            .unwrap();
    }
}

#[test]
fn a_short_pin_takes_memory_where_it_is() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 4));
    bench.touch(AT, 4, BOTH);
    let short = PinRequest { flags: PinFlags::empty(), ..request(AT, 4, BOTH) };
    bench
        .while_pinned(&short, |_, pinned| {
            assert_eq!(pinned.migrated, 0);
            assert!(bench.folio(AT).info().flags.contains(FolioFlags::MOVABLE));
        })
        .unwrap();
}

#[test]
fn what_was_swapped_out_comes_back_where_it_may_stay() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 8));
    for page in 0..8 {
        bench.write(AT + (page << 12), page as u8);
    }
    for page in [1, 2, 6] {
        machine.swap_out(bench.space.id(), AT + (page << 12)).unwrap();
    }
    bench
        .while_pinned(&request(AT, 8, BOTH), |table, pinned| {
            assert_eq!((pinned.faults, pinned.migrated), (3, 5));
            nothing_misplaced(&bench, table);
            for page in 0..8 {
                assert_eq!(bench.read(AT + (page << 12)), page as u8);
            }
            coherent(&bench, table, AT + 0x6000);
        })
        .unwrap();
    assert_eq!(machine.swapped(), 0);
}
