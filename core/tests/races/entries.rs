//! The entry changes, or the folio behind it, after the walk has read it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use pinfold::folio::FolioFlags;
use pinfold::{
    AddressSpace, Dirtied, Engine, PageCount, PageShift, Pfn, PinFlags, PinRequest, PinTable,
};
use pinfold_sim::{FrameRange, HostCall, Layout, Machine, MapSpec, Ram, Thp, Want, mib};

use super::{
    AT, BOTH, HUGE, Hooked, Race, filled, hook, longterm, number, pin_while, request, words,
};

/// Memory that may all be pinned, so that nothing is moved.
fn plain() -> Layout {
    Layout::new(Pfn::new(0x1000)).normal(mib(16))
}

const HOW: [PinFlags; 2] = [PinFlags::empty(), PinFlags::LONGTERM];

/// A folio that is freed between the walk and the look at it was moved, not forbidden.
#[test]
fn a_folio_that_moves_between_the_walk_and_the_look_is_looked_for_again() {
    for flags in [PinFlags::empty(), PinFlags::LONGTERM] {
        let ram = Ram::new(&Layout::small());
        let machine = Machine::new(&ram);
        let space = machine.add_space();
        machine.map(space.id(), MapSpec::anonymous(AT, 4)).unwrap();
        machine.touch(space.id(), AT, 4, BOTH).unwrap();
        let deed = || {
            machine.move_page(space.id(), AT, Want::Pinnable).unwrap();
        };
        pin_while(&machine, &space, &request(4, flags), Race::new(&deed), |result| {
            assert!(result.is_ok(), "{result:?}");
        });
    }
}

/// D6: the entry was replaced after it was read; the count that landed on the old page is undone.
#[test]
fn a_page_that_is_replaced_between_the_walk_and_the_count_is_not_pinned() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    machine.map(space.id(), MapSpec::anonymous(AT, 4)).unwrap();
    machine.touch(space.id(), AT, 4, BOTH).unwrap();
    let deed = || {
        // Somebody keeps the old page alive, so that the count can land there.
        let old = machine.get_page(space.id(), AT).unwrap();
        machine.unmap(space.id(), AT, 1).unwrap();
        machine.map(space.id(), MapSpec::anonymous(AT, 1)).unwrap();
        machine.touch(space.id(), AT, 1, BOTH).unwrap();
        assert_ne!(machine.folio_at(space.id(), AT).unwrap().head(), old);
    };
    pin_while(&machine, &space, &request(4, PinFlags::empty()), Race::new(&deed), |result| {
        assert!(result.is_ok(), "{result:?}");
    });
}

/// The page goes to swap and its frame to somebody else, in the same state as before. What the pin
/// gets is the page that comes back, also when it has to stop behind that page, in a run of frames
/// of which the next one must move.
#[test]
fn a_page_that_is_swapped_out_between_the_walk_and_the_count_comes_back() {
    for (flags, stopped) in [(HOW[0], false), (HOW[1], false), (HOW[1], true)] {
        let ram = Ram::new(&plain());
        let machine = Machine::new(&ram);
        let space = filled(&machine, 4);
        // The first page has its tables behind it in memory; the others are in a row.
        let at = AT + 0x1000;
        let [first, next] =
            [at, at + 0x1000].map(|va| machine.folio_at(space.id(), va).unwrap().head());
        assert_eq!(next.raw(), first.raw() + 1);
        let block = FrameRange::new(next, PageCount::ONE);
        if stopped {
            machine.isolate(block);
        }
        let other = machine.add_space();
        machine.map(other.id(), MapSpec::anonymous(AT, 1)).unwrap();
        let deed = || {
            machine.swap_out(space.id(), at).unwrap();
            machine.write(other.id(), AT, &[77]).unwrap();
            assert_eq!(machine.folio_at(other.id(), AT).unwrap().head(), first, "it was reused");
        };
        let request = PinRequest { flags, ..longterm(at, 3) };
        pin_while(&machine, &space, &request, Race::new(&deed), |result| {
            let pinned = result.as_ref().unwrap();
            assert_eq!((pinned.faults, pinned.migrated), (1, u64::from(stopped)));
            if stopped {
                machine.put_back(&block);
            }
        });
        let mut byte = [0];
        machine.read(space.id(), at, &mut byte).unwrap();
        assert_eq!((byte, machine.swapped()), ([1], 0));
    }
}

