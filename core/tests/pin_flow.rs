//! Pinning on the simulated machine: what succeeds, what is moved first, what is refused, and that
//! whatever fails leaves nothing behind. Numbers such as D9 are rows of `DEFECTS.md`.

use std::sync::{Arc, Mutex};

use pinfold::folio::{FolioFlags, Why};
use pinfold::frames::Counts;
use pinfold::host::{Event, FaultError, MigrateError};
use pinfold::policy::{Refusal, RequestError};
use pinfold::sync::Word;
use pinfold::table::TableError;
use pinfold::{
    Access, AccountId, AddrRange, AddressSpace, Dirtied, Engine, ErrorKind, HolderId, Order,
    PageCount, PageShift, Pfn, PinCause, PinError, PinFlags, PinRequest, PinTable, Pinned,
    UnpinError, VirtAddr, X86_64,
};
use pinfold_sim::{FileKind, HostCall, Layout, Machine, MapSpec, Place, Ram, Thp, Want};
use pinfold_sim::{ZoneKind, mib};

const BOTH: Access = Access::READ.union(Access::WRITE);
const AT: u64 = 0x7000_0000_0000;
const HUGE: u64 = 512;

/// A machine with one space, and the engine on it.
struct Bench<'a, 'm> {
    machine: &'a Machine<'m>,
    space: Arc<AddressSpace<X86_64>>,
}

fn bench<'a, 'm>(machine: &'a Machine<'m>) -> Bench<'a, 'm> {
    Bench { machine, space: machine.add_space() }
}

/// A machine with this memory, and a space on it.
macro_rules! scene {
    ($machine:ident, $bench:ident, $layout:expr) => {
        let ram = Ram::new(&$layout);
        let $machine = Machine::new(&ram);
        let $bench = bench(&$machine);
    };
}

fn words(n: usize) -> Vec<Word> {
    (0..n).map(|_| Word::new(0)).collect()
}

fn range(at: u64, pages: u64) -> AddrRange {
    AddrRange::new(VirtAddr::new(at), PageCount::new(pages), PageShift::SIZE_4K).unwrap()
}

fn request(at: u64, pages: u64, access: Access) -> PinRequest {
    PinRequest { account: AccountId(7), ..PinRequest::longterm(range(at, pages), access) }
}

