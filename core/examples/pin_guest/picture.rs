//! Physical memory as a picture: a character for each chunk of frames.

use std::collections::BTreeSet;

use pinfold::folio::FolioKind;
use pinfold::{Order, PageCount, Pfn};
use pinfold_sim::{FrameRange, Machine, Place};

use crate::output::{Output, size};

/// Characters in a row.
const COLUMNS: u64 = 64;
/// Rows, at most, not counting those that a border cuts.
const ROWS: u64 = 32;

/// What a frame may be, from the least to the most telling, with its character and its colour.
const LOOKS: [(char, u8, &str); 6] = [
    ('.', 2, "free"),
    ('k', 2, "kernel or reserved"),
    ('u', 34, "user memory of others"),
    ('g', 32, "guest in base pages"),
    ('G', 92, "guest in huge pages"),
    ('H', 93, "the hash page table"),
];

/// Draws the machine's memory.
pub(crate) fn draw(
    out: &mut Output,
    machine: &Machine<'_>,
    guest: &BTreeSet<u64>,
    table: Option<&FrameRange>,
) {
    let frames = machine.ram().frames();
    let per_row = (frames.end().raw() / ROWS).max(COLUMNS).next_power_of_two();
    let chunk = per_row / COLUMNS;
    for (name, part) in parts(machine) {
        let used = part.iter().filter(|pfn| guest.contains(&pfn.raw())).count() as u64;
        let title = format!("-- {name}, {}", size(part.pages.raw()));
        let title = if used > 0 { format!("{title}, {} of the guest", size(used)) } else { title };
        let rule = "-".repeat(74usize.saturating_sub(title.len()));
        out.line(format!("  {title} {rule}"));
        let mut row = part.start.raw() / per_row * per_row;
        while row < part.end().raw() {
            let mut line = format!("  {:>8} |", size(row));
            for column in 0..COLUMNS {
                let chunk = FrameRange::new(Pfn::new(row + column * chunk), PageCount::new(chunk));
                let look = look(machine, guest, table, &part, &chunk);
                line += &look.map_or(" ".into(), |(char, colour, _)| out.paint(colour, char));
            }
            out.line(format!("{line}|"));
            row += per_row;
        }
    }
    let legend = LOOKS.map(|(char, _, text)| format!("{char} {text}"));
    out.line(format!("  {} each, by what most of it is: {}", size(chunk), legend[..2].join(" | ")));
    out.line(format!("  {}", legend[2..].join(" | ")));
}

/// Zones, cut at the borders of CMA areas.
fn parts(machine: &Machine<'_>) -> Vec<(String, FrameRange)> {
    let mut parts: Vec<(String, FrameRange)> = Vec::new();
    for zone in machine.zones() {
        let name = zone.zone.name;
        for pfn in zone.frames.iter() {
            let cma = machine.place(pfn) == Some(Place::Cma);
            let name = if cma { format!("{name}: CMA area") } else { format!("zone {name}") };
            match parts.last_mut() {
                Some((last, part)) if *last == name => {
                    part.pages = PageCount::new(part.pages.raw() + 1);
                }
                _ => parts.push((name, FrameRange::new(pfn, PageCount::ONE))),
            }
        }
    }
    parts
}

/// What most frames of a chunk are, of those in this part; `None` if there are none.
fn look(
    machine: &Machine<'_>,
    guest: &BTreeSet<u64>,
    table: Option<&FrameRange>,
    part: &FrameRange,
    chunk: &FrameRange,
) -> Option<(char, u8, &'static str)> {
    let mut votes = [0u32; LOOKS.len()];
    for pfn in chunk.iter().filter(|pfn| part.contains(*pfn)) {
        let folio = machine.frames().folio(pfn)?;
        let look = match folio.info().kind {
            _ if table.is_some_and(|table| table.contains(pfn)) => 5,
            _ if guest.contains(&pfn.raw()) => 3 + usize::from(folio.order() > Order::ZERO),
            FolioKind::Free => 0,
            FolioKind::Kernel | FolioKind::NoMemory => 1,
            _ => 2,
        };
        votes[look] += 1;
    }
    let most = votes.iter().copied().max().filter(|most| *most > 0)?;
    let at = votes.iter().rposition(|votes| *votes == most)?;
    Some(LOOKS[at])
}