/// The huge leaf has been read when it is split into small ones, and when its folio is taken apart.
#[test]
fn a_huge_page_that_is_split_between_the_walk_and_the_count_is_looked_at_again() {
    for flags in HOW {
        for whole in [false, true] {
            let ram = Ram::new(&plain());
            let machine = Machine::new(&ram);
            let space = machine.add_space();
            let id = space.id();
            machine.map(id, MapSpec::anonymous(AT, HUGE).with_thp(Thp::Whole)).unwrap();
            number(&machine, id, HUGE);
            let deed = || match whole {
                true => machine.split_folio(id, AT).unwrap(),
                false => machine.split_mapping(id, AT).unwrap(),
            };
            let race = Race { level: PageShift::SIZE_2M, ..Race::new(&deed) };
            pin_while(&machine, &space, &request(HUGE, flags), race, |result| {
                let counts = if whole { HUGE } else { 1 };
                assert_eq!(result.as_ref().unwrap().runs, counts);
            });
        }
    }
}

/// D5: all of a fork happens after the entry was read. The parent keeps what the device reaches.
#[test]
fn a_fork_between_the_walk_and_the_count_leaves_the_parent_its_page() {
    for flags in HOW {
        let ram = Ram::new(&plain());
        let machine = Machine::new(&ram);
        let space = filled(&machine, 4);
        let child = Cell::new(None);
        let deed = || child.set(Some(machine.fork(space.id()).unwrap().id()));
        pin_while(&machine, &space, &request(4, flags), Race::new(&deed), |result| {
            assert!(result.is_ok(), "{result:?}");
            for va in [AT, AT + 0x3000] {
                let own = machine.folio_at(space.id(), va).unwrap();
                assert_ne!(machine.folio_at(child.get().unwrap(), va), Some(own));
                assert!(own.info().flags.contains(FolioFlags::EXCLUSIVE));
            }
        });
    }
}

/// D5: a fork has begun after the walk did, and has not come to this page yet. The entry still says
/// writable when it is compared; only the fork's own sequence tells.
#[test]
fn a_fork_that_begins_between_the_walk_and_the_count_is_waited_for() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    machine.map(space.id(), MapSpec::anonymous(AT, 4)).unwrap();
    machine.touch(space.id(), AT, 4, BOTH).unwrap();
    let armed = Cell::new(true);
    let forked: &Cell<Option<&AddressSpace<Hooked<'_>>>> = &Cell::new(None);
    let deed = || forked.get().unwrap().fork_start();
    let hooked = hook(&space, PageShift::SIZE_4K, &armed, &deed);
    forked.set(Some(&hooked));
    let engine = Engine::new(&machine, machine.frames());
    let memory = words(64);
    let table = PinTable::new(&memory).unwrap();
    // Nobody ends the fork: the call waits, a bounded number of times, and gives up.
    let before = machine.calls(HostCall::Pause);
    let error = engine.pin(&hooked, &table, &request(4, PinFlags::empty())).unwrap_err();
    assert_eq!(error.kind(), pinfold::ErrorKind::Busy, "{error}");
    assert!(machine.calls(HostCall::Pause) > before + 100, "it did not wait");
    hooked.fork_end();
    engine.pin(&hooked, &table, &request(4, PinFlags::empty())).unwrap();
    engine.unpin(&table, Dirtied::No).unwrap();
}

/// However many batches a call takes, an entry is decoded once; the re-check only compares.
#[test]
fn every_entry_is_decoded_once() {
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(32)));
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    let pages = 6000;
    machine.map(space.id(), MapSpec::anonymous(AT, pages)).unwrap();
    // Touched in two strides, so that neighbours are not always neighbours in memory.
    for start in [0, 1] {
        for i in (start..pages).step_by(2) {
            machine.touch(space.id(), AT + (i << 12), 1, BOTH).unwrap();
        }
    }
    let seen = RefCell::new(BTreeMap::new());
    let each = |raw| *seen.borrow_mut().entry(raw).or_insert(0) += 1;
    let armed = Cell::new(false);
    let level = PageShift::SIZE_4K;
    let format = Hooked { inner: space.format(), level, armed: &armed, deed: &|| (), each: &each };
    let hooked = AddressSpace::new(space.id(), format, space.root());
    let engine = Engine::new(&machine, machine.frames());
    let memory = words(7000);
    let table = PinTable::new(&memory).unwrap();
    let pinned = engine.pin(&hooked, &table, &request(pages, PinFlags::LONGTERM)).unwrap();
    assert_eq!((pinned.faults, pinned.migrated), (0, 0));
    assert_eq!(seen.borrow().len() as u64, pages);
    assert!(seen.borrow().values().all(|times| *times == 1), "an entry was decoded twice");
    engine.unpin(&table, Dirtied::No).unwrap();
}