impl<'a, 'm> Bench<'a, 'm> {
    fn engine(&self) -> Engine<'m, &'a Machine<'m>> {
        Engine::new(self.machine, self.machine.frames())
    }

    fn map(&self, spec: MapSpec) {
        self.machine.map(self.space.id(), spec).unwrap();
    }

    fn touch(&self, at: u64, pages: u64, access: Access) {
        self.machine.touch(self.space.id(), at, pages, access).unwrap();
    }

    fn pin(&self, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError> {
        self.engine().pin(&self.space, table, request)
    }

    fn counts(&self, at: u64) -> Counts {
        self.machine.frames().counts_of(self.folio(at))
    }

    fn folio(&self, at: u64) -> pinfold::folio::Folio {
        self.machine.folio_at(self.space.id(), at).expect("something is mapped there")
    }

    fn read(&self, at: u64) -> u8 {
        let mut byte = [0];
        self.machine.read(self.space.id(), at, &mut byte).unwrap();
        byte[0]
    }

    fn write(&self, at: u64, byte: u8) {
        self.machine.write(self.space.id(), at, &[byte]).unwrap();
    }

    /// Pins, hands the table over, unpins, and checks that every count and charge is back.
    fn while_pinned(
        &self,
        request: &PinRequest,
        look: impl FnOnce(&PinTable<'_>, Pinned),
    ) -> Result<(), PinError> {
        let memory = words(4096);
        let table = PinTable::new(&memory).unwrap();
        let pinned = self.pin(&table, request)?;
        assert_eq!(pinned.pages, request.range.pages());
        assert_eq!(self.machine.charged(request.account), request.range.pages().raw());
        look(&table, pinned);
        let unpinned = self.engine().unpin(&table, Dirtied::No).unwrap();
        assert_eq!(unpinned.pages, request.range.pages());
        self.nothing_is_held(request);
        Ok(())
    }

    fn nothing_is_held(&self, request: &PinRequest) {
        assert_eq!(self.machine.charged(request.account), 0);
        assert_eq!(self.machine.breaches(), []);
        let first = request.range.start().raw();
        for i in 0..request.range.pages().raw().min(10_000) {
            if let Some(folio) = self.machine.folio_at(self.space.id(), first + (i << 12)) {
                let counts = self.machine.frames().counts_of(folio);
                assert_eq!(counts.pins(), 0, "page {i} is still pinned");
                assert!(!counts.is_claimed(), "page {i} is still claimed");
            }
        }
    }

    /// The pin fails for this reason, and changes nothing that is counted.
    fn refused(&self, request: &PinRequest) -> PinCause {
        let free = self.machine.free_frames();
        let memory = words(4096);
        let table = PinTable::new(&memory).unwrap();
        let error = self.pin(&table, request).expect_err("this must not be pinned");
        self.nothing_is_held(request);
        assert_eq!(table.lookup(request.range.start()), Err(pinfold::table::TooHard));
        // D56: what failed was given back once, and cannot be given back again.
        let again = self.engine().unpin(&table, Dirtied::No);
        assert_eq!(again, Err(UnpinError::Table(TableError::Empty)));
        assert!(self.machine.free_frames() <= free);
        error.cause
    }
}

/// The address that the table gives is where the CPU's bytes are, in both directions.
fn coherent(bench: &Bench<'_, '_>, table: &PinTable<'_>, at: u64) {
    let device = bench.machine.device();
    let addr = table.lookup(VirtAddr::new(at)).unwrap();
    bench.write(at, 0xa5);
    let mut byte = [0];
    device.read(addr, &mut byte).unwrap();
    assert_eq!(byte[0], 0xa5, "the device does not see what the CPU wrote at {at:#x}");
    device.write(addr, &[0x5a]).unwrap();
    assert_eq!(bench.read(at), 0x5a, "the CPU does not see what the device wrote at {at:#x}");
}

/// No frame of a pinned range lies where nothing may be pinned for long.
fn nothing_misplaced(bench: &Bench<'_, '_>, table: &PinTable<'_>) {
    for run in table.runs() {
        for i in 0..run.pages.raw() {
            let pfn = Pfn::new(run.pfn.raw() + i);
            let folio = bench.machine.frames().folio(pfn).unwrap();
            let bad = FolioFlags::CMA | FolioFlags::MOVABLE | FolioFlags::ISOLATED;
            assert!(folio.is_zero_frame() || !folio.info().flags.intersects(bad), "{folio:?}");
        }
    }
}

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

/// D13: long-term write pins of write-back files corrupted file systems. D10: secret memory was
/// recognised by a flag that is not always there. The fast and the slow way say the same.
#[test]
fn what_may_be_pinned_by_backing_sharing_and_access() {
    let ok = None;
    for (kind, shared_write, shared_read, private_write, private_read) in [
        (FileKind::Shmem, ok, ok, ok, ok),
        (FileKind::Disk, Some(Refusal::DirtyTracked), ok, ok, ok),
        (
            FileKind::FsDax,
            Some(Refusal::FsDax),
            Some(Refusal::FsDax),
            Some(Refusal::FsDax),
            Some(Refusal::FsDax),
        ),
    ] {
        for touched in [false, true] {
            let layout = Layout::small().zone(pinfold_sim::ZoneLayout {
                name: "pmem",
                kind: ZoneKind::FsDax,
                pages: mib(2),
            });
            scene!(machine, bench, layout);
            let file = machine.add_file(kind, 8, Order::ZERO);
            bench.map(MapSpec::shared(AT, 8, file));
            bench.map(MapSpec::private(AT + 0x10_0000, 8, file));
            if touched {
                bench.touch(AT, 8, BOTH);
                bench.touch(AT + 0x10_0000, 8, Access::READ);
            }
            for (at, access, refusal) in [
                (AT, BOTH, shared_write),
                (AT, Access::READ, shared_read),
                (AT + 0x10_0000, BOTH, private_write),
                (AT + 0x10_0000, Access::READ, private_read),
            ] {
                let result = bench.while_pinned(&request(at, 8, access), |table, _| {
                    nothing_misplaced(&bench, table);
                    // A shared read-only pin sees the file, any other the process.
                    if access == BOTH {
                        coherent(&bench, table, at + 0x1000);
                    }
                });
                let cause = result.err().map(|error| error.cause);
                let label = format!("{kind:?} {access:?} at {at:#x}, touched: {touched}");
                assert_eq!(cause, refusal.map(PinCause::Refused), "{label}");
            }
        }
    }
}

#[test]
fn secret_and_device_memory_are_refused_touched_or_not() {
    scene!(machine, bench, Layout::small());
    let secret = machine.add_file(FileKind::Secret, 4, Order::ZERO);
    bench.map(MapSpec::shared(AT, 4, secret));
    bench.map(MapSpec::device(AT + 0x10_0000, 4, Pfn::new(0xf_e000)));
    for _ in 0..2 {
        for access in [Access::READ, BOTH] {
            let cause = bench.refused(&request(AT, 4, access));
            assert_eq!(cause, PinCause::Refused(Refusal::Secret));
            let cause = bench.refused(&request(AT + 0x10_0000, 4, access));
            assert_eq!(cause, PinCause::Refused(Refusal::Device));
        }
        bench.touch(AT, 4, BOTH);
        bench.touch(AT + 0x10_0000, 4, BOTH);
    }
}

/// D2: a forced write took a dirty bit for a private copy. There is no forced write here: what the
/// process may not write, no pin makes writable.
#[test]
fn a_mapping_that_may_not_be_written_is_not_written() {
    scene!(machine, bench, Layout::small());
    let file = machine.add_file(FileKind::Disk, 4, Order::ZERO);
    bench.map(MapSpec::private(AT, 4, file).read_only(true));
    bench.touch(AT, 4, Access::READ);
    let cause = bench.refused(&request(AT, 4, BOTH));
    assert_eq!(cause, PinCause::Refused(Refusal::NotWritable));
    assert_eq!(PinFlags::from_name("FORCE"), None);
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

/// D76: a lockless walk relied on the re-check alone, but the table page itself was freed and
/// reused. The engine walks under the guard, so a table that is unmapped meanwhile stays as it is
/// until the walk has ended.
#[test]
fn a_table_page_that_is_unmapped_under_the_walk_stays_until_the_walk_ends() {
    let during = Mutex::new(None);
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 4));
    bench.touch(AT, 4, BOTH);
    let id = bench.space.id();
    // In the middle of the walk, when the last-level table is about to be viewed.
    let seen = &during;
    machine.during(HostCall::Table, 4, move |machine| {
        machine.unmap(id, AT, 4).unwrap();
        *seen.lock().unwrap() = Some(machine.walks());
    });
    let memory = words(64);
    let table = PinTable::new(&memory).unwrap();
    let error = bench.pin(&table, &request(AT, 4, BOTH)).unwrap_err();
    assert_eq!(error.cause, PinCause::NotMapped);
    let (walks, waiting) = during.lock().unwrap().expect("the walk came by");
    assert_eq!(walks, 1, "the walk holds no guard");
    assert!(waiting >= 1, "the table was freed under the walk");
    assert_eq!(machine.walks(), (0, 0), "the guard was not given back");
}

