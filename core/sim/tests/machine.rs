//! The machine alone: faults, copy-on-write, fork, migration, the allocators.

use pinfold::folio::{FolioFlags, FolioKind};
use pinfold::host::{Fault, FaultError, FaultIn, MigrateError, PhysMem, SpaceId, WalkGuard};
use pinfold::{Access, Order, PageCount, Pfn, PhysAddr, VirtAddr};
use pinfold_sim::model::Model;
use pinfold_sim::{
    ContigError, DmaError, FileKind, FrameRange, FreePolicy, HostCall, Layout, Machine, MapError,
    MapSpec, Place, Ram, Thp, TruncateError, Want, ZoneKind, ZoneLayout, mib,
};

const AT: u64 = 0x4000_0000;
const PAGE: u64 = 0x1000;
const HUGE: u64 = 512;
const RW: Access = Access::all();

fn order(n: u8) -> Order {
    Order::new(n).unwrap()
}

fn ok(machine: &Machine<'_>) {
    Model::new().check(machine).unwrap();
}

/// Ends everything that is left and looks whether all memory came back.
fn finish(machine: &Machine<'_>) {
    for space in machine.spaces() {
        machine.drop_space(space.id()).unwrap();
    }
    ok(machine);
}

fn references(machine: &Machine<'_>, id: SpaceId, va: u64) -> u32 {
    machine.frames().counts_of(machine.folio_at(id, va).unwrap()).references()
}

fn pin(machine: &Machine<'_>, id: SpaceId, va: u64) -> pinfold::folio::Folio {
    let folio = machine.folio_at(id, va).unwrap();
    machine.frames().pin(folio, PageCount::ONE).unwrap();
    folio
}

fn unpin(machine: &Machine<'_>, folio: pinfold::folio::Folio) {
    use pinfold::host::Reclaim;
    let now = machine.frames().folio(folio.head()).unwrap();
    if let Some(last) = machine.frames().unpin(now, PageCount::ONE).unwrap() {
        machine.reclaim(last);
    }
}

fn byte(machine: &Machine<'_>, id: SpaceId, va: u64) -> u8 {
    let mut byte = [0];
    machine.read(id, va, &mut byte).unwrap();
    byte[0]
}

#[test]
fn untouched_memory_reads_as_the_zero_page_which_nobody_counts() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, 4)).unwrap();
    machine.touch(id, AT, 4, Access::READ).unwrap();
    let zero = machine.folio_at(id, AT).unwrap();
    assert_eq!(zero.head(), machine.zero_page());
    assert!(zero.is_zero_frame());
    assert_eq!(machine.frames().counts_of(zero).references(), 1);
    machine.write(id, AT, &[7]).unwrap();
    assert_ne!(machine.folio_at(id, AT).unwrap().head(), zero.head());
    assert_eq!((byte(&machine, id, AT), byte(&machine, id, AT + PAGE)), (7, 0));
    ok(&machine);
    finish(&machine);
}

#[test]
fn the_huge_zero_folio_is_counted_and_gives_way_to_one_page_or_a_huge_one() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, 2 * HUGE).with_huge_zero()).unwrap();
    machine.touch(id, AT, 1, Access::READ).unwrap();
    let zero = machine.folio_at(id, AT + 5 * PAGE).unwrap();
    assert_eq!(zero.order(), order(9));
    assert!(!zero.is_zero_frame());
    assert_eq!(machine.frames().counts_of(zero).references(), 2);
    machine.write(id, AT + PAGE, &[1]).unwrap();
    assert_eq!(machine.frames().counts_of(zero).references(), 1);
    ok(&machine);
    finish(&machine);
}

