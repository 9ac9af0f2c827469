//! The guest's memory before and after as an SVG picture: one file that needs nothing else.
//!
//! Above, the host's memory, frame by frame; below, the guest's, by its own addresses; and the
//! counts of both. However much memory there is, it is drawn in a bounded number of cells, each by
//! what most of it is; the counts are exact.

use pinfold::PageShift;

use crate::output::size;
use crate::picture::{Look, Memory, PartOfMemory};
use crate::scene::Asked;
use crate::stage::Part;
use crate::survey::{Fate, Lies, Survey};

use canvas::{Boxes, Canvas, escape, merged};

mod canvas;
mod strips;

/// Cells in a row of the host's memory.
pub(crate) const COLUMNS: u64 = 128;

const WIDTH: u64 = 1400;
const MARGIN: u64 = 40;
/// Room for an address left of the host's memory.
const LABEL: u64 = 62;
/// A cell of the host's memory.
const CELL: (f64, u64) = (4.5, 12);
/// Where the right one of two columns begins.
const RIGHT: u64 = 722;

/// Colours on white and on dark, and a pattern beside the colour for what was refused.
const STYLE: &str = r##"<style>
text{font:12px system-ui,"DejaVu Sans",sans-serif}
.h1{font-size:26px;font-weight:700}.h2{font-size:16px;font-weight:700}
.small{font-size:10px}.num,.end{text-anchor:end}.mid{text-anchor:middle}
.num{font-variant-numeric:tabular-nums}
path,rect{shape-rendering:crispEdges}
.bg{fill:#fff}.ink{fill:#17202a}.dim{fill:#5d6975}
.line{stroke:#b9c1c9;fill:none}
.free{fill:#e9edf1}.kernel{fill:#59636e}.others{fill:#a3adb8}.table{fill:#1a936f}
.ordinary{fill:#2b78c5}.cma{fill:#ee9b00}.movable{fill:#b5489b}.device{fill:#8a6642}
.zero{fill:#7fc8c2}.absent{fill:#e9edf1}
.stayed{fill:#8795a3}.moved{fill:#0d8f83}.copied{fill:#8fb339}.made{fill:#a995e0}
.bar{fill:#4f7ea8}.base{fill-opacity:.55}
.refused{fill:url(#stripes)}
@media (prefers-color-scheme:dark){
.bg{fill:#12171d}.ink{fill:#e8ecf0}.dim{fill:#9aa7b4}.line{stroke:#46525e}
.free,.absent{fill:#28313a}.kernel{fill:#8d99a6}.others{fill:#5a6672}
.ordinary{fill:#4b97e0}.bar{fill:#6d9dc7}}
</style>
<defs><pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="6" height="6" fill="#f3b4ae"/><rect width="3" height="6" fill="#c92a2a"/></pattern></defs>"##;

impl Lies {
    fn class(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::Cma => "cma",
            Self::Movable => "movable",
            Self::Device => "device",
            Self::Zero => "zero",
            Self::Absent => "absent",
            Self::Refused => "refused",
        }
    }
}

impl Look {
    /// Pages of the guest have the colour of where they lie.
    fn class(self, lies: Lies) -> String {
        match self {
            Self::Free => "free".into(),
            Self::Kernel => "kernel".into(),
            Self::Others => "others".into(),
            Self::GuestBase => format!("{} base", lies.class()),
            Self::GuestHuge => lies.class().into(),
            Self::Table => "table".into(),
        }
    }
}

/// What is drawn.
pub(crate) struct Drawing<'a> {
    /// Where the guest is from.
    pub(crate) title: &'a str,
    pub(crate) parts: &'a [Part],
    pub(crate) survey: &'a Survey,
    /// What was pinned, with its tables.
    pub(crate) asked: &'a [Asked<'a>],
    /// The host's memory.
    pub(crate) before: &'a Memory,
    /// The same with the guest pinned.
    pub(crate) after: &'a Memory,
}

impl Drawing<'_> {
    /// The whole file.
    pub(crate) fn svg(&self) -> String {
        let mut canvas = Canvas::default();
        canvas.text("ink h1", MARGIN, 56, "A guest’s memory, pinned for a device");
        canvas.text("dim", MARGIN, 80, &self.summary());
        let left = host(&mut canvas, MARGIN, "Host memory before", self.before);
        let right = host(&mut canvas, RIGHT, "Host memory with the guest pinned", self.after);
        let bottom = strips::draw(&mut canvas, self, left.max(right) + 36);
        let height = self.legend(&mut canvas, bottom + 34) + MARGIN;
        let (title, summary) = (escape(self.title), escape(&self.summary()));
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-labelledby="title desc">
<title id="title">A guest’s memory, pinned for a device: {title}</title>
<desc id="desc">{summary} Above, the host’s memory before and after, in rows of frames; below, the guest’s memory by its own addresses, and counts of pages.</desc>
{STYLE}
<rect class="bg" width="{WIDTH}" height="{height}" rx="12"/>
{}</svg>
"#,
            canvas.finish()
        )
    }

    fn summary(&self) -> String {
        let pages = self.survey.0.len() as u64;
        let fates = self.survey.fates().into_iter();
        let fates: Vec<String> = fates.map(|(fate, n)| format!("{n} {}", fate.name())).collect();
        format!(
            "{}. {} of guest, {pages} pages: {}.",
            self.title,
            size(pages, self.before.base),
            fates.join(", ")
        )
    }

    /// Colours, and how many pages have which. Returns where it ends.
    fn legend(&self, canvas: &mut Canvas, top: u64) -> u64 {
        let row = |line: u64| top + 24 + 20 * line;
        let swatch = |canvas: &mut Canvas, class: &str, x: u64, y: u64, name: &str| {
            canvas.rect(class, x, y - 11, 18, 13);
            canvas.text("ink", x + 26, y, name);
        };
        let x = MARGIN;
        canvas.text("ink h2", x, top, "The guest’s pages lie in");
        canvas.text("dim end", x + 280, top, "before");
        canvas.text("dim end", x + 360, top, "pinned");
        let places = self.survey.places();
        for (line, (lies, before, after)) in (0..).zip(&places) {
            let y = row(line);
            swatch(canvas, lies.class(), x, y, lies.name());
            canvas.value(&format!("before-{}", lies.name()), x + 280, y, *before);
            canvas.value(&format!("pinned-{}", lies.name()), x + 360, y, *after);
        }
        let x = MARGIN + 410;
        canvas.text("ink h2", x, top, "What became of them");
        let fates = self.survey.fates();
        for (line, (fate, pages)) in (0..).zip(&fates) {
            swatch(canvas, fate.class(), x, row(line), fate.name());
            canvas.value(&format!("fate-{}", fate.name()), x + 190, row(line), *pages);
        }
        let x = MARGIN + 660;
        canvas.text("ink h2", x, top, "Pinned in folios of");
        let (orders, base) = (self.survey.orders(), self.before.base);
        for (line, (order, pages)) in (0..).zip(&orders) {
            canvas.text("ink", x, row(line), &size(1 << order, base));
            canvas.value(&format!("folio-{}", size(1 << order, base)), x + 160, row(line), *pages);
        }
        let x = MARGIN + 880;
        canvas.text("ink h2", x, top, "Pin table");
        let words: usize = self.asked.iter().map(|(_, table)| table.used_words()).sum();
        let runs: usize = self.asked.iter().map(|(_, table)| table.runs().count()).sum();
        for (line, name, count) in [(0, "words", words), (1, "runs", runs)] {
            canvas.text("ink", x, row(line), name);
            canvas.value(&format!("table-{name}"), x + 130, row(line), count as u64);
        }
        let x = MARGIN + 1070;
        canvas.text("ink h2", x, top, "Host memory");
        let drawn = |look: &Look| self.before.shows(*look) || self.after.shows(*look);
        let looks: Vec<Look> = Look::ALL.into_iter().filter(drawn).collect();
        for (line, look) in (0..).zip(&looks) {
            swatch(canvas, &look.class(Lies::Ordinary), x, row(line), look.name());
        }
        let note = row(looks.len() as u64);
        canvas.text("dim small", x, note, "guest: in the colour of where it lies");
        let lines = [places.len(), fates.len(), orders.len(), looks.len() + 1, 2];
        row(lines.into_iter().max().unwrap_or(0) as u64)
    }
}

impl Fate {
    fn class(self) -> &'static str {
        self.name()
    }
}

/// Memory of the host, row by row. Returns where it ends.
fn host(canvas: &mut Canvas, x: u64, title: &str, memory: &Memory) -> u64 {
    canvas.text("ink h2", x, 118, title);
    let size = |pages| size(pages, memory.base);
    let (chunk, row) = (size(memory.chunk), size(memory.chunk * COLUMNS));
    let unit = format!("a row {row}, a cell {chunk}: what most of it is");
    canvas.text("dim end", x + LABEL + 576, 118, &unit);
    let mut y = 130;
    for part in &memory.parts {
        y = zone(canvas, x, y, part, memory.base) + 8;
    }
    y
}

/// A zone or area. Returns where it ends.
fn zone(canvas: &mut Canvas, x: u64, top: u64, part: &PartOfMemory, base: PageShift) -> u64 {
    let size = |pages| size(pages, base);
    let (left, width, height) = (x + LABEL, 576, part.rows.len() as u64 * CELL.1);
    let (pages, frame) = (size(part.frames.pages.raw()), part.frames.start);
    let title = format!("{}, {pages} from frame {frame}", part.name);
    canvas.text("dim", left, top + 12, &title);
    if part.guest > 0 {
        let guest = format!("{} of the guest", size(part.guest));
        canvas.text("ink end", left + width, top + 12, &guest);
    }
    let top = top + 18;
    canvas.rect(part.lies.class(), left - 6, top, 3, height - 1);
    for (line, row) in (0..).zip(&part.rows) {
        canvas.text("dim small end", left - 12, top + line * CELL.1 + 9, &size(row.start));
    }
    canvas.open((left, top), (CELL.0, CELL.1 as f64), &title);
    for look in Look::ALL {
        let mut boxes = Boxes::default();
        for (line, row) in (0u32..).zip(&part.rows) {
            let runs = merged(row.chunks.iter().copied()).into_iter();
            for (_, at, length) in runs.filter(|(cell, ..)| *cell == Some(look)) {
                boxes.add(at, f64::from(line), length, 0.92);
            }
        }
        boxes.draw(canvas, &look.class(part.lies));
    }
    canvas.close();
    top + height
}
