//! Rows P6, P9 and B1: pinfold against itself, with larger folios, with two threads, with pauses.

use std::cell::Cell;
use std::process::ExitCode;

use pinfold::host::{Flow, Progress, Wait};
use pinfold::{AddrRange, Dirtied, Engine, PageCount, PageShift, PinRequest, PinTable};
use pinfold_arch::addr::index;
use pinfold_benches::floor::Floor;
use pinfold_benches::memory::Flat;
use pinfold_benches::rounds::{alternate, timed, timed_together};
use pinfold_benches::rows::{self, Goal, Options, Row};
use pinfold_benches::scene::{BASE, FRAMES, Layout, Scene};

const GIB: u64 = 1 << 18;
/// Folios of row P6: 64 GiB of the largest.
const FOLIOS: u64 = 64;
/// The bound of row B1 that pauses are counted with.
const BOUND: u64 = 512;

fn main() -> ExitCode {
    let about = "Compares pinfold with itself: larger folios, two threads, pauses.";
    let options = match Options::parse(about, &["P6", "P9", "B1"]) {
        Ok(options) => options,
        Err(code) => return code,
    };
    rows::head(&options, "folio (P6) or page");
    if options.wants("P6") {
        folio_sizes(&options);
    }
    if options.wants("P9") {
        two_threads(&options);
    }
    if options.wants("B1") {
        pauses(&options);
    }
    ExitCode::SUCCESS
}

/// P6: as many folios of 1 GiB as of 2 MiB.
fn folio_sizes(options: &Options) {
    let folios = if options.quick { 2 } else { FOLIOS };
    let scene = |page: PageShift| {
        let pages = folios * page.pages(BASE).raw();
        let scene = Scene::new(Layout { pages, page, mapped: page, shuffled: false });
        scene.check();
        scene
    };
    let (huge, large) = (scene(PageShift::SIZE_1G), scene(PageShift::SIZE_2M));
    let (mut pins, mut unpins) = (Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        let both = |scene: &Scene| [timed(|| _ = scene.pin()), timed(|| scene.unpin())];
        let [pin, unpin] = alternate(options.rounds(), folios, || both(&huge), || both(&large));
        pins.push(pin);
        unpins.push(unpin);
    }
    let (goal, size) = (Goal::AtMost(1.5, 1.1), format!("{folios} folios"));
    rows::print(&Row { id: "P6", what: "pin 1G / pin 2M", goal }, &size, pins);
    let goal = Goal::Report;
    rows::print(&Row { id: "P6", what: "unpin 1G / unpin 2M", goal }, &size, unpins);
}

/// P9: one thread pins all, two threads pin half each.
fn two_threads(options: &Options) {
    let (pages, size) = if options.quick { (GIB / 16, "64 MiB") } else { (GIB, "1 GiB") };
    let scene = Scene::new(Layout { pages, page: BASE, mapped: BASE, shuffled: false });
    scene.check();
    let (engine, space, request) = (scene.engine(), scene.space(), scene.request());
    let pin = |range: AddrRange, table: &PinTable<'_>| {
        let request = PinRequest { range, ..request };
        engine.pin(space, table, &request).expect("it can be pinned");
    };
    let half = PageCount::new(pages / 2);
    let first = scene.range().take(half).expect("half of it");
    let second = scene.range().skip(half).expect("the other half");
    let words =
        [first, second].map(|range| Flat::new(PinTable::words_for(&range, BASE).expect("a size")));
    let [one, other] = words.each_ref().map(|words| PinTable::new(words.words()).expect("room"));
    let unpin = |table| _ = engine.unpin(table, Dirtied::No).expect("it is pinned");

    let floor = Floor::new(FRAMES.raw(), index(pages), 8, index(pages));
    let [lane, next] = floor.lane().halves();
    let (entries, more) = scene.leaves().split_at(index(pages / 2));

    let (mut pins, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        let [pinned] = alternate(
            options.rounds(),
            pages,
            || {
                let all = timed(|| _ = scene.pin());
                scene.unpin();
                [all]
            },
            || {
                let all = timed_together(|| pin(first, &one), || pin(second, &other));
                unpin(&one);
                unpin(&other);
                [all]
            },
        );
        pins.push(pinned);
        let [counted] = alternate(
            options.rounds(),
            pages,
            || [timed(|| floor.lane().pin(scene.leaves()))],
            || [timed_together(|| lane.pin(entries), || next.pin(more))],
        );
        floors.push(counted);
    }
    let goal = Goal::AtLeast(1.8, 1.95);
    rows::print(&Row { id: "P9", what: "pin, one thread / two", goal }, size, pins);
    let goal = Goal::Report;
    rows::print(&Row { id: "P9", what: "the floor, one thread / two", goal }, size, floors);
}

/// A bound, and the most that was done between two pauses.
#[derive(Debug)]
struct Watched {
    step: u64,
    done: Cell<u64>,
    most: Cell<u64>,
    pauses: Cell<u64>,
}

impl Watched {
    fn new(step: u64) -> Self {
        let zero = Cell::default;
        Self { step, done: zero(), most: zero(), pauses: zero() }
    }
}

impl Wait for &Watched {
    fn step(&self) -> u64 {
        self.step
    }
    fn pause(&self, progress: Progress) -> Flow {
        let done = progress.done.raw();
        // Giving back begins at nothing again.
        let step = done.checked_sub(self.done.replace(done)).unwrap_or(done);
        self.most.set(self.most.get().max(step));
        self.pauses.set(self.pauses.get() + 1);
        Flow::Continue
    }
}

/// B1: the longest step, and what the pauses cost.
fn pauses(options: &Options) {
    let (pages, size) = if options.quick { (GIB / 16, "64 MiB") } else { (GIB, "1 GiB") };
    let scene = Scene::new(Layout { pages, page: BASE, mapped: BASE, shuffled: false });
    scene.check();
    let both = |wait: &Watched| {
        let engine = Engine::new(scene.host(wait), scene.frame_table());
        let pin = || _ = engine.pin(scene.space(), &scene.pins(), &scene.request());
        let pin = timed(pin);
        [pin, timed(|| _ = engine.unpin(&scene.pins(), Dirtied::No).expect("it is pinned"))]
    };
    for bound in [1, BOUND] {
        let wait = Watched::new(bound);
        both(&wait);
        let (most, count) = (wait.most.get(), wait.pauses.get());
        println!("B1   bound of {bound} entries, {size}: {most} at most between {count} pauses");
        assert!(most <= bound, "more than the bound");
    }
    for (bound, goal) in [(4096, Goal::AtMost(1.02, 1.01)), (BOUND, Goal::Report)] {
        let (often, never) = (Watched::new(bound), Watched::new(u64::MAX));
        let (mut pins, mut unpins) = (Vec::new(), Vec::new());
        for _ in 0..options.runs() {
            let [pin, unpin] = alternate(options.rounds(), pages, || both(&often), || both(&never));
            pins.push(pin);
            unpins.push(unpin);
        }
        let what = if bound == BOUND { "pin, bound 512 / none" } else { "pin, bound 4096 / none" };
        rows::print(&Row { id: "B1", what, goal }, size, pins);
        let what =
            if bound == BOUND { "unpin, bound 512 / none" } else { "unpin, bound 4096 / none" };
        rows::print(&Row { id: "B1", what, goal }, size, unpins);
    }
}