#[test]
fn a_thp_has_one_reference_for_each_entry_that_maps_it() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, HUGE).with_thp(Thp::Whole)).unwrap();
    machine.map(id, MapSpec::anonymous(2 * AT, HUGE).with_thp(Thp::Split)).unwrap();
    machine.write(id, AT + 9 * PAGE, &[1]).unwrap();
    machine.write(id, 2 * AT + 9 * PAGE, &[2]).unwrap();
    assert_eq!(references(&machine, id, AT), 1);
    assert_eq!(references(&machine, id, 2 * AT), 512);
    machine.split_mapping(id, AT).unwrap();
    assert_eq!(references(&machine, id, AT), 512);
    machine.unmap(id, AT + PAGE, 500).unwrap();
    assert_eq!(references(&machine, id, AT), 12);
    assert_eq!(byte(&machine, id, AT + 501 * PAGE), 0);
    ok(&machine);
    machine.split_folio(id, 2 * AT).unwrap();
    assert_eq!(machine.folio_at(id, 2 * AT + 9 * PAGE).unwrap().order(), Order::ZERO);
    assert_eq!(byte(&machine, id, 2 * AT + 9 * PAGE), 2);
    ok(&machine);
    finish(&machine);
}

#[test]
fn after_a_fork_neither_sees_what_the_other_writes() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, 2 * HUGE).with_thp(Thp::Whole)).unwrap();
    machine.write(id, AT, &[1]).unwrap();
    machine.map(id, MapSpec::anonymous(2 * AT, 2)).unwrap();
    machine.write(id, 2 * AT, &[1]).unwrap();
    let child = machine.fork(id).unwrap().id();
    ok(&machine);
    for at in [AT, 2 * AT] {
        let shared = machine.folio_at(id, at).unwrap();
        assert_eq!(shared.head(), machine.folio_at(child, at).unwrap().head());
        assert!(!shared.info().flags.contains(FolioFlags::EXCLUSIVE));
        machine.write(id, at, &[2]).unwrap();
        assert_eq!(byte(&machine, child, at), 1);
        machine.write(child, at, &[3]).unwrap();
        assert_eq!(byte(&machine, id, at), 2);
    }
    ok(&machine);
    finish(&machine);
}

#[test]
fn the_last_one_left_writes_without_a_copy() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, HUGE).with_thp(Thp::Split)).unwrap();
    machine.write(id, AT, &[1]).unwrap();
    let before = machine.folio_at(id, AT).unwrap();
    let child = machine.fork(id).unwrap().id();
    machine.drop_space(child).unwrap();
    machine.write(id, AT + 3 * PAGE, &[2]).unwrap();
    let after = machine.folio_at(id, AT + 3 * PAGE).unwrap();
    assert_eq!(before.head(), after.head());
    assert!(after.info().flags.contains(FolioFlags::EXCLUSIVE));
    ok(&machine);
    finish(&machine);
}

#[test]
fn fork_gives_the_child_a_copy_of_what_is_pinned() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    for (at, thp) in [(AT, Thp::Whole), (2 * AT, Thp::Split), (3 * AT, Thp::Never)] {
        machine.map(id, MapSpec::anonymous(at, HUGE).with_thp(thp)).unwrap();
        machine.write(id, at + PAGE, &[1]).unwrap();
        let pinned = pin(&machine, id, at + PAGE);
        let child = machine.fork(id).unwrap().id();
        machine.write(id, at + PAGE, &[2]).unwrap();
        assert_eq!(machine.folio_at(id, at + PAGE).unwrap().head(), pinned.head());
        assert_eq!(byte(&machine, child, at + PAGE), 1);
        machine.drop_space(child).unwrap();
        unpin(&machine, pinned);
        ok(&machine);
    }
    finish(&machine);
}

#[test]
fn an_unshare_fault_makes_a_copy_that_a_later_write_keeps() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    let file = machine.add_file(FileKind::Disk, 4, Order::ZERO);
    machine.map(id, MapSpec::anonymous(AT, 1)).unwrap();
    machine.map(id, MapSpec::private(2 * AT, 4, file)).unwrap();
    let unshare = Fault { access: Access::READ, unshare: true, longterm: true };
    for at in [AT, 2 * AT] {
        machine.touch(id, at, 1, Access::READ).unwrap();
        machine.fault_in(id, VirtAddr::new(at), unshare).unwrap();
        let copy = machine.folio_at(id, at).unwrap();
        assert!(copy.info().flags.contains(FolioFlags::EXCLUSIVE));
        assert_eq!(copy.info().kind, FolioKind::Anonymous);
        let place = machine.place(copy.head());
        assert_eq!(place, Some(Place::Zone(ZoneKind::Normal)), "pinnable memory");
        assert!(machine.translate(id, at, Access::WRITE).is_none());
        machine.write(id, at, &[5]).unwrap();
        assert_eq!(machine.folio_at(id, at).unwrap().head(), copy.head());
    }
    ok(&machine);
    finish(&machine);
}

