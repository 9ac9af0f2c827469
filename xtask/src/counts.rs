//! What a tier comes to: how many tests a test runner says it ran, or why there are none.

/// What a tier comes to: its tests, or why it stopped.
pub(crate) type Outcome = Result<Counts, Stop>;

/// Why a tier did not pass.
#[derive(Debug)]
pub(crate) enum Stop {
    Failed { counts: Counts, why: String },
    Skipped(String),
}

/// Tests by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: i64,
    pub(crate) failed: i64,
    /// Below zero where a tier runs what another one counted as skipped.
    pub(crate) skipped: i64,
}

impl Counts {
    /// What the summary of cargo-nextest says; without one, the sum of what `cargo test` says for
    /// each test program.
    pub(crate) fn read(output: &str) -> Self {
        // Nextest shows what a failed test printed, and that looks like `cargo test`.
        if let Some(counts) = output.lines().rev().find_map(Self::nextest) {
            return counts;
        }
        let mut sum = Self::default();
        for results in output.lines().filter_map(|line| line.strip_prefix("test result: ")) {
            let results = results.split_once(". ").map_or(results, |(_, rest)| rest);
            sum.add(Self::items(results, ';'));
        }
        sum
    }

    fn nextest(line: &str) -> Option<Self> {
        let (_, results) = line.trim().strip_prefix("Summary [")?.split_once(" run: ")?;
        Some(Self::items(&without_remarks(results), ','))
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// `3 passed, 1 timed out, 2 skipped`: what is none of the harmless words is a failure.
    fn items(results: &str, separator: char) -> Self {
        let mut counts = Self::default();
        for item in results.split(separator) {
            let Some((number, word)) = item.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<i64>() else { continue };
            match word {
                "passed" => counts.passed += number,
                "skipped" | "ignored" => counts.skipped += number,
                "measured" | "filtered out" => {}
                _ => counts.failed += number,
            }
        }
        counts
    }
}

/// Drops `(2 slow, 1 leaky)`.
fn without_remarks(text: &str) -> String {
    let mut depth = 0_u32;
    text.chars()
        .filter(|c| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => return depth == 0,
            }
            false
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn nextest() {
        let output = "\
            FAIL [   0.01s] a b\n\
            \x20   test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out\n\
            \x20    Summary [   0.123s] 47/50 tests run: 44 passed (1 slow, 1 leaky), 1 failed, 2 timed out, 3 skipped\n";
        assert_eq!(Counts::read(output), Counts { passed: 44, failed: 3, skipped: 3 });
        let one = "     Summary [   0.001s] 1 test run: 1 passed, 0 skipped\n";
        assert_eq!(Counts::read(one), Counts { passed: 1, failed: 0, skipped: 0 });
    }

    #[test]
    fn cargo_test() {
        let output = "\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s\n\
            test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";
        assert_eq!(Counts::read(output), Counts { passed: 5, failed: 1, skipped: 1 });
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(Counts::read("3 passed, 1 failed\nSummary [ broken\n"), Counts::default());
    }
}
