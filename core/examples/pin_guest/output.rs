//! Lines for a person, with a mark for who says so.

use std::fmt;
use std::io::{self, IsTerminal, Stdout, Write};

use pinfold::PageShift;

/// Who says a thing.
#[derive(Clone, Copy)]
pub(crate) enum By {
    /// The captured kernel.
    Kernel,
    /// The simulated machine that stands for the host.
    Machine,
    /// pinfold.
    Pinfold,
    /// This example.
    Overlay,
}

impl By {
    fn mark(self) -> &'static str {
        match self {
            Self::Kernel => "[kernel] ",
            Self::Machine => "[machine]",
            Self::Pinfold => "[pinfold]",
            Self::Overlay => "[overlay]",
        }
    }
}

/// The report, and whether everything that it claims was found true.
pub(crate) struct Output {
    to: Stdout,
    colour: bool,
    broken: io::Result<()>,
    checks: Vec<(String, bool)>,
}

/// Columns of a line, and of the mark before it.
const WIDTH: usize = 98;
const INDENT: usize = 12;

impl Output {
    pub(crate) fn new() -> Self {
        let to = io::stdout();
        Self { colour: to.is_terminal(), to, broken: Ok(()), checks: Vec::new() }
    }

    /// Text in a colour (an ANSI number), if there is somebody to see it.
    pub(crate) fn paint(&self, colour: u8, text: impl fmt::Display) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(crate) fn line(&mut self, text: impl fmt::Display) {
        if self.broken.is_ok() {
            self.broken = writeln!(self.to, "{text}");
        }
    }

    pub(crate) fn section(&mut self, title: &str) {
        let title = self.paint(1, title);
        self.line(format!("\n{title}"));
    }

    pub(crate) fn say(&mut self, by: By, text: impl fmt::Display) {
        let mark = format!("  {} ", self.paint(2, by.mark()));
        self.wrapped(mark, &text.to_string());
    }

    /// A line below another one of the same origin.
    pub(crate) fn more(&mut self, text: impl fmt::Display) {
        self.wrapped(" ".repeat(INDENT), &text.to_string());
    }

    /// Breaks what is too long at a space.
    fn wrapped(&mut self, start: String, text: &str) {
        let (mut start, mut rest) = (start, text);
        while rest.chars().count() > WIDTH - INDENT {
            let limit = rest.char_indices().nth(WIDTH - INDENT).map_or(rest.len(), |(at, _)| at);
            let Some(space) = rest[..limit].rfind(' ') else { break };
            self.line(format!("{start}{}", &rest[..space]));
            (start, rest) = (" ".repeat(INDENT), &rest[space + 1..]);
        }
        self.line(format!("{start}{rest}"));
    }

    /// Remembers a claim.
    pub(crate) fn check(&mut self, claim: impl Into<String>, holds: bool) {
        self.checks.push((claim.into(), holds));
    }

    /// Prints all claims. Returns whether they hold.
    pub(crate) fn verdict(mut self) -> io::Result<bool> {
        self.section("Checks");
        let checks = std::mem::take(&mut self.checks);
        for (claim, holds) in &checks {
            let verdict = if *holds { self.paint(32, "ok    ") } else { self.paint(31, "FAILED") };
            self.line(format!("  {verdict}  {claim}"));
        }
        self.broken.map(|()| checks.iter().all(|(_, holds)| *holds))
    }
}

/// A word of the kernel without anything that a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}

/// A size in bytes of so many base pages.
pub(crate) fn size(pages: u64, base: PageShift) -> String {
    match (pages << base.raw()) >> 10 {
        kib if kib >= 1 << 20 && kib % (1 << 20) == 0 => format!("{} GiB", kib >> 20),
        kib if kib >= 1 << 10 && kib % (1 << 10) == 0 => format!("{} MiB", kib >> 10),
        kib if kib >= 10 << 10 => format!("{:.1} MiB", kib as f64 / 1024.0),
        kib => format!("{kib} KiB"),
    }
}
