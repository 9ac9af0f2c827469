//! The conformance kit: it passes on the machine, and it catches whoever neglects a duty that it
//! can see.

use pinfold_sim::conformance::{self, DUTIES, Report};
use pinfold_sim::{Layout, Machine, Ram, ZoneKind, ZoneLayout, mib};

use crate::careless::Careless;

/// The report on the machine as an embedder that neglects this duty.
fn report(duty: &'static str) -> Report {
    let persistent = ZoneLayout { name: "pmem", kind: ZoneKind::FsDax, pages: mib(2) };
    let ram = Ram::new(&Layout::small().zone(persistent));
    let machine = Machine::new(&ram);
    let report = conformance::run(&Careless::of(&machine, duty));
    assert_eq!(machine.breaches(), [], "{duty}");
    report
}

#[test]
fn the_machine_keeps_every_duty_and_all_are_checked() {
    let report = report("none");
    assert_eq!(report.kept().collect::<Vec<_>>(), DUTIES, "{report}");
}

#[test]
fn whoever_neglects_a_duty_is_caught_by_its_name() {
    for duty in DUTIES {
        println!("{duty}");
        let report = report(duty);
        println!("== {duty}\n{report}");
        assert!(report.broken().any(|(broken, _)| broken == *duty), "{duty}:\n{report}");
    }
}