#[test]
fn a_file_is_seen_by_all_and_truncate_cuts_it() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    for (kind, file_order) in [
        (FileKind::Shmem, Order::ZERO),
        (FileKind::Shmem, order(9)),
        (FileKind::Disk, order(2)),
        (FileKind::Secret, Order::ZERO),
    ] {
        let (a, b) = (machine.add_space().id(), machine.add_space().id());
        let file = machine.add_file(kind, 1024, file_order);
        machine.map(a, MapSpec::shared(AT, 1024, file)).unwrap();
        machine.map(b, MapSpec::shared(2 * AT + PAGE, 1024, file)).unwrap();
        machine.write(a, AT + 600 * PAGE, &[1]).unwrap();
        assert_eq!(byte(&machine, b, 2 * AT + 601 * PAGE), 1);
        machine.write(b, 2 * AT + 601 * PAGE, &[2]).unwrap();
        assert_eq!(byte(&machine, a, AT + 600 * PAGE), 2);
        ok(&machine);
        let pinned = pin(&machine, a, AT + 600 * PAGE);
        machine.truncate(file, 550).unwrap();
        assert_eq!(machine.read(a, AT + 600 * PAGE, &mut [0]), Err(FaultError::Denied));
        assert!(machine.frames().counts_of(pinned).pins() > 0);
        unpin(&machine, pinned);
        machine.truncate(file, 1024).unwrap();
        assert_eq!(byte(&machine, a, AT + 600 * PAGE), 0);
        ok(&machine);
        machine.close_file(file).unwrap();
    }
    finish(&machine);
    assert_eq!(machine.free_frames().raw() + 1, ram.frames().pages.raw());
}

#[test]
fn truncate_of_fsdax_waits_for_the_device() {
    let dax = ZoneLayout { name: "pmem", kind: ZoneKind::FsDax, pages: mib(1) };
    let ram = Ram::new(&Layout::tiny().zone(dax));
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    let file = machine.add_file(FileKind::FsDax, 16, Order::ZERO);
    machine.map(id, MapSpec::shared(AT, 16, file)).unwrap();
    machine.write(id, AT, &[1]).unwrap();
    let pinned = pin(&machine, id, AT);
    assert_eq!(pinned.info().kind, FolioKind::FsDax);
    let busy = TruncateError::Busy { folio: pinned.head(), expected: 1, found: 2 };
    assert_eq!(machine.truncate(file, 0), Err(busy));
    unpin(&machine, pinned);
    machine.truncate(file, 0).unwrap();
    finish(&machine);
}

#[test]
fn hugetlb_comes_from_the_pool_and_goes_back_to_it() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    for _ in 0..3 {
        machine.reserve_huge(order(9), Want::Pinnable).unwrap();
    }
    let id = machine.add_space().id();
    let file = machine.add_file(FileKind::Hugetlb(order(9)), HUGE, order(9));
    machine.map(id, MapSpec::shared(AT, HUGE, file)).unwrap();
    machine.map(id, MapSpec::hugetlb(2 * AT, 2 * HUGE, order(9))).unwrap();
    assert_eq!(
        machine.map(id, MapSpec::hugetlb(3 * AT + PAGE, HUGE, order(9))),
        Err(MapError::Unaligned)
    );
    machine.write(id, AT, &[1]).unwrap();
    machine.write(id, 2 * AT, &[2]).unwrap();
    assert_eq!(machine.pool_pages(), 1);
    assert_eq!(machine.unmap(id, 2 * AT + PAGE, 1), Err(MapError::Unaligned));
    let child = machine.fork(id).unwrap().id();
    machine.write(child, 2 * AT, &[3]).unwrap();
    assert_eq!((machine.pool_pages(), byte(&machine, id, 2 * AT)), (0, 2));
    assert_eq!(machine.write(id, 2 * AT + HUGE * PAGE, &[1]), Err(FaultError::NoMemory));
    ok(&machine);
    finish(&machine);
    assert_eq!(machine.pool_pages(), 2);
    machine.close_file(file).unwrap();
    assert_eq!(machine.pool_pages(), 3);
    ok(&machine);
}

