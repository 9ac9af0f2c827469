//! Pages that others see too: copy-on-write, forks, zero pages.

use pinfold::folio::Why;
use pinfold::policy::Refusal;
use pinfold::{Access, Order, PageShift, PinCause, VirtAddr, X86_64};
use pinfold_sim::{FileKind, HostCall, Layout, Machine, MapSpec, Place, Ram, ZoneKind};

use super::{AT, BOTH, bench, coherent, request};

/// D3: a read-only pin of a page that is shared after a fork: each side could get the other's
/// writes. The pin makes it private first.
#[test]
fn a_read_pin_of_a_shared_page_unshares_it() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 4));
    bench.touch(AT, 4, BOTH);
    let child = machine.fork(bench.space.id()).unwrap();
    bench
        .while_pinned(&request(AT, 4, Access::READ), |table, pinned| {
            assert_eq!(pinned.faults, 4);
            coherent(&bench, table, AT);
            let mut byte = [0];
            machine.read(child.id(), AT, &mut byte).unwrap();
            assert_eq!(byte[0], 0, "the child sees what the parent's device wrote");
        })
        .unwrap();
}

/// D15: a read-only long-term pin of a private file page or of the zero page went stale with the
/// first write of the process.
#[test]
fn a_read_pin_of_a_private_page_keeps_seeing_the_process() {
    scene!(machine, bench, Layout::small());
    let file = machine.add_file(FileKind::Disk, 4, Order::ZERO);
    bench.map(MapSpec::private(AT, 4, file));
    bench.map(MapSpec::anonymous(AT + 0x10_0000, 4));
    bench.touch(AT, 4, Access::READ);
    bench.touch(AT + 0x10_0000, 4, Access::READ);
    assert!(bench.folio(AT + 0x10_0000).is_zero_frame());
    for at in [AT, AT + 0x10_0000] {
        bench
            .while_pinned(&request(at, 4, Access::READ), |table, _| {
                coherent(&bench, table, at + 0x2000);
            })
            .unwrap();
    }
}

/// Each copy is one fault, and after it the walk comes again: it must not have read all the
/// entries behind each time.
#[test]
fn pages_that_must_all_be_copied_are_not_read_over_and_over() {
    scene!(machine, bench, Layout::small());
    let file = machine.add_file(FileKind::Disk, 1024, Order::ZERO);
    bench.map(MapSpec::private(AT, 1024, file));
    bench.touch(AT, 1024, Access::READ);
    bench
        .while_pinned(&request(AT, 1024, BOTH), |_, pinned| {
            assert_eq!(pinned.faults, 1024);
            assert!(pinned.entries <= 8 * 1024, "{} entries decoded", pinned.entries);
        })
        .unwrap();
}

/// D20, D21: pins of the zero page were counted and never given back; or a success was taken for
/// a failure.
#[test]
fn the_zero_page_is_pinned_without_a_count_wherever_it_lies() {
    for place in [ZoneKind::Normal, ZoneKind::Movable] {
        let ram = Ram::new(&Layout::small());
        let format = X86_64::new(4, 46).unwrap();
        let machine = Machine::with(&ram, format, Place::Zone(place));
        let bench = bench(&machine);
        // Never writable, so that no copy can ever take its place.
        bench.map(MapSpec::anonymous(AT, 16).read_only(false));
        bench.touch(AT, 16, Access::READ);
        let before = bench.counts(AT);
        for _ in 0..1000 {
            bench
                .while_pinned(&request(AT, 16, Access::READ), |table, pinned| {
                    assert_eq!((pinned.faults, pinned.migrated), (0, 0));
                    let zero = machine.zero_page().addr(PageShift::SIZE_4K);
                    assert_eq!(table.lookup(VirtAddr::new(AT + 0x3000)).ok(), zero);
                })
                .unwrap();
        }
        assert_eq!(bench.counts(AT), before);
    }
}

#[test]
fn a_zero_page_in_a_cma_area_is_refused_at_once() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::with(&ram, X86_64::new(4, 46).unwrap(), Place::Cma);
    let bench = bench(&machine);
    bench.map(MapSpec::anonymous(AT, 1).read_only(false));
    bench.touch(AT, 1, Access::READ);
    let cause = bench.refused(&request(AT, 1, Access::READ));
    assert_eq!(cause, PinCause::Refused(Refusal::ZeroPage(Why::Cma)));
    assert_eq!(machine.calls(HostCall::Migrate), 0, "nobody tries to move a zero page");
}

/// D1: after the copy the need for write access was dropped, and a race let the original be
/// written. Here the copy goes away again between the fault and the grab.
#[test]
fn the_need_to_write_survives_a_fault() {
    scene!(machine, bench, Layout::small());
    let file = machine.add_file(FileKind::Disk, 1, Order::ZERO);
    bench.map(MapSpec::private(AT, 1, file));
    let original = {
        bench.touch(AT, 1, Access::READ);
        bench.folio(AT).head()
    };
    let id = bench.space.id();
    // The walk after the fault is the second one: discard the private copy right before it and
    // have the file's page read back in.
    machine.during(HostCall::GuardEnter, 2, move |machine| {
        machine.unmap(id, AT, 1).unwrap();
        machine.map(id, MapSpec::private(AT, 1, file)).unwrap();
        machine.touch(id, AT, 1, Access::READ).unwrap();
    });
    bench
        .while_pinned(&request(AT, 1, BOTH), |table, pinned| {
            assert_eq!(pinned.faults, 2, "the write access was asked for again");
            let addr = table.lookup(VirtAddr::new(AT)).unwrap();
            assert_ne!(addr.pfn(PageShift::SIZE_4K), original, "the file's own page is pinned");
            coherent(&bench, table, AT);
        })
        .unwrap();
}

/// D5: a lockless pin during a fork pinned a page that the fork made shared.
#[test]
fn a_pin_that_overlaps_a_fork_keeps_the_parents_page() {
    for call in [HostCall::GuardEnter, HostCall::Table, HostCall::GuardLeave] {
        for nth in 1..=3 {
            scene!(machine, bench, Layout::small());
            bench.map(MapSpec::anonymous(AT, 4));
            bench.touch(AT, 4, BOTH);
            let id = bench.space.id();
            machine.during(call, nth, move |machine| {
                machine.fork(id).unwrap();
            });
            bench
                .while_pinned(&request(AT, 4, BOTH), |table, _| {
                    for i in 0..4 {
                        coherent(&bench, table, AT + (i << 12));
                    }
                })
                .unwrap();
        }
    }
}
