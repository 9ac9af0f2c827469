//! Rows P1, P2, P4, P5 and P7: pinning and unpinning in bulk, against floors.

use std::process::ExitCode;

use pinfold::PageShift;
use pinfold::sync::Ordering;
use pinfold_arch::addr::index;
use pinfold_benches::floor::Floor;
use pinfold_benches::rounds::{alternate, timed};
use pinfold_benches::rows::{self, Goal, Options, Row};
use pinfold_benches::scene::{FRAMES, Layout, Scene};

const GIB: u64 = 1 << 18;
/// Words of a frame descriptor as kernels have it.
const USUAL: usize = 8;
/// Words of a frame in pinfold's own table.
const OWN: usize = 2;

/// A scene to compare on, and the rows that come out of it.
struct Case {
    page: PageShift,
    mapped: PageShift,
    shuffled: bool,
    /// Words of a frame descriptor of the floor.
    stride: usize,
    pin: Row,
    unpin: Row,
}

const fn row(id: &'static str, what: &'static str, goal: Goal) -> Row {
    Row { id, what, goal }
}

const fn case(page: PageShift, mapped: PageShift, shuffled: bool, pin: Row, unpin: Row) -> Case {
    Case { page, mapped, shuffled, stride: USUAL, pin, unpin }
}

const SMALL: PageShift = PageShift::SIZE_4K;
const LARGE: PageShift = PageShift::SIZE_2M;

const CASES: [Case; 7] = [
    case(
        SMALL,
        SMALL,
        false,
        row("P1", "pin 4K in order", Goal::AtMost(1.5, 1.2)),
        row("P4", "unpin 4K in order", Goal::AtMost(1.3, 1.1)),
    ),
    Case {
        stride: OWN,
        ..case(
            SMALL,
            SMALL,
            false,
            row("P1", "the same, floor of 16-byte frames", Goal::Report),
            row("P4", "the same, floor of 16-byte frames", Goal::Report),
        )
    },
    case(
        SMALL,
        SMALL,
        true,
        row("P2", "pin 4K in random order", Goal::AtMost(1.6, 1.3)),
        row("P4", "unpin 4K in random order", Goal::Report),
    ),
    case(
        LARGE,
        LARGE,
        false,
        row("P5", "pin 2M in order", Goal::AtMost(2.0, 1.2)),
        row("P4", "unpin 2M in order", Goal::Report),
    ),
    case(
        LARGE,
        LARGE,
        true,
        row("P5", "pin 2M in random order", Goal::Report),
        row("P4", "unpin 2M in random order", Goal::Report),
    ),
    case(
        LARGE,
        SMALL,
        false,
        row("P7", "pin 2M mapped in 4K, in order", Goal::AtMost(3.5, 2.0)),
        row("P4", "unpin 2M mapped in 4K", Goal::Report),
    ),
    case(
        LARGE,
        SMALL,
        true,
        row("P7", "pin 2M mapped in 4K, in random order", Goal::Report),
        row("P4", "unpin 2M mapped in 4K, random", Goal::Report),
    ),
];

fn main() -> ExitCode {
    let about = "Pins and unpins in bulk, against the least memory traffic for the same result.";
    let options = match Options::parse(about, &["P1", "P2", "P4", "P5", "P7"]) {
        Ok(options) => options,
        Err(code) => return code,
    };
    rows::head(&options, "entry of the size named");
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
    let layout = Layout { pages, page: case.page, mapped: case.mapped, shuffled: case.shuffled };
    let scene = Scene::new(layout);
    scene.check();
    let entries = layout.entries();
    let floor = Floor::new(FRAMES.raw(), index(pages), case.stride, index(layout.folios()));
    let each = index(entries / layout.folios());
    let floor_pin = || match each {
        1 => floor.lane().pin(scene.leaves()),
        each => assert_eq!(floor.lane().pin_folios(scene.leaves(), each), 0),
    };
    let floor_unpin = || floor.lane().unpin();
    check_floor(&scene, &floor, layout, floor_pin, floor_unpin);

    let (mut pins, mut unpins) = (Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        let [pin, unpin] = alternate(
            options.rounds(),
            entries,
            || [timed(|| _ = scene.pin()), timed(|| scene.unpin())],
            || [timed(floor_pin), timed(floor_unpin)],
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

/// The floor does what it says: as many counts as folios, and the same addresses as the engine.
fn check_floor(scene: &Scene, floor: &Floor, layout: Layout, pin: impl Fn(), unpin: impl Fn()) {
    pin();
    assert_eq!(floor.counted(), layout.folios());
    scene.pin();
    for (at, slot) in (0..layout.folios()).zip(floor.slots()).step_by(89) {
        let va = scene.range().start().checked_add(at << layout.page.raw());
        let addr = scene.pins().lookup(va.expect("inside the range")).expect("it is pinned");
        // Address bits of a 2 MiB entry begin higher, but the bits between are zero.
        assert_eq!(addr.raw(), slot.load(Ordering::Relaxed));
    }
    scene.unpin();
    unpin();
    assert_eq!(floor.counted(), 0);
}
