//! Fork.

use std::sync::Arc;

use pinfold::folio::FolioFlags;
use pinfold::sync::Ordering;
use pinfold::{Access, PinRequest, PinTable};
use pinfold_sim::conformance::Subject;
use pinfold_sim::{HostCall, Layout, Machine};

use crate::careless::{Space, WRITABLE, leaf};
use crate::{AT, both, range, shortterm, words};

/// The second half of a fork that has looked for pins and found none: the page is shared.
fn share(machine: &Machine<'_>, parent: &Space, child: &Space) {
    let folio = machine.folio_at(parent.id(), AT).expect("it is mapped");
    let entry = leaf(machine, parent, AT);
    let shared = entry.fetch_and(!WRITABLE, Ordering::SeqCst) & !WRITABLE;
    machine.frames().set_flags(folio, FolioFlags::EXCLUSIVE, false);
    leaf(machine, child, AT).store(shared, Ordering::SeqCst);
    let folio = machine.folio_at(parent.id(), AT).expect("it is mapped");
    machine.frames().get(folio, 1).expect("a page in use");
}

/// This fork looks for pins first and shares afterwards, as Linux does. The bracket is what makes that
/// right.
#[test]
fn a_fork_without_brackets_has_a_device_write_to_the_child() {
    both("fork-brackets", &Layout::small(), |scene, kept| {
        scene.map(1);
        let child = scene.other(0);
        let pins = scene.machine.folio_at(scene.space.id(), AT);
        let pins = scene.machine.frames().counts_of(pins.expect("it is mapped")).pins();
        assert_eq!(pins, 0, "so the page will be shared");
        if kept {
            scene.space.fork_start();
            let (parent, child) = (Arc::clone(&scene.space), Arc::clone(&child));
            // The pin call waits, and the fork goes on.
            scene.machine.during(HostCall::Pause, 1, move |machine| {
                share(machine, &parent, &child);
                parent.fork_end();
            });
        }
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &shortterm(1)).expect("it is mapped");
        if !kept {
            share(scene.machine, &scene.space, &child);
        }
        scene.device_write(&table, 2);
        assert_eq!(scene.read(&child), if kept { 1 } else { 2 });
    });
}

#[test]
fn a_pinned_page_shared_by_a_fork_has_a_device_write_to_the_child() {
    both("fork-copies-pinned", &Layout::small(), |scene, kept| {
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &shortterm(1)).expect("it is mapped");
        let child = scene.host.fork(&scene.space).expect("free memory");
        scene.device_write(&table, 2);
        assert_eq!(scene.read(&child), if kept { 1 } else { 2 });
    });
}

#[test]
fn a_shared_page_that_is_marked_exclusive_has_a_process_write_to_the_child() {
    both("exclusive-mark", &Layout::small(), |scene, kept| {
        scene.map(1);
        let child = scene.host.fork(&scene.space).expect("free memory");
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &PinRequest::longterm(range(1), Access::READ)).expect("it is mapped");
        scene.write(&scene.space, 2);
        assert_eq!(scene.device_read(&table), 2);
        assert_eq!(scene.read(&child), if kept { 1 } else { 2 });
    });
}
