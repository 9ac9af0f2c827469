//! Rows M1 to M7: mapping memory for a device and taking it away, against floors and other crates.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use pinfold::PageShift;
use pinfold::sync::{Ordering, Word};
use pinfold_arch::{AmdVi, AnyIoFormat, Granule, IoFormat, Smmu, Tce, Vtd, Zpci};
use pinfold_benches::lines::{Lines, lines};
#[cfg(target_arch = "x86_64")]
use pinfold_benches::mappers::Multiarch;
use pinfold_benches::mappers::floor::Entries;
use pinfold_benches::mappers::{Aarch64Paging, Job, Mapper, Pinfold, Unmapper, X86_64, sum_of};
use pinfold_benches::rounds::{Compared, alternate, timed};
use pinfold_benches::rows::{self, Goal, Options, Row};
use x86_64::structures::paging::{Size2MiB, Size4KiB};

const ROWS: [&str; 7] = ["M1", "M2", "M3", "M4", "M5", "M6", "M7"];
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
        let names = ["crate x86_64 / pinfold VT-d", "crate x86_64 / pinfold VT-d, unmap"];
        let goals = [Goal::AtLeast(4.0, 6.0), Goal::AtLeast(3.0, 5.0)];
        in_and_out(&options, names, goals, X86_64::<Size4KiB>::new(job(&options)), vtd);
        let scattered = X86_64::<Size4KiB>::new(job(&options).scattered());
        let names = ["the same, scattered pages", "the same, scattered pages"];
        in_and_out(&options, names, [Goal::Report; 2], scattered, vtd);
        #[cfg(target_arch = "x86_64")]
        {
            let names = ["page_table_multiarch / pinfold", "page_table_multiarch / pinfold, unmap"];
            in_and_out(&options, names, [Goal::Report; 2], Multiarch::new(job(&options)), vtd);
        }
    }
    if options.wants("M2") {
        let smmu = Smmu::stage1(Granule::Size4K, 48, 48).expect("a granule");
        let (what, goal) = ("crate aarch64-paging / pinfold SMMU", Goal::AtLeast(2.0, 3.0));
        map(&options, 1, Row { id: "M2", what, goal }, Aarch64Paging::new(job(&options)), smmu);
    }
    if options.wants("M3") {
        let job = Job::new(size(&options), LARGE);
        let (what, goal) = ("crate x86_64 / pinfold VT-d, 2 MiB", Goal::AtLeast(3.0, 4.0));
        map(&options, OFTEN, Row { id: "M3", what, goal }, X86_64::<Size2MiB>::new(job), vtd);
    }
    if options.wants("M4") {
        all_against_floor(&options, vtd);
    }
    if options.wants("M6") {
        page_by_page(&options, X86_64::<Size4KiB>::new(job(&options)), vtd);
    }
    if options.wants("M7") {
        count_lines(vtd);
        count_lines(Zpci::new(3).expect("three levels"));
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

fn print(options: &Options, row: Row, runs: Vec<Compared>) {
    let size = if options.quick { "64 MiB" } else { "1 GiB" };
    rows::print(&row, size, runs);
}

/// Maps in new tables, which may take several turns to be long enough for a clock.
fn map_new(mapper: &mut impl Mapper, times: u64) -> Duration {
    let once = |_| {
        mapper.clear();
        timed(|| mapper.map())
    };
    (0..times).map(once).sum()
}

fn map_and_unmap(mapper: &mut impl Unmapper) -> [Duration; 2] {
    let map = map_new(mapper, 1);
    [map, timed(|| _ = black_box(mapper.unmap()))]
}

fn check(mapper: &mut impl Mapper) {
    mapper.clear();
    mapper.check(false);
    mapper.map();
    mapper.check(true);
}

fn check_out(mapper: &mut impl Unmapper) {
    check(mapper);
    let job = mapper.job();
    assert_eq!(mapper.unmap(), sum_of(job.addr, job.leaves(), job.leaf));
    mapper.check(false);
}

/// A peer and pinfold map a job in new tables.
fn map<F: IoFormat>(options: &Options, times: u64, row: Row, mut peer: impl Mapper, format: F) {
    let mut pinfold = Pinfold::new(format, peer.job());
    check(&mut peer);
    check(&mut pinfold);
    let leaves = peer.job().leaves() * times;
    let runs = (0..options.runs()).map(|_| {
        let [run] = alternate(
            options.rounds(),
            leaves,
            || [map_new(&mut peer, times)],
            || [map_new(&mut pinfold, times)],
        );
        run
    });
    print(options, row, runs.collect());
}

/// A peer and pinfold map a job in new tables, and unmap it: rows M1 and M5.
fn in_and_out<F: IoFormat>(
    options: &Options,
    names: [&'static str; 2],
    goals: [Goal; 2],
    mut peer: impl Unmapper,
    format: F,
) {
    let mut pinfold = Pinfold::new(format, peer.job());
    check_out(&mut peer);
    check_out(&mut pinfold);
    let leaves = peer.job().leaves();
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..options.runs() {
        let (peer, pinfold) = (|| map_and_unmap(&mut peer), || map_and_unmap(&mut pinfold));
        let steps = alternate(options.rounds(), leaves, peer, pinfold);
        all.iter_mut().zip(steps).for_each(|(all, step)| all.push(step));
    }
    for (((id, what), goal), runs) in ["M1", "M5"].into_iter().zip(names).zip(goals).zip(all) {
        if options.wants(id) {
            print(options, Row { id, what, goal }, runs);
        }
    }
}

/// pinfold and a peer map page by page, in tables that are there: row M6.
fn page_by_page<F: IoFormat>(options: &Options, mut peer: impl Mapper, format: F) {
    let mut pinfold = Pinfold::new(format, peer.job());
    check(&mut peer);
    check(&mut pinfold);
    let absent = pinfold.ready();
    absent.clear(pinfold.entries());
    pinfold.check(false);
    pinfold.map_each();
    pinfold.check(true);
    absent.clear(peer.entries());
    peer.check(false);
    let leaves = peer.job().leaves();
    let runs = (0..options.runs()).map(|_| {
        let [run] = alternate(
            options.rounds(),
            leaves,
            || {
                absent.clear(pinfold.entries());
                [timed(|| pinfold.map_each())]
            },
            || {
                absent.clear(peer.entries());
                [timed(|| peer.map())]
            },
        );
        run
    });
    let (what, goal) = ("pinfold VT-d / crate x86_64, single pages", Goal::AtMost(1.5, 1.0));
    print(options, Row { id: "M6", what, goal }, runs.collect());
}

/// Row M4 in each format.
fn all_against_floor(options: &Options, vtd: Vtd) {
    let small = job(options);
    let window = PageShift::new(u8::try_from((2 * small.bytes).ilog2()).expect("below 64"));
    let window = window.expect("a window that ends with the job");
    let tce = |levels| Tce::new(SMALL, window, levels).expect("a window");
    let amd = AmdVi::new(4).expect("four levels");
    let (one, two) = (Smmu::stage1(Granule::Size4K, 48, 48), Smmu::stage2(Granule::Size4K, 48, 48));
    let (one, two) = (one.expect("a granule"), two.expect("a granule"));
    against_floor(options, "TCE, flat / floor", tce(1), small);
    against_floor(options, "TCE, two levels / floor", tce(2), small);
    against_floor(options, "VT-d / floor", vtd, small);
    against_floor(options, "AMD-Vi / floor", amd, small);
    against_floor(options, "zPCI / floor", Zpci::new(3).expect("three levels"), small);
    against_floor(options, "SMMU stage 1 / floor", one, small);
    against_floor(options, "SMMU stage 2 / floor", two, small);
    // Sixteen entries a leaf.
    let group = PageShift::new(16).expect("a shift");
    let grouped = Job::new(size(options), group).with_entry(SMALL);
    against_floor(options, "AMD-Vi in 64 KiB / floor", amd, grouped);
    against_floor(options, "SMMU stage 1 in 64 KiB / floor", one, grouped);
    against_floor(options, "any format, VT-d / floor", AnyIoFormat::from(vtd), small);
}

/// A range that is mapped in tables that are there, against stores of the same entries.
fn against_floor<F: IoFormat>(options: &Options, what: &'static str, format: F, job: Job) {
    let mut tables = Pinfold::new(format, job);
    check(&mut tables);
    let (tables, entries) = (&tables, tables.ready());
    let words = tables.entries();
    let written = snapshot(words);
    let plain = (Entries::store as fn(&Entries, &[Word]), what, Goal::AtMost(1.5, 1.2));
    let looks = (Entries::store_checked as _, "the same, floor that looks first", Goal::Report);
    for (floor, what, goal) in [plain, looks] {
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
        print(options, Row { id: "M4", what, goal }, runs.collect());
        assert_eq!(snapshot(words), written, "{what}");
    }
}

/// Lines that a host is told of, for one that changed: row M7, without noise.
fn count_lines<F: IoFormat>(format: F) {
    for (what, lines) in lines(format, Job::new(16 << 20, SMALL)) {
        let Lines { calls, told, changed, .. } = lines;
        println!(
            "M7   {}, {what}: {told} lines in {calls} calls, {changed} changed",
            format.name()
        );
    }
}

fn snapshot(words: &[Word]) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}
