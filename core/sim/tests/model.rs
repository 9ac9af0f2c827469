//! The model notices what is wrong.

use pinfold::host::{Account, FaultIn};
use pinfold::{Access, AccountId, PageCount, VirtAddr};
use pinfold_sim::model::Model;
use pinfold_sim::{Layout, Machine, MapSpec, Ram};

const AT: u64 = 0x4000_0000;

/// A machine with one page that was written to, handed to `break_it`; what the model says then.
fn verdict(break_it: impl FnOnce(&Machine<'_>, pinfold::host::SpaceId)) -> String {
    let ram = Ram::new(&Layout::tiny());
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, 4)).unwrap();
    machine.write(id, AT, &[1]).unwrap();
    Model::new().check(&machine).unwrap();
    break_it(&machine, id);
    Model::new().check(&machine).unwrap_err()
}

#[test]
fn a_pin_that_nobody_owns() {
    let what = verdict(|machine, id| {
        let folio = machine.folio_at(id, AT).unwrap();
        machine.frames().pin(folio, PageCount::ONE).unwrap();
    });
    assert!(what.contains("wrong pins"), "{what}");
}

#[test]
fn a_reference_that_nobody_took() {
    let what = verdict(|machine, id| {
        let folio = machine.folio_at(id, AT).unwrap();
        machine.frames().get(folio, 1).unwrap();
    });
    assert!(what.contains("wrong references"), "{what}");
}

#[test]
fn a_claim_that_was_forgotten() {
    let what = verdict(|machine, id| {
        let folio = machine.folio_at(id, AT).unwrap();
        let _forgotten = machine.frames().claim(folio).unwrap();
    });
    assert!(what.contains("claimed"), "{what}");
}

#[test]
fn a_charge_for_nothing_and_an_uncharge_of_more_than_that() {
    let one = PageCount::ONE;
    let what = verdict(|machine, _| machine.charge(AccountId(0), one).unwrap());
    assert!(what.contains("charged"), "{what}");
    let what = verdict(|machine, _| machine.uncharge(AccountId(0), one));
    assert!(what.contains("Uncharged"), "{what}");
}

#[test]
fn a_fault_taken_inside_a_walk() {
    use pinfold::host::{Fault, WalkGuard};
    let what = verdict(|machine, id| {
        let saved = WalkGuard::enter(machine, id);
        let fault = Fault { access: Access::READ, unshare: false, longterm: false };
        machine.fault_in(id, VirtAddr::new(AT), fault).unwrap();
        WalkGuard::leave(machine, id, saved);
    });
    assert!(what.contains("Sleeping"), "{what}");
}
