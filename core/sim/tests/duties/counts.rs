//! References, frames, and who may have them.

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::frames::CountError;
use pinfold::sync::{Ordering, Word};
use pinfold::{
    FrameTable, Order, PageCount, PageShift, Pfn, PinCause, PinFlags, PinRequest, PinTable,
};
use pinfold_sim::conformance::{Memory, Subject};
use pinfold_sim::{ContigError, Layout, MapSpec, mib};

use crate::careless::{leaf, remake};
use crate::{AT, both, longterm, range, shortterm, words};

/// Whoever takes a page away: reclaim, unmap, truncate, migration, a collapse to a huge page.
#[test]
fn a_look_for_pins_before_the_entry_is_cleared_takes_a_pinned_page_away() {
    both("clear-then-look", &Layout::small(), |scene, kept| {
        scene.map(1);
        let folio = scene.machine.folio_at(scene.space.id(), AT).expect("it is mapped");
        let look = || scene.machine.frames().counts_of(folio).pins();
        let clear = || leaf(scene.machine, &scene.space, AT).store(0, Ordering::SeqCst);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        // A pin comes between the two steps.
        let request = PinRequest { flags: PinFlags::NOFAULT, ..shortterm(1) };
        if kept {
            clear();
            let error = scene.pin(&table, &request).unwrap_err();
            assert_eq!(error.cause, PinCause::NotPresent);
            assert_eq!(look(), 0);
        } else {
            assert_eq!(look(), 0);
            scene.pin(&table, &request).expect("it is still mapped");
            clear();
            scene.write(&scene.space, 2);
            assert_eq!(scene.device_read(&table), 1, "process and device have different pages");
        }
    });
}

#[test]
fn a_mapping_that_is_not_counted_shows_what_another_process_writes() {
    both("every-reference", &Layout::small(), |scene, kept| {
        scene.map(1);
        let child = scene.host.fork(&scene.space).expect("free memory");
        scene.machine.unmap(scene.space.id(), AT, 1).expect("it is mapped");
        scene.other(77);
        assert_eq!(scene.read(&child), if kept { 1 } else { 77 });
    });
}

#[test]
fn a_pinned_frame_that_is_reused_has_a_device_write_to_another_process() {
    both("last-reference", &Layout::small(), |scene, kept| {
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &shortterm(1)).expect("it is mapped");
        scene.host.unmap(&scene.space, range(1)).expect("it is mapped");
        let (other, _) = scene.host.map(Memory::Private, 1).expect("free memory");
        scene.host.fault(&other, true);
        scene.write(&other, 77);
        scene.device_write(&table, 2);
        assert_eq!(scene.read(&other), if kept { 77 } else { 2 });
    });
}

#[test]
fn a_frame_that_nobody_takes_back_is_lost() {
    both("reclaim", &Layout::small(), |scene, kept| {
        let before = scene.machine.free_frames().raw();
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &shortterm(1)).expect("it is mapped");
        scene.machine.unmap(scene.space.id(), AT, 1).expect("it is mapped");
        scene.engine().unpin(&table, pinfold::Dirtied::No).expect("it is pinned");
        let lost = before - scene.machine.free_frames().raw();
        assert_eq!(lost, if kept { 0 } else { 1 });
    });
}

#[test]
fn a_folio_split_while_it_is_pinned_keeps_a_pin_for_ever() {
    for kept in [true, false] {
        let words: Vec<Word> = (0..8).map(|_| Word::new(0)).collect();
        let frames = FrameTable::new(&words, Pfn::new(8), PageShift::SIZE_4K).expect("addresses");
        let order = Order::new(2).expect("an order");
        let info = FolioInfo { order, kind: FolioKind::Anonymous, flags: FolioFlags::EXCLUSIVE };
        frames.add_memory(Pfn::new(8), info).expect("unknown memory").unfreeze(1);
        let pinned = Pfn::new(11);
        let folio = frames.folio(pinned).expect("memory");
        frames.pin(folio, PageCount::ONE).expect("in use");
        if kept {
            assert_eq!(frames.freeze(folio, 1).expect_err("it is pinned").pins, 1);
        } else {
            const ORDER: u64 = 0x3f;
            words.iter().step_by(2).for_each(|state| {
                state.fetch_and(!ORDER, Ordering::SeqCst);
            });
        }
        let now = frames.folio(pinned).expect("memory");
        let given = frames.unpin(now, PageCount::ONE);
        let left = frames.counts_of(frames.folio(Pfn::new(8)).expect("memory")).pins();
        match given {
            Ok(_) => assert!(kept && left == 0),
            Err(error) => assert!(!kept && left == 1 && error == CountError::NotHeld),
        }
    }
}

#[test]
fn a_folio_that_hides_its_cma_area_keeps_it_from_its_owner() {
    let layout = Layout::new(Pfn::new(0x1000)).normal(mib(4)).cma(mib(4));
    both("folio-flags", &layout, |scene, kept| {
        scene.map(1);
        if !kept {
            let folio = scene.machine.folio_at(scene.space.id(), AT).expect("it is mapped");
            remake(scene.machine, folio, FolioKind::Anonymous, FolioFlags::EXCLUSIVE);
        }
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &longterm(1)).expect("it is mapped");
        let area = scene.machine.alloc_contig(0, mib(4).raw());
        match area {
            Ok(_) => assert!(kept),
            Err(error) => assert!(!kept && matches!(error, ContigError::Blocked { .. })),
        }
    });
}

#[test]
fn memory_given_to_a_table_and_used_otherwise_leaves_a_page_pinned_for_ever() {
    both("table-memory", &Layout::small(), |scene, kept| {
        scene.machine.map(scene.space.id(), MapSpec::anonymous(AT, 1)).expect("free addresses");
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        scene.pin(&table, &longterm(1)).expect("it is mapped");
        let folio = scene.machine.folio_at(scene.space.id(), AT).expect("it is pinned");
        if !kept {
            // A second table in the same words: what the first one held is forgotten.
            let _ = PinTable::new(&words).expect("enough words");
        }
        assert_eq!(scene.engine().unpin(&table, pinfold::Dirtied::No).is_ok(), kept);
        assert_eq!(scene.machine.frames().counts_of(folio).pins(), if kept { 0 } else { 1 });
    });
}
