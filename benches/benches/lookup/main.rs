//! Rows L1 to L7 and T1: where an address is, among one region and among thousands.

mod against;
mod bytes;
mod case;
mod threads;

use std::process::ExitCode;

use pinfold_benches::rows::{self, Goal, Options, Row};

use case::{Cases, Turns, compare};

const ROWS: [&str; 8] = ["L1", "L2", "L3", "L4", "L5", "L6", "L7", "T1"];

fn main() -> ExitCode {
    let about = "Finds addresses in registered regions, against other ways to find them.";
    let options = match Options::parse(about, &ROWS) {
        Ok(options) => options,
        Err(code) => return code,
    };
    rows::head(&options, "lookup");
    if ROWS[..6].iter().any(|id| options.wants(id)) {
        let cases = Cases::new(&options);
        many_regions(&options, &cases);
        one_load(&options, &cases);
        against::others(&options, &cases);
        latency(&options, &cases);
        threads::two_readers(&options, &cases.many);
    }
    let verdicts = [threads::registration(&options), bytes::of_tables(&options)];
    if verdicts.contains(&false) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// L1: many regions against one.
fn many_regions(options: &Options, cases: &Cases) {
    for case in [&cases.many, &cases.askew, &cases.small] {
        let goal = Goal::AtMost(1.25, 1.1);
        let row = Row { id: "L1", what: "confined / one region", goal };
        let [ours, one] = [case, &cases.one].map(|case| Turns::new(&case.confined));
        let [reader, one_reader] = [case, &cases.one].map(|case| case.engine.reader());
        compare(options, &row, case, || ours.asked(&reader), || one.asked(&one_reader));
    }
}

/// L2: the lookup against the one load that nobody can do without.
fn one_load(options: &Options, cases: &Cases) {
    for case in cases.all() {
        let goal = if case.layout.regions == 1 { Goal::Report } else { Goal::AtMost(1.3, 1.15) };
        let row = Row { id: "L2", what: "spread / one load", goal };
        let (reader, floor) = (case.engine.reader(), case.one_load());
        let [ours, theirs] = [(); 2].map(|()| Turns::new(&case.spread));
        compare(options, &row, case, || ours.asked(&reader), || theirs.asked(&floor));
    }
}

/// L5: the time from a question to its answer, and how much longer that is than one load.
fn latency(options: &Options, cases: &Cases) {
    for case in cases.all() {
        let (reader, floor) = (case.engine.reader(), case.one_load());
        for (what, queries) in [
            ("dependent, spread / one load", &case.spread),
            ("dependent, confined / one load", &case.confined),
        ] {
            let row = Row { id: "L5", what, goal: Goal::Report };
            let [ours, theirs] = [(); 2].map(|()| Turns::new(queries));
            compare(options, &row, case, || ours.followed(&reader), || theirs.followed(&floor));
        }
    }
}
