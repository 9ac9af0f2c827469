//! Rows P1, P2, P4 and P5: pinning and unpinning in bulk, against floors.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use pinfold::PageShift;
use pinfold::sync::Ordering;
use pinfold_arch::addr::index;
use pinfold_benches::floor::Floor;
use pinfold_benches::rounds::alternate;
use pinfold_benches::rows::{self, Options, Row};
use pinfold_benches::scene::{FRAMES, Layout, Scene};

const GIB: u64 = 1 << 18;
/// Words of a frame descriptor as kernels have it.
const USUAL: usize = 8;
/// Words of a frame in pinfold's own table.
const OWN: usize = 2;

/// A scene to compare on, and the rows that come out of it.
struct Case {
    page: PageShift,
    shuffled: bool,
    /// Words of a frame descriptor of the floor.
    stride: usize,
    pin: Row,
    unpin: Row,
}

const fn row(id: &'static str, what: &'static str, goal: Option<(f64, f64)>) -> Row {
    let (goal, stretch) = match goal {
        Some((goal, stretch)) => (Some(goal), Some(stretch)),
        None => (None, None),
    };
    Row { id, what, goal, stretch }
}

const CASES: [Case; 5] = [
    Case {
        page: PageShift::SIZE_4K,
        shuffled: false,
        stride: USUAL,
        pin: row("P1", "pin 4K in order", Some((1.5, 1.2))),
        unpin: row("P4", "unpin 4K in order", Some((1.3, 1.1))),
    },
    Case {
        page: PageShift::SIZE_4K,
        shuffled: false,
        stride: OWN,
        pin: row("P1", "the same, floor of 16-byte frames", None),
        unpin: row("P4", "the same, floor of 16-byte frames", None),
    },
    Case {
        page: PageShift::SIZE_4K,
        shuffled: true,
        stride: USUAL,
        pin: row("P2", "pin 4K in random order", Some((1.6, 1.3))),
        unpin: row("P4", "unpin 4K in random order", None),
    },
    Case {
        page: PageShift::SIZE_2M,
        shuffled: false,
        stride: USUAL,
        pin: row("P5", "pin 2M in order", Some((2.0, 1.2))),
        unpin: row("P4", "unpin 2M in order", None),
    },
    Case {
        page: PageShift::SIZE_2M,
        shuffled: true,
        stride: USUAL,
        pin: row("P5", "pin 2M in random order", None),
        unpin: row("P4", "unpin 2M in random order", None),
    },
];

fn main() -> ExitCode {
    let about = "Pins and unpins in bulk, against the least memory traffic for the same result.";
    let options = match Options::parse(about, &["P1", "P2", "P4", "P5"]) {
        Ok(options) => options,
        Err(code) => return code,
    };
    rows::head(&options, "page of the size named");
    let sizes: &[(u64, &str)] =
        if options.quick { &[(GIB / 16, "64 MiB")] } else { &[(GIB, "1 GiB"), (4 * GIB, "4 GiB")] };
    for case in &CASES {
        for (pages, size) in sizes {
            run(&options, case, *pages, size);
        }
    }
    ExitCode::SUCCESS
}

fn run(options: &Options, case: &Case, pages: u64, size: &str) {
    if !options.wants(case.pin.id) && !options.wants(case.unpin.id) {
        return;
    }
    let layout = Layout { pages, page: case.page, shuffled: case.shuffled };
    let scene = Scene::new(layout);
    scene.check();
    let entries = layout.folios();
    let floor = Floor::new(FRAMES.raw(), index(pages), case.stride, index(entries));
    check_floor(&scene, &floor, entries);

    let (mut pins, mut unpins) = (Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        let [pin, unpin] = alternate(
            options.rounds(),
            entries,
            || [timed(|| _ = scene.pin()), timed(|| scene.unpin())],
            || [timed(|| floor.pin(scene.leaves())), timed(|| floor.unpin())],
        );
        pins.push(pin);
        unpins.push(unpin);
    }
    if options.wants(case.pin.id) {
        rows::print(&case.pin, size, pins);
    }
    if options.wants(case.unpin.id) {
        rows::print(&case.unpin, size, unpins);
    }
}

/// The floor does what it says: as many counts as entries, and the same addresses as the engine.
fn check_floor(scene: &Scene, floor: &Floor, entries: u64) {
    floor.pin(scene.leaves());
    assert_eq!(floor.counted(), entries);
    scene.pin();
    let step = scene.range().pages().raw() / entries * 4096;
    for (at, slot) in (0..entries).zip(floor.slots()).step_by(89) {
        let va = scene.range().start().checked_add(at * step).expect("inside the range");
        let addr = scene.pins().lookup(va).expect("it is pinned");
        // Address bits of a 2 MiB entry begin higher, but the bits between are zero.
        assert_eq!(addr.raw(), slot.load(Ordering::Relaxed));
    }
    scene.unpin();
    floor.unpin();
    assert_eq!(floor.counted(), 0);
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
