//! What the tiers came to, for a reader who has only the last screen.

use std::process::ExitCode;
use std::time::Duration;

use crate::counts::{Counts, Outcome, Stop};
use crate::tiers::{EXTRA, HOSTED, Tier};

/// One tier's result.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) tier: &'static Tier,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

impl Row {
    /// Result, time, and the reason if there is one.
    pub(crate) fn line(&self) -> String {
        let (result, why) = match &self.outcome {
            Ok(_) => ("passed", ""),
            Err(Stop::Failed { why, .. }) => ("FAILED", why.as_str()),
            Err(Stop::Skipped(why)) => ("skipped", why.as_str()),
        };
        let line = format!("{result:<8}{:>7.1} s  {why}", self.took.as_secs_f64());
        line.trim_end().to_owned()
    }
}

/// The table of tiers and, as the last line, the tests of all of them.
pub(crate) fn summary(rows: &[Row]) -> ExitCode {
    println!("\n{:<21}{:<8}{:>7}", "tier", "result", "time");
    for row in rows {
        println!("{:<21}{}", row.tier.name, row.line());
    }
    let outcomes = || rows.iter().map(|row| &row.outcome);
    println!("\n{}", last_line(outcomes()));
    if outcomes().any(|outcome| matches!(outcome, Err(Stop::Failed { .. }))) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Tests, not tiers; but a tier that failed or was skipped as a whole counts for one, so that this
/// line alone never looks better than the run was.
fn last_line<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> String {
    let mut sum = Counts::default();
    let mut whole = Counts::default();
    for outcome in outcomes {
        match outcome {
            Ok(counts) => sum.add(*counts),
            Err(Stop::Failed { counts, .. }) => {
                sum.add(*counts);
                whole.failed += i64::from(counts.failed == 0);
            }
            Err(Stop::Skipped(_)) => whole.skipped += 1,
        }
    }
    // Below zero only where the tier that counted them was not asked for.
    let skipped = sum.skipped.max(0) + whole.skipped;
    format!("{} passed, {} failed, {skipped} skipped", sum.passed, sum.failed + whole.failed)
}

/// `cargo xtask test --list`.
pub(crate) fn list() {
    println!("{:<21}{:>8}  {:<44}needs", "tier", "minutes", "what");
    for (title, tiers) in [("hosted: `cargo xtask test`", HOSTED), ("the rest", EXTRA)] {
        println!("-- {title}");
        for tier in tiers {
            let needs: Vec<&str> = tier.needs.iter().map(|need| need.name).collect();
            let needs = if needs.is_empty() { "stable Rust".to_owned() } else { needs.join(", ") };
            println!("{:<21}{:>8}  {:<44}{needs}", tier.name, tier.minutes, tier.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Stop, last_line};

    #[test]
    fn tests_add_up() {
        let nextest = Ok(Counts { passed: 10, failed: 0, skipped: 2 });
        let ignored_ones = Ok(Counts { passed: 2, failed: 0, skipped: -2 });
        assert_eq!(last_line([nextest, ignored_ones].iter()), "12 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn a_whole_tier_counts_for_one() {
        let compile_error = Err(Stop::Failed { counts: Counts::default(), why: String::new() });
        let one_test = Err(Stop::Failed {
            counts: Counts { passed: 3, failed: 1, skipped: 0 },
            why: String::new(),
        });
        let no_tool = Err(Stop::Skipped(String::new()));
        let line = last_line([compile_error, one_test, no_tool].iter());
        assert_eq!(line, "3 passed, 2 failed, 1 skipped");
    }
}