/// D16: NUMA balancing moved a page under a pin.
#[test]
fn what_is_pinned_cannot_be_moved() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 1));
    bench
        .while_pinned(&request(AT, 1, BOTH), |table, _| {
            let moved = machine.move_page(bench.space.id(), AT, Want::Movable);
            assert!(matches!(moved, Err(MigrateError::Busy { .. })), "{moved:?}");
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

/// D17: an allocate-and-pin kept a reference too many, and the pool never got the page back.
#[test]
fn pool_pages_and_file_pages_come_back() {
    scene!(machine, bench, Layout::small());
    let nine = Order::new(9).unwrap();
    for _ in 0..3 {
        machine.reserve_huge(nine, Want::Pinnable).unwrap();
    }
    let free = machine.free_frames();
    bench.map(MapSpec::hugetlb(AT, 2 * HUGE, nine));
    bench
        .while_pinned(&request(AT, 2 * HUGE, BOTH), |table, pinned| {
            assert_eq!((pinned.runs, table.runs().count() <= 2), (2, true));
            coherent(&bench, table, AT + (HUGE << 12));
        })
        .unwrap();
    machine.drop_space(bench.space.id()).unwrap();
    assert_eq!(machine.pool_pages(), 3);
    assert!(machine.free_frames() >= free);
}

/// The process may be gone before the device lets go: the last pin gives the memory back.
#[test]
fn a_pin_outlives_its_mapping() {
    scene!(machine, bench, Layout::small());
    let free = machine.free_frames();
    bench.map(MapSpec::anonymous(AT, 8));
    let memory = words(64);
    let table = PinTable::new(&memory).unwrap();
    bench.pin(&table, &request(AT, 8, BOTH)).unwrap();
    let addr = table.lookup(VirtAddr::new(AT)).unwrap();
    bench.write(AT, 9);
    machine.unmap(bench.space.id(), AT, 8).unwrap();
    let mut byte = [0];
    machine.device().read(addr, &mut byte).unwrap();
    assert_eq!(byte[0], 9, "the frame was given away under the pin");
    bench.engine().unpin(&table, Dirtied::All).unwrap();
    machine.shrink();
    machine.drop_space(bench.space.id()).unwrap();
    assert!(machine.free_frames() >= free);
}

/// D59: the offset in a folio was taken from the alignment of the address. Here folios are mapped
/// off their alignment, and the range begins and ends inside them.
#[test]
fn folios_mapped_anywhere_and_ranges_that_begin_inside_them() {
    scene!(machine, bench, Layout::small());
    let four = Order::new(4).unwrap();
    let file = machine.add_file(FileKind::Shmem, 256, four);
    let odd = AT + 0x3000;
    bench.map(MapSpec { offset: 5, ..MapSpec::shared(odd, 200, file) });
    bench.touch(odd, 200, BOTH);
    for (skip, pages) in [(0, 200), (1, 199), (7, 30), (11, 16), (12, 1)] {
        let at = odd + (skip << 12);
        bench
            .while_pinned(&request(at, pages, BOTH), |table, _| {
                nothing_misplaced(&bench, table);
                for i in 0..pages {
                    let va = at + (i << 12) + 0x77;
                    let addr = table.lookup(VirtAddr::new(va)).unwrap();
                    let mapped = machine.translate(bench.space.id(), va, BOTH);
                    assert_eq!(Some(addr), mapped, "page {i}");
                }
                coherent(&bench, table, at);
            })
            .unwrap();
    }
}

#[test]
fn a_run_of_a_large_folio_is_one_count_however_it_is_mapped() {
    for thp in [Thp::Whole, Thp::Split] {
        scene!(machine, bench, Layout::new(Pfn::new(0x1000)).normal(mib(32)));
        bench.map(MapSpec::anonymous(AT, 4 * HUGE).with_thp(thp));
        bench.touch(AT, 4 * HUGE, BOTH);
        bench
            .while_pinned(&request(AT, 4 * HUGE, BOTH), |table, pinned| {
                assert_eq!(pinned.runs, 4, "{thp:?}");
                assert_eq!(bench.counts(AT).pins(), 512);
                assert!(table.used_words() < 9 + 4 + 4, "{} words", table.used_words());
            })
            .unwrap();
    }
}

/// D14: a page was marked dirty at unpin without anybody asking its file system. Here the mark is
/// on the folio, for whoever owns it to find.
#[test]
fn a_dirty_mark_reaches_the_folio_before_its_pin_goes() {
    scene!(machine, bench, Layout::small());
    let file = machine.add_file(FileKind::Shmem, 8, Order::ZERO);
    bench.map(MapSpec::shared(AT, 8, file));
    bench.touch(AT, 8, Access::READ);
    let dirty = |i: u64| bench.folio(AT + (i << 12)).info().flags.contains(FolioFlags::DIRTY);
    let clean = |i: u64| {
        let folio = bench.folio(AT + (i << 12));
        machine.frames().set_flags(folio, FolioFlags::DIRTY, false);
    };
    let memory = words(64);
    let table = PinTable::new(&memory).unwrap();
    for all in [Dirtied::No, Dirtied::All] {
        bench.pin(&table, &request(AT, 8, BOTH)).unwrap();
        (0..8).for_each(clean);
        table.mark_dirty(VirtAddr::new(AT + 0x3fff)).unwrap();
        let unpinned = bench.engine().unpin(&table, all).unwrap();
        assert_eq!(unpinned.dirtied, if all == Dirtied::All { 8 } else { 1 });
        for i in 0..8 {
            assert_eq!(dirty(i), all == Dirtied::All || i == 3, "page {i}");
        }
    }
}

/// D46: a charge was taken back from whom it had not been taken.
#[test]
fn the_account_is_charged_for_the_whole_range_and_gets_it_back() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 16));
    machine.limit(AccountId(7), Some(15));
    let cause = bench.refused(&request(AT, 16, BOTH));
    assert_eq!(cause, PinCause::OverLimit(pinfold::host::OverLimit));
    assert_eq!(machine.calls(HostCall::Fault), 0, "nothing was touched");
    machine.limit(AccountId(7), Some(16));
    bench.while_pinned(&request(AT, 16, BOTH), |_, _| ()).unwrap();
}

