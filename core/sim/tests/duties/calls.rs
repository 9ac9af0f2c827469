//! Charges, waiting, and what a caller owes around its calls.

use pinfold::folio::FolioFlags;
use pinfold::host::{Host, Wait, locked};
use pinfold::sync::Lock;
use pinfold::{AccountId, Dirtied, Order, PinCause, PinTable, VirtAddr};
use pinfold_sim::conformance::Subject;
use pinfold_sim::{FileKind, HostCall, Layout, MapSpec};

use crate::{AT, both, longterm, shortterm, words};

#[test]
fn a_charge_that_is_not_taken_back_uses_up_the_limit() {
    both("account", &Layout::small(), |scene, kept| {
        scene.machine.limit(AccountId(0), Some(1));
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &longterm(1)).expect("within the limit");
        scene.engine().unpin(&table, Dirtied::No).expect("it is pinned");
        let again = scene.pin(&table, &longterm(1));
        assert_eq!(again.is_ok(), kept);
        assert!(kept || matches!(again.unwrap_err().cause, PinCause::OverLimit(_)));
    });
}

#[test]
fn a_bracket_that_does_not_mask_lets_an_interrupt_wait_for_its_own_cpu() {
    both("enter-leave", &Layout::small(), |scene, kept| {
        let lock = Lock::new(());
        // An interrupt now would take the lock that this CPU holds, and spin for ever.
        let masked = locked(scene.host, &lock, |()| scene.host.masked());
        assert_eq!(masked, Some(kept));
    });
}

#[test]
fn a_bracket_that_always_unmasks_lets_an_interrupt_into_the_callers_section() {
    both("enter-leave/unmasks", &Layout::small(), |scene, kept| {
        let lock = Lock::new(());
        let saved = scene.host.wait().enter(); // the caller's own section
        locked(scene.host, &lock, |()| ());
        assert_eq!(scene.host.masked(), Some(kept));
        scene.host.wait().leave(saved);
    });
}

#[test]
fn a_pause_that_stops_unasked_fails_what_could_succeed() {
    both("pause", &Layout::small(), |scene, kept| {
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        match scene.pin(&table, &longterm(1)) {
            Ok(_) => assert!(kept),
            Err(error) => assert!(!kept && error.cause == PinCause::Interrupted),
        }
    });
}

#[test]
fn a_pause_that_lets_nobody_else_run_waits_in_vain() {
    both("pause-yields", &Layout::small(), |scene, kept| {
        scene.map(1);
        scene.space.fork_start();
        let forking = std::sync::Arc::clone(&scene.space);
        if kept {
            scene.machine.during(HostCall::Pause, 3, move |_| forking.fork_end());
        }
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        match scene.pin(&table, &longterm(1)) {
            Ok(_) => assert!(kept),
            Err(error) => assert!(!kept && matches!(error.cause, PinCause::Busy { .. })),
        }
    });
}

#[test]
fn a_device_that_is_not_cut_off_before_the_unpin_writes_to_another_process() {
    both("flush-before-unpin", &Layout::small(), |scene, kept| {
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &shortterm(1)).expect("it is mapped");
        let mut device = table.lookup(VirtAddr::new(AT)).ok();
        if kept {
            device = None;
        }
        scene.engine().unpin(&table, Dirtied::All).expect("it is pinned");
        scene.machine.unmap(scene.space.id(), AT, 1).expect("it is mapped");
        let other = scene.other(77);
        if let Some(at) = device {
            scene.machine.ram().write(at, &[2]).expect("memory");
        }
        assert_eq!(scene.read(&other), if kept { 77 } else { 2 });
    });
}

#[test]
fn a_page_that_a_device_wrote_and_nobody_calls_dirty_is_dropped() {
    both("tell-dirty", &Layout::small(), |scene, kept| {
        let file = scene.machine.add_file(FileKind::Disk, 1, Order::ZERO);
        let id = scene.space.id();
        scene.machine.map(id, MapSpec::shared(AT, 1, file)).expect("free addresses");
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &shortterm(1)).expect("it is mapped");
        // The page is written back, and clean. Then the device writes.
        let folio = scene.machine.folio_at(id, AT).expect("it is pinned");
        scene.machine.frames().set_flags(folio, FolioFlags::DIRTY, false);
        scene.device_write(&table, 2);
        let dirtied = if kept { Dirtied::All } else { Dirtied::No };
        scene.engine().unpin(&table, dirtied).expect("it is pinned");
        assert_eq!(scene.machine.shrink(), if kept { 0 } else { 1 });
        assert_eq!(scene.read(&scene.space), if kept { 2 } else { 0 });
    });
}
