//! The tables themselves change under the walk.

use std::cell::Cell;

use pinfold::host::MigrateError;
use pinfold::{Dirtied, Engine, PageShift, Pfn, PinCause, PinFlags, PinTable};
use pinfold_sim::{Layout, Machine, MapSpec, Ram, mib};

use super::{AT, BOTH, HUGE, Race, filled, pin_while, request, words};

/// D6: small pages are put together after an entry of theirs was read. Their table is detached and
/// still says what it said, and their frames are somebody else's by now, in the same state: only
/// the entry above the table tells.
#[test]
fn a_page_table_that_was_detached_is_not_believed() {
    for flags in [PinFlags::empty(), PinFlags::LONGTERM] {
        let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(32)));
        let machine = Machine::new(&ram);
        let space = filled(&machine, HUGE);
        let other = machine.add_space();
        machine.map(other.id(), MapSpec::anonymous(AT, HUGE)).unwrap();
        let deed = || {
            let frame = machine.folio_at(space.id(), AT).unwrap().head();
            machine.collapse(space.id(), AT).unwrap();
            machine.touch(other.id(), AT, HUGE, BOTH).unwrap();
            assert_eq!(machine.folio_at(other.id(), AT).unwrap().head(), frame, "it was reused");
            assert_eq!(machine.walks(), (1, 1), "the table waits for the walk to end");
        };
        pin_while(&machine, &space, &request(HUGE, flags), Race::new(&deed), |result| {
            assert_eq!(result.as_ref().unwrap().runs, 1, "what is pinned is the huge page");
        });
        assert_eq!(machine.walks(), (0, 0));
    }
}

/// Who puts pages together looks for pins, and leaves what is pinned as it is.
#[test]
fn small_pages_with_a_pin_among_them_are_not_put_together() {
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(32)));
    let machine = Machine::new(&ram);
    let space = filled(&machine, HUGE);
    let engine = Engine::new(&machine, machine.frames());
    let memory = words(64);
    let table = PinTable::new(&memory).unwrap();
    engine.pin(&space, &table, &request(3, PinFlags::empty())).unwrap();
    let busy = MigrateError::Busy { expected: 1, found: 2 };
    assert_eq!(machine.collapse(space.id(), AT), Err(busy));
    assert_eq!(
        table.lookup(table.range().unwrap().start()).ok(),
        machine.translate(space.id(), AT, BOTH)
    );
    engine.unpin(&table, Dirtied::No).unwrap();
    machine.collapse(space.id(), AT).unwrap();
}

/// D76: a lockless walk relied on the re-check alone, but the table page itself was freed and
/// reused. Here the way to the last table has been read when everything on it is freed, and its
/// pages become the tables of another address, at the same places: without the guard the walk
/// would go on there, and both entries would still say the same when compared.
#[test]
fn a_table_page_that_is_unmapped_under_the_walk_stays_until_the_walk_ends() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = filled(&machine, 4);
    let id = space.id();
    let during = Cell::new((0, 0));
    let deed = || {
        machine.unmap(id, AT, 4).unwrap();
        machine.map(id, MapSpec::anonymous(AT / 2, 4)).unwrap();
        machine.touch(id, AT / 2, 4, BOTH).unwrap();
        during.set(machine.walks());
    };
    let race = Race { level: PageShift::SIZE_2M, ..Race::new(&deed) };
    pin_while(&machine, &space, &request(4, PinFlags::empty()), race, |result| {
        assert_eq!(result.unwrap_err().cause, PinCause::NotMapped);
    });
    let (walks, waiting) = during.get();
    assert_eq!(walks, 1, "the walk holds no guard");
    assert!(waiting >= 1, "the table was freed under the walk");
    assert_eq!(machine.walks(), (0, 0), "the guard was not given back");
}