#[test]
fn a_one_gib_folio_is_one_entry() {
    let ram = Ram::new(&Layout::new(Pfn::new(0)).normal(mib(2050)));
    let machine = Machine::new(&ram);
    machine.reserve_huge(order(18), Want::Pinnable).unwrap();
    let id = machine.add_space().id();
    machine.map(id, MapSpec::hugetlb(AT, 1 << 18, order(18))).unwrap();
    machine.write(id, AT + 12345 * PAGE, &[1]).unwrap();
    let folio = machine.folio_at(id, AT).unwrap();
    assert_eq!((folio.order(), references(&machine, id, AT)), (order(18), 1));
    finish(&machine);
}

#[test]
fn a_moved_folio_keeps_contents_rights_and_mappings() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    let file = machine.add_file(FileKind::Shmem, HUGE, order(3));
    machine.map(id, MapSpec::anonymous(AT, HUGE).with_thp(Thp::Whole)).unwrap();
    machine.map(id, MapSpec::anonymous(2 * AT, HUGE).with_thp(Thp::Split)).unwrap();
    machine.map(id, MapSpec::shared(3 * AT, HUGE, file)).unwrap();
    for (n, at) in [AT, 2 * AT, 3 * AT].into_iter().enumerate() {
        machine.write(id, at + 7 * PAGE, &[n as u8 + 1]).unwrap();
        let child = machine.fork(id).unwrap().id();
        let before = machine.folio_at(id, at + 7 * PAGE).unwrap();
        let moved = machine.move_page(id, at + 7 * PAGE, Want::Pinnable).unwrap();
        assert_ne!(before.head(), moved);
        assert_eq!(machine.place(moved), Some(Place::Zone(ZoneKind::Normal)));
        for space in [id, child] {
            assert_eq!(byte(&machine, space, at + 7 * PAGE), n as u8 + 1);
            assert_eq!(machine.folio_at(space, at + 7 * PAGE).unwrap().head(), moved);
        }
        ok(&machine);
        machine.drop_space(child).unwrap();
    }
    machine.close_file(file).unwrap();
    finish(&machine);
}

#[test]
fn what_somebody_refers_to_does_not_move_and_the_error_says_how_many() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, 1)).unwrap();
    machine.write(id, AT, &[1]).unwrap();
    let foreign = machine.get_page(id, AT).unwrap();
    let busy = Err(MigrateError::Busy { expected: 2, found: 3 });
    assert_eq!(machine.move_page(id, AT, Want::Pinnable), busy);
    assert!(machine.put_page(foreign));
    let pinned = pin(&machine, id, AT);
    assert_eq!(machine.move_page(id, AT, Want::Pinnable), busy);
    assert_eq!(byte(&machine, id, AT), 1);
    unpin(&machine, pinned);
    machine.move_page(id, AT, Want::Pinnable).unwrap();
    machine.hog(u64::MAX);
    assert_eq!(machine.move_page(id, AT, Want::Pinnable), Err(MigrateError::NoMemory));
    machine.release_hog();
    finish(&machine);
}

#[test]
fn zero_pages_and_secrets_never_move() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    let file = machine.add_file(FileKind::Secret, 1, Order::ZERO);
    machine.map(id, MapSpec::anonymous(AT, HUGE).with_huge_zero()).unwrap();
    machine.map(id, MapSpec::anonymous(2 * AT, 1)).unwrap();
    machine.map(id, MapSpec::shared(3 * AT, 1, file)).unwrap();
    for at in [AT, 2 * AT, 3 * AT] {
        machine.touch(id, at, 1, Access::READ).unwrap();
        assert_eq!(machine.move_page(id, at, Want::Pinnable), Err(MigrateError::Unmovable));
    }
    finish(&machine);
}