/// D32: a request larger than one chunk whose last part fails. D36: every error after a pin
/// releases it. D74: a short result is never a success.
#[test]
fn an_error_on_the_last_page_gives_back_all_before_it() {
    scene!(machine, bench, Layout::small());
    let pages = 5000;
    bench.map(MapSpec::anonymous(AT, pages - 1));
    bench.touch(AT, pages - 1, BOTH);
    let request = request(AT, pages, BOTH);
    let memory = words(PinTable::words_for(&request.range, PageShift::SIZE_4K).unwrap());
    let table = PinTable::new(&memory).unwrap();
    let error = bench.pin(&table, &request).unwrap_err();
    assert_eq!(
        error,
        PinError { at: VirtAddr::new(AT + ((pages - 1) << 12)), cause: PinCause::NotMapped }
    );
    bench.nothing_is_held(&request);
}

#[test]
fn a_table_of_any_size_pins_or_says_what_it_needs() {
    scene!(machine, bench, Layout::small());
    // Small pages, a hole, a huge page mapped whole: more than one node, and untouched memory.
    bench.map(MapSpec::anonymous(AT, HUGE + 40));
    bench.map(MapSpec::anonymous(AT + ((HUGE * 2) << 12), HUGE).with_thp(Thp::Whole));
    bench.map(MapSpec::anonymous(AT + ((HUGE + 40) << 12), HUGE - 40));
    bench.touch(AT, 30, BOTH);
    bench.touch(AT + ((HUGE * 2) << 12), HUGE, BOTH);
    let request = request(AT, 3 * HUGE, BOTH);
    let need = {
        let memory = words(4000);
        let table = PinTable::new(&memory).unwrap();
        bench.pin(&table, &request).unwrap();
        let need = table.used_words();
        bench.engine().unpin(&table, Dirtied::No).unwrap();
        need
    };
    for size in 0..need {
        let memory = words(size);
        let error = match PinTable::new(&memory) {
            Err(error) => {
                assert!(size < 9);
                error
            }
            Ok(table) => match bench.pin(&table, &request).unwrap_err().cause {
                PinCause::Table(error) => {
                    assert_eq!(error, TableError::NoSpace { need }, "{size} words");
                    error
                }
                other => panic!("{other}"),
            },
        };
        assert!(matches!(error, TableError::NoSpace { .. }));
        bench.nothing_is_held(&request);
    }
    let memory = words(need);
    let table = PinTable::new(&memory).unwrap();
    bench.pin(&table, &request).unwrap();
    bench.engine().unpin(&table, Dirtied::No).unwrap();
}

