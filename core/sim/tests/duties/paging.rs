//! Page tables, mappings and faults.

use pinfold::folio::FolioFlags;
use pinfold::policy::Refusal;
use pinfold::{Access, PinCause, PinRequest, PinTable, VirtAddr};
use pinfold_sim::conformance::Subject;
use pinfold_sim::{FileKind, HostCall, Layout, MapSpec};

use crate::{AT, both, longterm, range, shortterm, words};

#[test]
fn a_copy_of_a_table_pins_a_frame_that_is_not_mapped() {
    both("table-views", &Layout::small(), |scene, kept| {
        scene.map(4);
        let id = scene.space.id();
        scene.machine.during(HostCall::Table, 4, move |machine| {
            // Somebody keeps the old page alive, so that the pin can land there.
            let _ = machine.get_page(id, AT).expect("it is mapped");
            machine.unmap(id, AT, 1).expect("it is mapped");
            machine.map(id, MapSpec::anonymous(AT, 1)).expect("free addresses");
            machine.write(id, AT, &[2]).expect("it is mapped");
        });
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &shortterm(1)).expect("it is mapped");
        let mapped = scene.machine.translate(id, AT, Access::READ);
        assert_eq!(table.lookup(VirtAddr::new(AT)).ok() == mapped, kept);
        assert_eq!(scene.device_read(&table), if kept { 2 } else { 1 });
    });
}

#[test]
fn a_table_used_again_during_a_walk_pins_the_page_of_another_process() {
    both("walk-guard", &Layout::small(), |scene, kept| {
        scene.map(1);
        let (id, other) = (scene.space.id(), scene.machine.add_space());
        let next = other.id();
        // The walker is about to read the last table.
        scene.machine.during(HostCall::Table, 4, move |machine| {
            machine.unmap(id, AT, 1).expect("it is mapped");
            machine.map(next, MapSpec::anonymous(AT, 1)).expect("free addresses");
            machine.write(next, AT, &[77]).expect("it is mapped");
        });
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        let pinned = scene.pin(&table, &shortterm(1));
        if kept {
            assert_eq!(pinned.unwrap_err().cause, PinCause::NotMapped);
        } else {
            pinned.expect("it was led astray");
            assert_eq!(scene.device_read(&table), 77, "the page of another process");
            assert_eq!(scene.machine.translate(id, AT, Access::READ), None);
        }
    });
}

#[test]
fn a_pin_call_on_a_space_that_has_ended_pins_the_page_of_another_process() {
    both("space-ends-last", &Layout::small(), |scene, kept| {
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        let end = || scene.machine.drop_space(scene.space.id()).expect("a space");
        if !kept {
            end();
            scene.other(77);
        }
        scene.pin(&table, &shortterm(1)).expect("the tables say so");
        if kept {
            end();
            scene.other(77);
        }
        assert_eq!(scene.device_read(&table), if kept { 1 } else { 77 });
    });
}

#[test]
fn a_hook_that_waits_inside_the_walk_waits_for_ever() {
    both("hook-context", &Layout::small(), |scene, kept| {
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        assert_eq!(scene.pin(&table, &shortterm(1)).is_ok(), kept);
        assert_eq!(scene.host.stuck.get(), !kept);
    });
}

#[test]
fn a_mapping_that_hides_dirty_tracking_leaves_a_clean_page_with_new_contents() {
    both("mapping-lookup", &Layout::small(), |scene, kept| {
        let file = scene.machine.add_file(FileKind::Disk, 1, pinfold::Order::ZERO);
        let id = scene.space.id();
        scene.machine.map(id, MapSpec::shared(AT, 1, file)).expect("free addresses");
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        let pinned = scene.pin(&table, &longterm(1));
        if kept {
            assert_eq!(pinned.unwrap_err().cause, PinCause::Refused(Refusal::DirtyTracked));
            return;
        }
        pinned.expect("nothing speaks against it");
        // The file system writes the page back, and takes it for clean until it hears otherwise.
        let folio = scene.machine.folio_at(id, AT).expect("it is mapped");
        let on_disk = scene.device_read(&table);
        scene.machine.frames().set_flags(folio, FolioFlags::DIRTY, false);
        scene.device_write(&table, 9);
        let folio = scene.machine.folio_at(id, AT).expect("it is mapped");
        assert!(!folio.info().flags.contains(FolioFlags::DIRTY));
        assert_ne!(scene.read(&scene.space), on_disk, "a clean page is not what the disk has");
    });
}

#[test]
fn secret_memory_in_an_anonymous_folio_is_read_by_a_device() {
    both("folio-kinds", &Layout::small(), |scene, kept| {
        let file = scene.machine.add_file(FileKind::Secret, 1, pinfold::Order::ZERO);
        scene.machine.map(scene.space.id(), MapSpec::shared(AT, 1, file)).expect("free addresses");
        scene.host.fault(&scene.space, false);
        scene.write(&scene.space, 42);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        let pinned = scene.pin(&table, &longterm(1));
        if kept {
            assert_eq!(pinned.unwrap_err().cause, PinCause::Refused(Refusal::Secret));
        } else {
            pinned.expect("it looks like any other page");
            assert_eq!(scene.device_read(&table), 42);
        }
    });
}

#[test]
fn a_mapping_changed_without_brackets_leaves_a_device_with_old_contents() {
    both("invalidate-brackets", &Layout::small(), |scene, kept| {
        let file = scene.machine.add_file(FileKind::Shmem, 1, pinfold::Order::ZERO);
        let id = scene.space.id();
        scene.machine.map(id, MapSpec::shared(AT, 1, file)).expect("free addresses");
        // When the mapping has been looked up and its page made, it becomes a private one.
        scene.machine.during(HostCall::Pause, 1, move |machine| {
            machine.unmap(id, AT, 1).expect("it is mapped");
            machine.map(id, MapSpec::private(AT, 1, file)).expect("free addresses");
            machine.touch(id, AT, 1, Access::READ).expect("the file has a page");
        });
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &PinRequest::longterm(range(1), Access::READ)).expect("it is mapped");
        scene.write(&scene.space, 5);
        assert_eq!(scene.device_read(&table), if kept { 5 } else { 0 });
    });
}

#[test]
fn a_fault_that_does_not_copy_has_a_device_write_to_the_child() {
    both("fault-in", &Layout::small(), |scene, kept| {
        scene.map(1);
        let child = scene.host.fork(&scene.space).expect("free memory");
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &shortterm(1)).expect("it is mapped");
        scene.device_write(&table, 2);
        assert_eq!(scene.read(&scene.space), 2);
        assert_eq!(scene.read(&child), if kept { 1 } else { 2 });
    });
}

#[test]
fn a_fault_that_keeps_its_lock_stops_the_next_look_up() {
    both("fault-locks", &Layout::small(), |scene, kept| {
        scene.machine.map(scene.space.id(), MapSpec::anonymous(AT, 2)).expect("free addresses");
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        assert_eq!(scene.pin(&table, &longterm(2)).is_ok(), kept);
        assert_eq!(scene.host.stuck.get(), !kept);
    });
}