#[test]
fn device_coherent_memory_becomes_ordinary_when_it_moves_back() {
    let zone = ZoneLayout { name: "gpu", kind: ZoneKind::Coherent, pages: mib(1) };
    let ram = Ram::new(&Layout::tiny().zone(zone));
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, 1)).unwrap();
    machine.write(id, AT, &[1]).unwrap();
    let there = Want::In(Place::Zone(ZoneKind::Coherent));
    machine.move_page(id, AT, there).unwrap();
    assert_eq!(machine.folio_at(id, AT).unwrap().info().kind, FolioKind::DeviceCoherent);
    ok(&machine);
    machine.move_page(id, AT, Want::Pinnable).unwrap();
    assert_eq!(machine.folio_at(id, AT).unwrap().info().kind, FolioKind::Anonymous);
    assert_eq!(byte(&machine, id, AT), 1);
    finish(&machine);
}

#[test]
fn the_contiguous_allocator_moves_users_out_of_its_area() {
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(4)).cma(mib(2)));
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, 512)).unwrap();
    for page in 0..512 {
        machine.write(id, AT + page * PAGE, &[page as u8]).unwrap();
    }
    assert_eq!(machine.place(machine.folio_at(id, AT).unwrap().head()), Some(Place::Cma));
    let range = machine.alloc_contig(0, 512).unwrap();
    assert!((0..512).all(|page| byte(&machine, id, AT + page * PAGE) == page as u8));
    ok(&machine);
    assert_eq!(machine.alloc_contig(0, 1), Err(ContigError::NoRoom));
    assert!(machine.free_contig(&range));
    assert!(!machine.free_contig(&range));
    finish(&machine);
}

#[test]
fn a_pinned_folio_is_named_when_the_contiguous_allocator_fails() {
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(4)).cma(mib(2)));
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, 100)).unwrap();
    machine.touch(id, AT, 100, RW).unwrap();
    let pinned = pin(&machine, id, AT + 50 * PAGE);
    let error = MigrateError::Busy { expected: 2, found: 3 };
    let blocked = ContigError::Blocked { blocker: pinned.head(), error };
    assert_eq!(machine.alloc_contig(0, 512), Err(blocked));
    unpin(&machine, pinned);
    ok(&machine);
    let range = machine.alloc_contig(0, 512).unwrap();
    machine.free_contig(&range);
    finish(&machine);
}

#[test]
fn an_isolated_folio_shows_it_and_nothing_is_allocated_there() {
    let ram = Ram::new(&Layout::tiny());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, 8)).unwrap();
    machine.write(id, AT, &[1]).unwrap();
    let head = machine.folio_at(id, AT).unwrap().head();
    let block = FrameRange::new(head, PageCount::new(4));
    machine.isolate(block);
    let flags = machine.folio_at(id, AT).unwrap().info().flags;
    assert!(flags.contains(FolioFlags::ISOLATED));
    machine.write(id, AT + PAGE, &[1]).unwrap();
    assert!(!block.contains(machine.folio_at(id, AT + PAGE).unwrap().head()));
    machine.unmap(id, AT, 1).unwrap();
    machine.put_back(&block);
    machine.write(id, AT + 2 * PAGE, &[1]).unwrap();
    assert_eq!(machine.folio_at(id, AT + 2 * PAGE).unwrap().head(), head);
    finish(&machine);
}

#[test]
fn a_right_that_was_taken_comes_back_with_the_same_page() {
    let ram = Ram::new(&Layout::tiny());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, 4)).unwrap();
    machine.touch(id, AT, 4, RW).unwrap();
    let head = machine.folio_at(id, AT + PAGE).unwrap().head();
    machine.protect(id, AT + PAGE, 1, Access::empty()).unwrap();
    assert_eq!(machine.read(id, AT + PAGE, &mut [0]), Err(FaultError::Denied));
    assert_eq!(machine.mapping_at(id, AT).unwrap().range.pages(), PageCount::ONE);
    machine.protect(id, AT, 4, Access::READ).unwrap();
    assert_eq!(machine.write(id, AT + PAGE, &[1]), Err(FaultError::Denied));
    assert_eq!(byte(&machine, id, AT + PAGE), 0);
    machine.protect(id, AT, 4, RW).unwrap();
    machine.write(id, AT + PAGE, &[1]).unwrap();
    assert_eq!(machine.folio_at(id, AT + PAGE).unwrap().head(), head);
    finish(&machine);
}