/// D50, D58, D75: sums of address and length wrapped.
#[test]
fn ranges_that_are_none_are_refused_before_anything_is_looked_at() {
    scene!(machine, bench, Layout::small());
    for (at, pages) in [
        (0x8000_0000_0000, 1),
        (0x7fff_ffff_f000, 2),
        (0xffff_7fff_ffff_f000, 2),
        (0x1000, 1 << 50),
        (0, 1 << 52),
    ] {
        let cause = bench.refused(&request(at, pages, BOTH));
        assert_eq!(cause, PinCause::NotTranslatable, "{pages} pages at {at:#x}");
    }
    let huge = AddrRange::new(VirtAddr::new(0), PageCount::ONE, PageShift::SIZE_2M).unwrap();
    let cause = bench.refused(&PinRequest { range: huge, ..request(AT, 1, BOTH) });
    assert_eq!(cause, PinCause::BaseMismatch);
    for call in HostCall::ALL {
        assert_eq!(machine.calls(call), 0, "{call:?}");
    }
}

#[test]
fn requests_that_make_no_sense_are_refused_before_anything_is_looked_at() {
    scene!(machine, bench, Layout::small());
    let sane = request(AT, 1, BOTH);
    let unknown = PinFlags::from_bits_retain(1 << 31) | PinFlags::LONGTERM;
    let peer = PinFlags::LONGTERM | PinFlags::PEER_TO_PEER;
    for (request, error) in [
        (PinRequest { access: Access::empty(), ..sane }, RequestError::NoAccess),
        (PinRequest { flags: unknown, ..sane }, RequestError::UnknownBits),
        (PinRequest { flags: peer, ..sane }, RequestError::LongtermPeerToPeer),
        (
            PinRequest { flags: PinFlags::empty(), revocable: true, ..sane },
            RequestError::RevocableShortterm,
        ),
    ] {
        assert_eq!(bench.refused(&request), PinCause::Request(error));
    }
    assert_eq!(machine.calls(HostCall::Charge), 0);
}

