//! Rows L6 and L7: readers beside another reader, and beside a registration.

use std::sync::atomic::{AtomicU64, Ordering};

use pinfold::PageCount;
use pinfold_benches::beside::{Beside, Told};
use pinfold_benches::memory::Flat;
use pinfold_benches::queries::{Locate, independent};
use pinfold_benches::regions::{Layout, Memory, Reader, lower_half};
use pinfold_benches::rounds::{alternate, timed, timed_together};
use pinfold_benches::rows::{self, Goal, Options, Row};

use crate::case::{Case, Turns, per_round, queries};

/// Queries after which a reader says that it has ended those before.
const BATCH: usize = 256;

/// L6: one reader asks everything, two ask half each.
pub(crate) fn two_readers(options: &Options, case: &Case) {
    if !options.wants("L6") {
        return;
    }
    let (engine, floor) = (case.engine.reader(), case.one_load());
    let [goal, report] = [Goal::AtLeast(1.9, 1.95), Goal::Report];
    readers(options, case, &engine, &case.confined, ("confined, one reader / two", goal));
    readers(options, case, &engine, &case.spread, ("spread, one reader / two", goal));
    readers(options, case, &floor, &case.spread, ("spread, one load, one / two", report));
}

fn readers(
    options: &Options,
    case: &Case,
    locate: &(impl Locate + Sync),
    queries: &[u64],
    (what, goal): (&'static str, Goal),
) {
    let [all, halves] = [(); 2].map(|()| Turns::new(queries));
    let ask = |queries| assert_eq!(independent(locate, queries).missed, 0);
    let both = || {
        let part = halves.next();
        let (first, second) = part.split_at(part.len() / 2);
        [timed_together(|| ask(first), || ask(second))]
    };
    let run = |_| {
        let count = per_round(queries) as u64;
        let [compared] = alternate(options.rounds(), count, || [all.asked(locate)], both);
        compared
    };
    let row = Row { id: "L6", what, goal };
    rows::print(&row, case.name, (0..options.runs()).map(run).collect());
}

/// L7: one reader, while another thread registers 1 GiB and takes it away again, and while it does
/// not. The new region lies directly behind those that are asked for, and shares blocks of all
/// sizes with the last of them: so nodes of the directory come and go on the reader's way.
/// Whether all look-ups succeeded.
pub(crate) fn registration(options: &Options) -> bool {
    if !options.wants("L7") {
        return true;
    }
    let stable = Layout { skew: 257, ..Layout::whole(16, 4096) };
    let pages = stable.regions * stable.pages;
    let next = Layout { skew: stable.skew + pages, ..Layout::whole(1, 1) };
    let memory = Memory::new(lower_half(), &[stable, next]);
    let registry = memory.registry();
    for at in 0..4096 {
        memory.register(&registry, at);
    }
    let (beside, reading) = (Beside::default(), Reading::new(memory.reader()));
    let span = stable.span();
    let end = span.skip(PageCount::new(pages - 2048)).expect("the last 8 MiB");
    let (spread, confined) = (queries(options, &span), queries(options, &end));

    let job = || {
        let region = memory.register(&registry, 4096);
        memory.unregister(&registry, region, || reading.wait(&beside));
    };
    let goal = Goal::AtMost(1.15, 1.05);
    beside.with(job, |told| {
        let what = "confined, while 1 GiB registers / idle";
        reading.compare(options, &told, &confined, &Row { id: "L7", what, goal });
        let what = "spread, while 1 GiB registers / idle";
        reading.compare(options, &told, &spread, &Row { id: "L7", what, goal });
    });
    // What any thread costs that writes as much.
    let words = Flat::new(1 << 18);
    let job = || words.words().iter().for_each(|word| word.store(1, Ordering::Relaxed));
    Beside::default().with(job, |told| {
        let (what, goal) = ("spread, while 2 MiB are written / idle", Goal::Report);
        reading.compare(options, &told, &spread, &Row { id: "L7", what, goal });
    });
    let (times, missed) = (beside.times(), reading.missed.load(Ordering::Relaxed));
    println!("L7   failed lookups of stable regions in {times} registrations: {missed}; goal: 0");
    missed == 0
}

/// A reader that says how far it is.
struct Reading<'m> {
    reader: Reader<'m>,
    batches: AtomicU64,
    missed: AtomicU64,
}

impl<'m> Reading<'m> {
    fn new(reader: Reader<'m>) -> Self {
        Self { reader, batches: AtomicU64::new(0), missed: AtomicU64::new(0) }
    }

    /// Asks everything, in batches.
    fn ask(&self, queries: &[u64]) {
        for batch in queries.chunks(BATCH) {
            let missed = independent(&self.reader, batch).missed;
            self.missed.fetch_add(missed, Ordering::Relaxed);
            self.batches.fetch_add(1, Ordering::Release);
        }
    }

    /// Until every batch has ended that was begun before, or nobody reads.
    fn wait(&self, beside: &Beside) {
        let before = self.batches.load(Ordering::Acquire);
        while self.batches.load(Ordering::Acquire) == before && beside.wanted() {
            std::hint::spin_loop();
        }
    }

    fn compare(&self, options: &Options, told: &Told<'_>, queries: &[u64], row: &Row) {
        // All of them in each round: registrations and removals have time to end.
        let ask = || [timed(|| self.ask(queries))];
        let run = |_| {
            let count = queries.len() as u64;
            let [compared] = alternate(options.rounds(), count, || told.during(ask), ask);
            compared
        };
        rows::print(row, "4096 askew", (0..options.runs()).map(run).collect());
    }
}
