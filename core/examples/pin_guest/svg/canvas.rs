//! SVG, element by element.

use std::fmt::Write as _;

/// A drawing under way. Coordinates are pixels from the top left.
#[derive(Default)]
pub(super) struct Canvas(String);

impl Canvas {
    /// An element as it is written here.
    pub(super) fn raw(&mut self, element: &str) {
        self.0.push_str(element);
        self.0.push('\n');
    }

    pub(super) fn text(&mut self, class: &str, x: u64, y: u64, text: &str) {
        let text = escape(text);
        self.raw(&format!(r#"<text class="{class}" x="{x}" y="{y}">{text}</text>"#));
    }

    /// A text that can be found by its name, for whoever reads the drawing by machine.
    pub(super) fn value(&mut self, id: &str, x: u64, y: u64, value: u64) {
        let id = slug(id);
        self.raw(&format!(r#"<text class="ink num" id="{id}" x="{x}" y="{y}">{value}</text>"#));
    }

    pub(super) fn rect(&mut self, class: &str, x: u64, y: u64, width: u64, height: u64) {
        self.raw(&format!(
            r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}"/>"#
        ));
    }

    /// Opens a group that has its own unit of length, with a title that a pointer shows.
    pub(super) fn open(&mut self, (x, y): (u64, u64), (width, height): (f64, f64), title: &str) {
        let (title, width, height) = (escape(title), short(width), short(height));
        self.raw(&format!(
            r#"<g transform="translate({x} {y}) scale({width} {height})"><title>{title}</title>"#
        ));
    }

    pub(super) fn close(&mut self) {
        self.raw("</g>");
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Boxes of one colour, as one element.
#[derive(Default)]
pub(super) struct Boxes(String);

impl Boxes {
    pub(super) fn add(&mut self, x: usize, y: f64, width: usize, height: f64) {
        // Writing to a String does not fail.
        let _ = write!(self.0, "M{x} {}h{width}v{}h-{width}z", short(y), short(height));
    }

    pub(super) fn draw(&self, canvas: &mut Canvas, class: &str) {
        if !self.0.is_empty() {
            canvas.raw(&format!(r#"<path class="{class}" d="{}"/>"#, self.0));
        }
    }
}

/// A number with as few characters as it needs.
fn short(number: f64) -> String {
    let text = format!("{number:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What follows itself, once, with where it begins and how often it comes.
pub(super) fn merged<T: PartialEq>(cells: impl IntoIterator<Item = T>) -> Vec<(T, usize, usize)> {
    let mut runs: Vec<(T, usize, usize)> = Vec::new();
    for (at, cell) in cells.into_iter().enumerate() {
        match runs.last_mut() {
            Some((last, _, length)) if *last == cell => *length += 1,
            _ => runs.push((cell, at, 1)),
        }
    }
    runs
}

/// Text as XML has it, without the characters that XML has not.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            char if char.is_control() => escaped.push('\u{fffd}'),
            char => escaped.push(char),
        }
    }
    escaped
}

/// A name as an identifier.
pub(super) fn slug(name: &str) -> String {
    name.to_lowercase().replace(|char: char| !char.is_ascii_alphanumeric(), "-")
}
