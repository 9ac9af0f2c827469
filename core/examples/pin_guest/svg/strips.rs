//! The guest's memory by its own addresses, a strip for each thing that there is to know.

use pinfold::PageShift;

use super::canvas::{Boxes, Canvas, merged};
use super::{Drawing, Fate, Lies, MARGIN, WIDTH};
use crate::output::size;

/// Cells in a strip, at most.
const CELLS: usize = 595;
/// Where strips begin, and how long and high they are; behind them is room for names.
const LEFT: u64 = MARGIN + 130;
const LENGTH: u64 = WIDTH - MARGIN - 40 - LEFT;
const HEIGHT: u64 = 28;
/// From one strip to the next.
const STEP: u64 = 40;
/// Names of parts that are shown, and characters of a name.
const NAMES: usize = 40;
const CHARACTERS: usize = 18;

/// Draws the strips. Returns where they end.
pub(super) fn draw(canvas: &mut Canvas, drawing: &Drawing<'_>, top: u64) -> u64 {
    let pages = &drawing.survey.0;
    let cells = pages.len().clamp(1, CELLS);
    let cell = |at: usize| &pages[at * pages.len() / cells..(at + 1) * pages.len() / cells];
    canvas.text("ink h2", MARGIN, top, "The guest’s memory by its own addresses");
    let first = top + 116;
    names(canvas, drawing, first);

    let place = |of: fn(&crate::survey::Surveyed) -> Lies| {
        (0..cells).map(move |at| most(Lies::ALL, cell(at).iter().map(of)).class())
    };
    let y = |line| first + line * STEP;
    strip(canvas, y(0), "lay before in", place(|page| page.before), cells);
    strip(canvas, y(1), "lies pinned in", place(|page| page.after), cells);
    let fate = (0..cells).map(|at| most(Fate::ALL, cell(at).iter().map(|page| page.fate)).class());
    strip(canvas, y(2), "what became of it", fate, cells);

    let orders: Vec<Option<u32>> = pages.iter().map(|page| page.order.map(u32::from)).collect();
    let base = drawing.before.base;
    bars(canvas, y(3), "size of folios", &orders, cells, base);
    bars(canvas, y(4), "runs of the table", &runs(drawing), cells, base);
    axis(canvas, drawing, y(4) + HEIGHT);
    y(4) + HEIGHT + 30
}

/// What most of a cell is; of several, the last one.
fn most<T: PartialEq + Copy, const N: usize>(all: [T; N], cell: impl Iterator<Item = T>) -> T {
    let mut votes = [0u64; N];
    for page in cell {
        for (vote, one) in votes.iter_mut().zip(&all) {
            *vote += u64::from(*one == page);
        }
    }
    let (_, most) = votes.iter().zip(all).max_by_key(|(votes, _)| **votes).unwrap_or((&0, all[0]));
    most
}

fn label(canvas: &mut Canvas, y: u64, name: &str) {
    canvas.text("ink end", LEFT - 14, y + HEIGHT / 2 + 4, name);
}

/// A strip of colours.
fn strip(
    canvas: &mut Canvas,
    y: u64,
    name: &str,
    classes: impl Iterator<Item = &'static str>,
    cells: usize,
) {
    label(canvas, y, name);
    let runs = merged(classes);
    let mut used: Vec<&str> = runs.iter().map(|(class, ..)| *class).collect();
    used.sort_unstable();
    used.dedup();
    canvas.open((LEFT, y), (LENGTH as f64 / cells as f64, 1.0), name);
    for class in used {
        let mut boxes = Boxes::default();
        for (_, at, length) in runs.iter().filter(|(other, ..)| *other == class) {
            boxes.add(*at, 0.0, *length, HEIGHT as f64);
        }
        boxes.draw(canvas, class);
    }
    canvas.close();
}

/// A strip of bars: the larger the block in which a page lies, the higher.
fn bars(
    canvas: &mut Canvas,
    y: u64,
    name: &str,
    orders: &[Option<u32>],
    cells: usize,
    base: PageShift,
) {
    label(canvas, y, name);
    let largest = orders.iter().flatten().copied().max().unwrap_or(0);
    let cell = |at: usize| &orders[at * orders.len() / cells..(at + 1) * orders.len() / cells];
    canvas.text("dim small", LEFT + LENGTH + 4, y + 9, &size(1 << largest, base));
    canvas.text("dim small", LEFT + LENGTH + 4, y + HEIGHT, &size(1, base));
    canvas.open((LEFT, y), (LENGTH as f64 / cells as f64, 1.0), name);
    let mut boxes = Boxes::default();
    for (order, at, length) in merged((0..cells).map(|at| cell(at).iter().flatten().max())) {
        if let Some(order) = order {
            let height = HEIGHT as f64 * f64::from(order + 1) / f64::from(largest + 1);
            boxes.add(at, HEIGHT as f64 - height, length, height);
        }
    }
    boxes.draw(canvas, "bar");
    canvas.close();
}

/// For each page of the guest how long the table's run is in which it lies, as a power of two.
fn runs(drawing: &Drawing<'_>) -> Vec<Option<u32>> {
    let mut orders = vec![None; drawing.survey.0.len()];
    let Some(first) = drawing.parts.first().map(|part| part.range.start().raw()) else {
        return orders;
    };
    for run in drawing.asked.iter().flat_map(|(_, table)| table.runs()) {
        let from = (run.va.raw().saturating_sub(first) >> drawing.before.base.raw()) as usize;
        let pages = run.pages.raw();
        for order in orders.iter_mut().skip(from).take(pages as usize) {
            *order = Some(pages.ilog2());
        }
    }
    orders
}

/// The parts of the guest, above the strips, and a line where each begins.
fn names(canvas: &mut Canvas, drawing: &Drawing<'_>, first: u64) {
    let all = drawing.survey.0.len().max(1) as u64;
    let (mut before, mut free) = (0, LEFT);
    let end = first + 4 * STEP + HEIGHT;
    for part in drawing.parts.iter().take(NAMES) {
        let x = LEFT + before * LENGTH / all;
        before += part.range.pages().raw();
        // Names of small parts stand beside each other, with a line to where they belong.
        let shown = x.max(free);
        free = shown + 18;
        if shown > LEFT + LENGTH {
            break;
        }
        canvas.raw(&format!(
            r#"<path class="line" d="M{shown} {}L{x} {}V{end}"/>"#,
            first - 14,
            first - 4
        ));
        let name = super::escape(&shortened(&part.name));
        let (x, y) = (shown + 3, first - 17);
        canvas.raw(&format!(
            r#"<text class="ink" transform="translate({x} {y}) rotate(-50)">{name}</text>"#
        ));
    }
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// Addresses below the strips.
fn axis(canvas: &mut Canvas, drawing: &Drawing<'_>, y: u64) {
    const TICKS: u64 = 4;
    let Some(start) = drawing.parts.first().map(|part| part.range.start().raw()) else { return };
    let pages = drawing.survey.0.len() as u64;
    for tick in 0..=TICKS {
        let x = LEFT + LENGTH * tick / TICKS;
        canvas.raw(&format!(r#"<path class="line" d="M{x} {}v6"/>"#, y + 4));
        let class = match tick {
            0 => "dim",
            TICKS => "dim end",
            _ => "dim mid",
        };
        let address = start + ((pages * tick / TICKS) << drawing.before.base.raw());
        canvas.text(class, x, y + 24, &format!("{address:#x}"));
    }
}
