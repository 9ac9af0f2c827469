//! Physical memory, chunk by chunk, and as a picture for a terminal.

use std::collections::BTreeSet;

use pinfold::folio::FolioKind;
use pinfold::{Order, PageCount, PageShift, Pfn};
use pinfold_sim::{FrameRange, Place};

use crate::output::{Output, size};
use crate::stage::Machine;
use crate::survey::Lies;

/// Characters in a row.
const COLUMNS: u64 = 64;
/// Rows, at most, not counting those that a border cuts.
const ROWS: u64 = 32;

/// What a frame may be, from the least to the most telling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Look {
    Free,
    Kernel,
    Others,
    GuestBase,
    GuestHuge,
    Table,
}

impl Look {
    pub(crate) const ALL: [Self; 6] =
        [Self::Free, Self::Kernel, Self::Others, Self::GuestBase, Self::GuestHuge, Self::Table];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Kernel => "kernel or reserved",
            Self::Others => "user memory of others",
            Self::GuestBase => "guest in base pages",
            Self::GuestHuge => "guest in huge pages",
            Self::Table => "the hash page table",
        }
    }

    /// Its character and its colour.
    fn character(self) -> (char, u8) {
        match self {
            Self::Free => ('.', 2),
            Self::Kernel => ('k', 2),
            Self::Others => ('u', 34),
            Self::GuestBase => ('g', 32),
            Self::GuestHuge => ('G', 92),
            Self::Table => ('H', 93),
        }
    }
}

/// All memory of a machine, in rows of chunks; a chunk is what most of its frames are.
pub(crate) struct Memory {
    /// What a frame is in bytes.
    pub(crate) base: PageShift,
    /// Frames of a chunk.
    pub(crate) chunk: u64,
    pub(crate) parts: Vec<PartOfMemory>,
}

impl Memory {
    /// Whether any chunk looks like that.
    pub(crate) fn shows(&self, look: Look) -> bool {
        let mut rows = self.parts.iter().flat_map(|part| &part.rows);
        rows.any(|row| row.chunks.contains(&Some(look)))
    }
}

/// A zone, or a CMA area or what such areas leave of a zone.
pub(crate) struct PartOfMemory {
    pub(crate) name: String,
    pub(crate) frames: FrameRange,
    /// Where a page of it lies.
    pub(crate) lies: Lies,
    /// Frames of the guest.
    pub(crate) guest: u64,
    pub(crate) rows: Vec<Row>,
}

/// Chunks side by side, from `start` on; `None` outside the part.
pub(crate) struct Row {
    pub(crate) start: u64,
    pub(crate) chunks: Vec<Option<Look>>,
}

/// Looks at all memory; `columns` is a power of two.
pub(crate) fn memory(
    machine: &Machine<'_>,
    guest: &BTreeSet<u64>,
    table: Option<&FrameRange>,
    columns: u64,
) -> Memory {
    let frames = machine.ram().frames();
    let per_row = (frames.end().raw() / ROWS).max(columns).next_power_of_two();
    let chunk = per_row / columns;
    let parts = parts(machine).into_iter().map(|(name, frames)| {
        let used = guest.range(frames.start.raw()..frames.end().raw()).count() as u64;
        let first = frames.start.raw() / per_row * per_row;
        let row = |start: u64| {
            let chunk_at = |column: u64| {
                FrameRange::new(Pfn::new(start + column * chunk), PageCount::new(chunk))
            };
            let chunks =
                (0..columns).map(|column| look(machine, guest, table, &frames, &chunk_at(column)));
            Row { start, chunks: chunks.collect() }
        };
        let starts = (first..frames.end().raw()).step_by(per_row as usize);
        let lies = Lies::at(machine, frames.start);
        PartOfMemory { name, frames, lies, guest: used, rows: starts.map(row).collect() }
    });
    Memory { base: machine.ram().base(), chunk, parts: parts.collect() }
}

/// Draws the machine's memory.
pub(crate) fn draw(
    out: &mut Output,
    machine: &Machine<'_>,
    guest: &BTreeSet<u64>,
    table: Option<&FrameRange>,
) {
    let memory = memory(machine, guest, table, COLUMNS);
    for part in &memory.parts {
        let title = format!("-- {}, {}", part.name, size(part.frames.pages.raw(), memory.base));
        let used = part.guest;
        let title = match used {
            0 => title,
            _ => format!("{title}, {} of the guest", size(used, memory.base)),
        };
        let rule = "-".repeat(74usize.saturating_sub(title.len()));
        out.line(format!("  {title} {rule}"));
        for row in &part.rows {
            let mut line = format!("  {:>8} |", size(row.start, memory.base));
            for look in &row.chunks {
                let painted =
                    look.map(Look::character).map(|(char, colour)| out.paint(colour, char));
                line += painted.as_deref().unwrap_or(" ");
            }
            out.line(format!("{line}|"));
        }
    }
    let legend = Look::ALL.map(|look| format!("{} {}", look.character().0, look.name()));
    let chunk = size(memory.chunk, memory.base);
    out.line(format!("  {chunk} each, by what most of it is: {}", legend[..2].join(" | ")));
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

/// What most of a chunk is, as far as it lies in `part`; `None` if it does not.
fn look(
    machine: &Machine<'_>,
    guest: &BTreeSet<u64>,
    table: Option<&FrameRange>,
    part: &FrameRange,
    chunk: &FrameRange,
) -> Option<Look> {
    let mut votes = [0u32; Look::ALL.len()];
    for pfn in chunk.iter().filter(|pfn| part.contains(*pfn)) {
        let folio = machine.frames().folio(pfn)?;
        let huge = folio.order() > Order::ZERO;
        let look = match folio.info().kind {
            _ if table.is_some_and(|table| table.contains(pfn)) => Look::Table,
            _ if guest.contains(&pfn.raw()) && huge => Look::GuestHuge,
            _ if guest.contains(&pfn.raw()) => Look::GuestBase,
            FolioKind::Free => Look::Free,
            FolioKind::Kernel | FolioKind::NoMemory => Look::Kernel,
            _ => Look::Others,
        };
        votes[look as usize] += 1;
    }
    let most = votes.iter().copied().max().filter(|most| *most > 0)?;
    Look::ALL.into_iter().rev().find(|look| votes[*look as usize] == most)
}
