//! Migration.

use pinfold::host::MigrateError;
use pinfold::{PinCause, PinTable};
use pinfold_sim::Layout;

use crate::{both, longterm, shortterm, words};

#[test]
fn a_move_to_no_better_place_fails_a_pin_that_could_succeed() {
    both("migrate-place", &Layout::small(), |scene, kept| {
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        match scene.pin(&table, &longterm(1)) {
            Ok(pinned) => assert!(kept && pinned.migrated == 1),
            Err(error) => assert!(!kept && matches!(error.cause, PinCause::Busy { .. })),
        }
    });
}

#[test]
fn a_move_without_contents_loses_them() {
    both("migrate-contents", &Layout::small(), |scene, kept| {
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &longterm(1)).expect("there is room");
        assert_eq!(scene.read(&scene.space), if kept { 1 } else { 0 });
    });
}

#[test]
fn a_pinned_page_that_is_moved_is_not_the_device_s_any_more() {
    both("migrate-never-pinned", &Layout::small(), |scene, kept| {
        scene.map(1);
        let (first, second) = (words(), words());
        let table = PinTable::new(&first).expect("enough words");
        scene.pin(&table, &shortterm(1)).expect("it is mapped");
        let later = PinTable::new(&second).expect("enough words");
        match scene.pin(&later, &longterm(1)) {
            Ok(_) => assert!(!kept),
            Err(error) => {
                let PinCause::Unmovable { error, .. } = error.cause else { panic!("{error}") };
                assert!(kept && matches!(error, MigrateError::Busy { expected: 2, found: 3 }));
            }
        }
        scene.write(&scene.space, 2);
        assert_eq!(scene.device_read(&table), if kept { 2 } else { 1 });
    });
}

#[test]
fn a_reference_that_a_cache_keeps_fails_a_pin_that_could_succeed() {
    both("migrate-drain", &Layout::small(), |scene, kept| {
        scene.machine.batch_new_pages(8);
        scene.map(1); // the page waits in a list of this CPU's, with a reference
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        match scene.pin(&table, &longterm(1)) {
            Ok(pinned) => assert!(kept && pinned.migrated == 1),
            Err(error) => {
                let PinCause::Unmovable { error, .. } = error.cause else { panic!("{error}") };
                assert!(!kept && matches!(error, MigrateError::Busy { expected: 2, found: 3 }));
            }
        }
    });
}

#[test]
fn a_move_that_keeps_a_reference_to_the_old_page_loses_it() {
    both("migrate-gives-back", &Layout::small(), |scene, kept| {
        scene.map(1);
        let before = scene.machine.free_frames().raw();
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        let pinned = scene.pin(&table, &longterm(1)).expect("there is room");
        assert_eq!(pinned.migrated, 1);
        let lost = before - scene.machine.free_frames().raw();
        assert_eq!(lost, if kept { 0 } else { 1 });
    });
}