#[test]
fn clean_file_pages_go_when_memory_is_short_unless_they_are_pinned() {
    let ram = Ram::new(&Layout::tiny());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    let file = machine.add_file(FileKind::Disk, 8, Order::ZERO);
    machine.map(id, MapSpec::shared(AT, 8, file)).unwrap();
    machine.touch(id, AT, 8, Access::READ).unwrap();
    machine.write(id, AT, &[1]).unwrap();
    let pinned = pin(&machine, id, AT + PAGE);
    assert_eq!(machine.shrink(), 6);
    assert_eq!(machine.folio_at(id, AT + PAGE).unwrap().head(), pinned.head());
    assert_eq!(byte(&machine, id, AT), 1);
    unpin(&machine, pinned);
    machine.close_file(file).unwrap();
    finish(&machine);
}

#[test]
fn memory_that_is_no_memory_has_entries_and_no_folios() {
    let ram = Ram::new(&Layout::tiny());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::device(AT, 2, Pfn::new(0x10_0000))).unwrap();
    assert_eq!(machine.translate(id, AT + PAGE, RW), Some(PhysAddr::new(0x1_0000_1000)));
    assert!(machine.folio_at(id, AT).is_none());
    assert_eq!(machine.map(id, MapSpec::device(2 * AT, 1, Pfn::new(0x1000))), Err(MapError::Kind));
    finish(&machine);
}

#[test]
fn table_pages_wait_for_the_walker_unless_told_otherwise() {
    let ram = Ram::new(&Layout::tiny());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    let id = space.id();
    for policy in [FreePolicy::Deferred, FreePolicy::PoisonAtOnce] {
        machine.set_free_policy(policy);
        machine.map(id, MapSpec::anonymous(AT, 1)).unwrap();
        machine.write(id, AT, &[1]).unwrap();
        let saved = WalkGuard::enter(&machine, id);
        machine.unmap(id, AT, 1).unwrap();
        let waiting = if policy == FreePolicy::Deferred { 3 } else { 0 };
        assert_eq!(machine.walks(), (1, waiting));
        ok(&machine);
        WalkGuard::leave(&machine, id, saved);
        assert_eq!(machine.walks(), (0, 0));
        ok(&machine);
    }
    finish(&machine);
}

#[test]
fn a_call_fails_or_is_interrupted_when_its_turn_comes() {
    let ram = Ram::new(&Layout::tiny());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    let id = space.id();
    machine.map(id, MapSpec::anonymous(AT, 2)).unwrap();
    machine.fail(HostCall::Fault, 2);
    machine.during(HostCall::Fault, 3, move |machine| {
        machine.unmap(id, AT, 1).unwrap();
    });
    let fault = Fault { access: RW, unshare: false, longterm: false };
    let at = VirtAddr::new(AT);
    assert_eq!(machine.fault_in(id, at, fault), Ok(()));
    assert_eq!(machine.fault_in(id, at, fault), Err(FaultError::NoMemory));
    assert_eq!(machine.fault_in(id, at, fault), Err(FaultError::Denied));
    assert_eq!(machine.calls(HostCall::Fault), 3);
    assert!(machine.table(space.root().base, 512).is_some());
    machine.fail(HostCall::Table, 1);
    assert!(machine.table(space.root().base, 512).is_none());
    finish(&machine);
}

#[test]
fn a_device_reaches_what_is_pinned_and_nothing_else() {
    let ram = Ram::new(&Layout::tiny());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, 2)).unwrap();
    machine.touch(id, AT, 2, RW).unwrap();
    let at = machine.translate(id, AT, RW).unwrap();
    let device = machine.device();
    let pfn = machine.folio_at(id, AT).unwrap().head();
    assert_eq!(device.write(at, &[1]), Err(DmaError::NotPinned { pfn }));
    let pinned = pin(&machine, id, AT);
    device.write(at, &[1, 2]).unwrap();
    assert_eq!(byte(&machine, id, AT + 1), 2);
    machine.write(id, AT, &[9]).unwrap();
    let mut seen = [0];
    device.read(at, &mut seen).unwrap();
    assert_eq!(seen, [9]);
    unpin(&machine, pinned);
    assert!(device.read(at, &mut seen).is_err());
    finish(&machine);
}
