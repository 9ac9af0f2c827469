//! The conformance kit: it passes on the machine, it catches whoever neglects a duty that it can see, and
//! it says what it did not check.

use pinfold::{AddrRange, FrameTable, X86_64};
use pinfold_sim::conformance::{self, DUTIES, Memory, Report, Subject};
use pinfold_sim::{Layout, Machine, Ram, ZoneKind, ZoneLayout, mib};

use crate::careless::{Careless, Space};

/// Other ways to neglect a duty than the one that its scene shows.
const MORE_WAYS: [&str; 12] = [
    "table-views/anywhere",
    "table-views/half",
    "mapping-lookup/stale",
    "invalidate-brackets/open",
    "fault-in/nothing",
    "fault-in/unmarked",
    "fork-brackets/open",
    "fork-copies-pinned/parent",
    "exclusive-mark/writable",
    "migrate-never-pinned/cleared",
    "account/twice",
    "enter-leave/unmasks",
];

/// The report on the machine as an embedder that neglects this duty.
fn report(neglected: &'static str) -> Report {
    let persistent = ZoneLayout { name: "pmem", kind: ZoneKind::FsDax, pages: mib(2) };
    let ram = Ram::new(&Layout::small().zone(persistent));
    let machine = Machine::new(&ram);
    let report = conformance::run(&Careless::of(&machine, neglected));
    assert_eq!(machine.breaches(), [], "{neglected}");
    report
}

#[test]
fn the_machine_keeps_every_duty_and_all_are_checked() {
    let report = report("none");
    assert_eq!(report.kept().collect::<Vec<_>>(), DUTIES, "{report}");
}

#[test]
fn whoever_neglects_a_duty_is_caught_by_its_name() {
    for neglected in DUTIES.iter().chain(&MORE_WAYS) {
        let duty = neglected.split('/').next();
        let report = report(neglected);
        assert!(report.broken().any(|(broken, _)| Some(broken) == duty), "{neglected}:\n{report}");
    }
}

/// An embedder that can do nothing but map.
struct Bare<'a, 'm>(Careless<'a, 'm>);

impl<'a, 'm> Subject for Bare<'a, 'm> {
    type Host = Careless<'a, 'm>;
    type Format = X86_64;
    type Space = Space;

    fn host(&self) -> &Self::Host {
        &self.0
    }
    fn frames(&self) -> FrameTable<'_> {
        Subject::frames(&self.0)
    }
    fn map(&self, memory: Memory, pages: u64) -> Option<(Space, AddrRange)> {
        if memory == Memory::Private { self.0.map(memory, pages) } else { None }
    }
}

#[test]
fn what_is_not_checked_is_named() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let report = conformance::run(&Bare(Careless::of(&machine, "none")));
    assert_eq!(report.outcomes().map(|(duty, _)| duty).collect::<Vec<_>>(), DUTIES);
    assert_eq!(report.broken().next(), None, "{report}");
    assert_eq!(report.kept().collect::<Vec<_>>(), ["mapping-lookup", "pause"]);
    for (duty, want) in report.not_checked() {
        let named = want.contains("the subject has no") || want.contains("the subject maps no");
        assert!(named, "{duty}: {want}");
    }
    let lines = report.to_string();
    assert!(lines.contains("fork-brackets: not checked: the subject has no `fork`"), "{lines}");
}
