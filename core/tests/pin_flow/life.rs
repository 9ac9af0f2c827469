//! From the charge to the last reference: what a pin leaves behind, whatever becomes of it.

use pinfold::folio::FolioFlags;
use pinfold::host::FaultError;
use pinfold::table::TableError;
use pinfold::{
    Access, AccountId, Dirtied, ErrorKind, HolderId, Order, PageShift, PinCause, PinError,
    PinFlags, PinRequest, PinTable, UnpinError, VirtAddr,
};
use pinfold_sim::model::Model;
use pinfold_sim::{FileKind, HostCall, Layout, MapSpec, Want};

use super::{AT, BOTH, HUGE, coherent, request, words};

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
    // A file's pages that nobody has touched: the pin brings them in.
    let file = machine.add_file(FileKind::Hugetlb(nine), HUGE, nine);
    bench.map(MapSpec::shared(AT + ((4 * HUGE) << 12), HUGE, file));
    bench
        .while_pinned(&request(AT + ((4 * HUGE + 3) << 12), 9, BOTH), |_, pinned| {
            assert_eq!((pinned.faults, machine.pool_pages()), (1, 0));
        })
        .unwrap();
    machine.drop_space(bench.space.id()).unwrap();
    assert_eq!(machine.pool_pages(), 2);
    machine.close_file(file).unwrap();
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

/// D14: the page of a file that was cut while a device had it. Its owner learns that it is dirty
/// when it gets it back, and whoever has the frame next does not.
#[test]
fn a_dirty_mark_does_not_outlive_the_folio() {
    scene!(machine, bench, Layout::small());
    let free = machine.free_frames();
    let file = machine.add_file(FileKind::Disk, 4, Order::ZERO);
    bench.map(MapSpec::shared(AT, 4, file));
    let memory = words(64);
    let table = PinTable::new(&memory).unwrap();
    let short = PinRequest { flags: PinFlags::empty(), ..request(AT, 4, BOTH) };
    bench.pin(&table, &short).unwrap();
    machine.truncate(file, 1).unwrap();
    let unpinned = bench.engine().unpin(&table, Dirtied::All).unwrap();
    assert_eq!((unpinned.pages.raw(), unpinned.dirtied), (4, 4));
    assert!(bench.folio(AT).info().flags.contains(FolioFlags::DIRTY), "the page that is left");
    Model::new().check(&machine).unwrap();
    machine.drop_space(bench.space.id()).unwrap();
    machine.close_file(file).unwrap();
    assert!(machine.free_frames() >= free);
}

/// D56: what a failed map had given back was given back once more at release. Somebody else's pins
/// on the same pages would be the ones to go.
#[test]
fn what_a_failed_pin_gave_back_is_not_given_back_again() {
    scene!(machine, bench, Layout::small());
    bench.map(MapSpec::anonymous(AT, 8));
    let (one, other) = (words(64), words(64));
    let theirs = PinTable::new(&one).unwrap();
    bench.pin(&theirs, &request(AT, 8, BOTH)).unwrap();
    let mine = PinTable::new(&other).unwrap();
    assert_eq!(bench.pin(&mine, &request(AT, 9, BOTH)).unwrap_err().cause, PinCause::NotMapped);
    for _ in 0..2 {
        let again = bench.engine().unpin(&mine, Dirtied::No);
        assert_eq!(again, Err(UnpinError::Table(TableError::Empty)));
    }
    for page in 0..8 {
        assert_eq!(bench.counts(AT + (page << 12)).pins(), 1, "page {page}");
    }
    assert_eq!(machine.charged(AccountId(7)), 8);
    bench.engine().unpin(&theirs, Dirtied::No).unwrap();
    Model::new().check(&machine).unwrap();
}
