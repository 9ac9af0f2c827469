//! Rows M1 to M6: mapping memory for a device and taking it away, against floors and other crates.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use pinfold::PageShift;
use pinfold::sync::{Ordering, Word};
use pinfold_arch::{IoFormat, Vtd};
use pinfold_benches::mappers::floor::Entries;
use pinfold_benches::mappers::{Job, Mapper, Pinfold, Unmapper, X86_64, sum_of};
use pinfold_benches::rounds::{Compared, alternate, timed};
use pinfold_benches::rows::{self, Goal, Options, Row};
use x86_64::structures::paging::{Size2MiB, Size4KiB};

const ROWS: [&str; 6] = ["M1", "M2", "M3", "M4", "M5", "M6"];
const SMALL: PageShift = PageShift::SIZE_4K;
const LARGE: PageShift = PageShift::SIZE_2M;
/// How often a round maps few entries.
const OFTEN: u64 = 16;

fn main() -> ExitCode {
    let about = "Maps memory for a device, and unmaps it, against a bare loop and other crates.";
    let options = match Options::parse(about, &ROWS) {
        Ok(options) => options,
        Err(code) => return code,
    };
    rows::head(&options, "entry");
    let vtd = Vtd::new(4, 48).expect("four levels");
    if options.wants("M1") || options.wants("M5") {
        let [map, unmap] = in_and_out(
            &options,
            &mut X86_64::<Size4KiB>::new(job(&options)),
            &mut Pinfold::new(vtd, job(&options)),
        );
        if options.wants("M1") {
            let goal = Goal::AtLeast(4.0, 6.0);
            print(&options, "M1", "crate x86_64 / pinfold VT-d, new tables", goal, map);
        }
        if options.wants("M5") {
            let goal = Goal::AtLeast(3.0, 5.0);
            print(&options, "M5", "crate x86_64 / pinfold VT-d, unmap", goal, unmap);
        }
    }
    if options.wants("M3") {
        let job = Job::new(size(&options), LARGE);
        let runs =
            map(&options, OFTEN, &mut X86_64::<Size2MiB>::new(job), &mut Pinfold::new(vtd, job));
        let goal = Goal::AtLeast(3.0, 4.0);
        print(&options, "M3", "crate x86_64 / pinfold VT-d, 2 MiB", goal, runs);
    }
    if options.wants("M4") {
        let names = ["VT-d / floor", "VT-d / floor that looks first"];
        against_floor(&options, names, vtd, job(&options));
    }
    ExitCode::SUCCESS
}

fn size(options: &Options) -> u64 {
    if options.quick { 64 << 20 } else { 1 << 30 }
}

/// Memory in the smallest leaves.
fn job(options: &Options) -> Job {
    Job::new(size(options), SMALL)
}

fn print(options: &Options, id: &'static str, what: &'static str, goal: Goal, runs: Vec<Compared>) {
    let size = if options.quick { "64 MiB" } else { "1 GiB" };
    rows::print(&Row { id, what, goal }, size, runs);
}

/// Maps in new tables, which may take several turns to be long enough for a clock.
fn map_new(mapper: &mut impl Mapper, times: u64) -> Duration {
    let once = |_| {
        mapper.clear();
        timed(|| mapper.map())
    };
    (0..times).map(once).sum()
}

/// Two who map a job in new tables.
fn map(options: &Options, times: u64, a: &mut impl Mapper, b: &mut impl Mapper) -> Vec<Compared> {
    check(a);
    check(b);
    let leaves = a.job().leaves() * times;
    let runs = (0..options.runs()).map(|_| {
        let [run] =
            alternate(options.rounds(), leaves, || [map_new(a, times)], || [map_new(b, times)]);
        run
    });
    runs.collect()
}

fn check(mapper: &mut impl Mapper) {
    mapper.clear();
    mapper.check(false);
    mapper.map();
    mapper.check(true);
}

/// Two who map a job in new tables, and unmap it.
fn in_and_out(
    options: &Options,
    a: &mut impl Unmapper,
    b: &mut impl Unmapper,
) -> [Vec<Compared>; 2] {
    check_out(a);
    check_out(b);
    let leaves = a.job().leaves();
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..options.runs() {
        let steps = alternate(options.rounds(), leaves, || map_and_unmap(a), || map_and_unmap(b));
        all.iter_mut().zip(steps).for_each(|(all, step)| all.push(step));
    }
    all
}

fn map_and_unmap(mapper: &mut impl Unmapper) -> [Duration; 2] {
    let map = map_new(mapper, 1);
    [map, timed(|| _ = black_box(mapper.unmap()))]
}

fn check_out(mapper: &mut impl Unmapper) {
    check(mapper);
    let job = mapper.job();
    assert_eq!(mapper.unmap(), sum_of(job.addr, job.leaves(), job.leaf));
    mapper.check(false);
}

/// A range that is mapped in tables that are there, against stores of the same entries.
fn against_floor<F: IoFormat>(options: &Options, names: [&'static str; 2], format: F, job: Job) {
    let mut tables = Pinfold::new(format, job);
    check(&mut tables);
    let (tables, entries) = (&tables, tables.ready());
    let words = tables.entries();
    let written = snapshot(words);
    let sides: [fn(&Entries, &[Word]); 2] = [Entries::store, Entries::store_checked];
    let goals = [Goal::AtMost(1.5, 1.2), Goal::Report];
    for ((floor, what), goal) in sides.into_iter().zip(names).zip(goals) {
        entries.clear(words);
        tables.check(false);
        floor(&entries, words);
        assert_eq!(snapshot(words), written, "{what}");
        let runs = (0..options.runs()).map(|_| {
            let [run] = alternate(
                options.rounds(),
                job.entries(),
                || {
                    entries.clear(words);
                    [timed(|| tables.map_once())]
                },
                || {
                    entries.clear(words);
                    [timed(|| floor(&entries, words))]
                },
            );
            run
        });
        print(options, "M4", what, goal, runs.collect());
        assert_eq!(snapshot(words), written, "{what}");
    }
}

fn snapshot(words: &[Word]) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}
