//! One line a check, and how many there were.

use core::fmt::{Arguments, Write};

/// Where checks are written down.
pub struct Report<'c> {
    console: &'c mut dyn Write,
    passed: u32,
    failed: u32,
}

impl core::fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Report")
            .field("passed", &self.passed)
            .field("failed", &self.failed)
            .finish()
    }
}

impl<'c> Report<'c> {
    /// No checks so far.
    pub const fn new(console: &'c mut dyn Write) -> Self {
        Self { console, passed: 0, failed: 0 }
    }

    /// What the checks that follow are about.
    pub fn heading(&mut self, what: Arguments<'_>) {
        self.line(format_args!("-- {what}"));
    }

    /// A check, and whether what it says is so.
    pub fn check(&mut self, holds: bool, what: Arguments<'_>) {
        let word = if holds { "ok" } else { "FAILED" };
        *(if holds { &mut self.passed } else { &mut self.failed }) += 1;
        let number = self.passed + self.failed;
        self.line(format_args!("{word} {number} {what}"));
    }

    /// Writes the last line, in the words of `cargo test`. Whether all checks held, and there were some.
    #[must_use]
    pub fn end(self) -> bool {
        let Self { console, passed, failed } = self;
        let good = passed > 0 && failed == 0;
        let word = if good { "ok" } else { "FAILED" };
        // A console that does not take it would not take the complaint.
        let _ = writeln!(console, "test result: {word}. {passed} passed; {failed} failed");
        good
    }

    fn line(&mut self, line: Arguments<'_>) {
        // As above; the exit code counts.
        let _ = writeln!(self.console, "{line}");
    }
}