#[test]
fn flags_that_narrow_what_is_pinned() {
    scene!(machine, bench, Layout::small());
    let shmem = machine.add_file(FileKind::Shmem, 4, Order::ZERO);
    bench.map(MapSpec::anonymous(AT, 4));
    bench.map(MapSpec::shared(AT + 0x10_0000, 4, shmem));
    bench.touch(AT + 0x10_0000, 4, BOTH);
    let with = |at, flags| PinRequest { flags, ..request(at, 4, BOTH) };
    let nofault = PinFlags::LONGTERM | PinFlags::NOFAULT;
    assert_eq!(bench.refused(&with(AT, nofault)), PinCause::NotPresent);
    bench.touch(AT, 4, BOTH);
    bench.while_pinned(&with(AT, nofault), |_, pinned| assert_eq!(pinned.faults, 0)).unwrap();
    let anonymous = PinFlags::LONGTERM | PinFlags::ANONYMOUS;
    bench.while_pinned(&with(AT, anonymous), |_, _| ()).unwrap();
    let cause = bench.refused(&with(AT + 0x10_0000, anonymous));
    assert_eq!(cause, PinCause::Refused(Refusal::NotAnonymous));
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
fn a_table_is_used_by_one_call_at_a_time_and_remembers_its_owner() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 4));
    let memory = words(64);
    let table = PinTable::new(&memory).unwrap();
    let unpin = |table: &PinTable<'_>| bench.engine().unpin(table, Dirtied::No);
    assert_eq!(unpin(&table), Err(UnpinError::Table(TableError::Empty)));
    let owned = PinRequest { holder: HolderId(3), revocable: true, ..request(AT, 4, BOTH) };
    bench.pin(&table, &owned).unwrap();
    assert_eq!(table.range(), Some(owned.range));
    assert_eq!((table.holder(), table.account()), (HolderId(3), AccountId(7)));
    assert!(table.revocable());
    let again = bench.pin(&table, &owned).unwrap_err();
    assert_eq!(again.cause, PinCause::Table(TableError::InUse));
    assert_eq!(machine.charged(AccountId(7)), 4, "the second call changed nothing");
    // Whoever has the words has the table.
    let other = PinTable::open(&memory).unwrap();
    assert_eq!(other.lookup(VirtAddr::new(AT)), table.lookup(VirtAddr::new(AT)));
    unpin(&other).unwrap();
    assert_eq!(unpin(&table), Err(UnpinError::Table(TableError::Empty)));
    bench.pin(&table, &owned).unwrap();
    unpin(&table).unwrap();
}

#[test]
fn a_fault_handler_that_fails_or_lies_is_an_error_in_bounded_time() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 3));
    machine.fail(HostCall::Fault, 3);
    let cause = bench.refused(&request(AT, 3, BOTH));
    assert_eq!(cause, PinCause::Fault(FaultError::NoMemory));
}

#[test]
fn pause_stops_a_call_at_any_time() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 100));
    bench.touch(AT, 100, BOTH);
    let request = request(AT, 100, BOTH);
    let mut stopped = 0;
    for nth in 1.. {
        machine.fail(HostCall::Pause, nth);
        let memory = words(256);
        let table = PinTable::new(&memory).unwrap();
        let result = bench.pin(&table, &request);
        machine.disarm();
        match result {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Interrupted);
                bench.nothing_is_held(&request);
                stopped += 1;
            }
            Ok(_) => {
                bench.engine().unpin(&table, Dirtied::No).unwrap();
                break;
            }
        }
    }
    assert!(stopped >= 1);
}
