//! What was known of the mapping changes.

use pinfold::host::FaultError;
use pinfold::{Access, Order, Pfn, PinCause, PinFlags, PinRequest};
use pinfold_sim::{FileKind, Layout, Machine, MapSpec, Ram, mib};

use super::{AT, BOTH, Race, pin_while, request};

/// D11: a page's file was asked for twice, and the second time it was gone. Here a file is cut
/// after the entry was read, in the first walk and, when the mapping is known already, in the
/// second one. Somebody keeps the page alive, so that the count could land there.
#[test]
fn a_file_that_is_cut_between_the_walk_and_the_count_is_not_pinned() {
    for (kind, access) in
        [(FileKind::Shmem, BOTH), (FileKind::Shmem, Access::READ), (FileKind::Disk, Access::READ)]
    {
        for skip in [0, 1] {
            let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(8)));
            let machine = Machine::new(&ram);
            let space = machine.add_space();
            let file = machine.add_file(kind, 1, Order::ZERO);
            machine.map(space.id(), MapSpec::shared(AT, 1, file)).unwrap();
            machine.touch(space.id(), AT, 1, access).unwrap();
            let held = machine.get_page(space.id(), AT).unwrap();
            // A neighbour, so that the page table stays.
            machine.map(space.id(), MapSpec::anonymous(AT + 0x8000, 1)).unwrap();
            machine.touch(space.id(), AT + 0x8000, 1, BOTH).unwrap();
            // For a long write to memory without a disk nothing has to be known of the mapping.
            let walks_twice = access == Access::READ;
            if skip != 0 && !walks_twice {
                continue;
            }
            let request = PinRequest { access, ..request(1, PinFlags::LONGTERM) };
            let deed = || machine.truncate(file, 0).unwrap();
            let race = Race { skip, ..Race::new(&deed) };
            pin_while(&machine, &space, &request, race, |result| {
                let cause = result.unwrap_err().cause;
                assert_eq!(cause, PinCause::Fault(FaultError::Denied), "{kind:?} {access:?}");
            });
            assert!(machine.put_page(held));
        }
    }
}

/// The same page of the same file is mapped private instead of shared while the walk is under way.
/// The entry is what it was, bit for bit; only the sequence of invalidations tells that a long
/// read now needs a copy.
#[test]
fn a_mapping_that_becomes_private_between_the_walk_and_the_count_is_looked_up_again() {
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(8)));
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    let id = space.id();
    let file = machine.add_file(FileKind::Disk, 1, Order::ZERO);
    // A neighbour, so that the page table stays.
    machine.map(id, MapSpec::anonymous(AT + 0x8000, 1)).unwrap();
    machine.touch(id, AT + 0x8000, 1, BOTH).unwrap();
    machine.map(id, MapSpec::shared(AT, 1, file)).unwrap();
    machine.touch(id, AT, 1, Access::READ).unwrap();
    let deed = || {
        let before = machine.translate(id, AT, Access::READ);
        machine.unmap(id, AT, 1).unwrap();
        machine.map(id, MapSpec::private(AT, 1, file)).unwrap();
        machine.touch(id, AT, 1, Access::READ).unwrap();
        assert_eq!(machine.translate(id, AT, Access::READ), before);
    };
    let request = PinRequest { access: Access::READ, ..request(1, PinFlags::LONGTERM) };
    let race = Race { skip: 1, ..Race::new(&deed) };
    pin_while(&machine, &space, &request, race, |result| {
        assert_eq!(result.as_ref().unwrap().faults, 1, "it was made private");
    });
}
