//! Rows: choosing them on the command line, and printing what came out.

use std::process::ExitCode;

use crate::machine;
use crate::rounds::Compared;

/// Runs of a row; a goal is met if two of them meet it.
const RUNS: usize = 3;
const RUNS_TO_MEET: usize = 2;

/// What is measured, and what is hoped for.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name in the table of `benches/README.md`.
    pub id: &'static str,
    /// What is compared.
    pub what: &'static str,
    /// Which ratio is hoped for.
    pub goal: Goal,
}

/// Which ratio is good enough, and which would be better.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// At most the first; better, at most the second.
    AtMost(f64, f64),
    /// At least the first; better, at least the second.
    AtLeast(f64, f64),
    /// None: the row only reports.
    Report,
}

impl Goal {
    fn met(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtMost(goal, _) => Some(ratio <= goal),
            Self::AtLeast(goal, _) => Some(ratio >= goal),
            Self::Report => None,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(goal, stretch) => format!("<= {goal} ({stretch})"),
            Self::AtLeast(goal, stretch) => format!(">= {goal} ({stretch})"),
            Self::Report => "-".into(),
        }
    }
}

/// What the command line asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only see whether it runs: little memory, few rounds.
    pub quick: bool,
    rows: Vec<String>,
}

impl Options {
    /// Reads the command line of a bench program that has these rows.
    ///
    /// # Errors
    /// The code to exit with, after help or a complaint was printed.
    pub fn parse(about: &str, rows: &[&str]) -> Result<Self, ExitCode> {
        let mut options = Self::default();
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                // What cargo itself passes.
                "--bench" => {}
                "--quick" => options.quick = true,
                "--help" | "-h" => {
                    println!("{about}\n\n[--quick] [ROW]..\n\nRows: {}", rows.join(", "));
                    return Err(ExitCode::SUCCESS);
                }
                flag if flag.starts_with('-') => {
                    eprintln!("unknown option {flag}; --help lists what there is");
                    return Err(ExitCode::from(2));
                }
                row => options.rows.push(row.to_uppercase()),
            }
        }
        Ok(options)
    }

    /// Whether a row of this name was asked for: by name, or because none was named.
    #[must_use]
    pub fn wants(&self, id: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|row| row == id)
    }

    /// Rounds in a run.
    #[must_use]
    pub fn rounds(&self) -> usize {
        if self.quick { 2 } else { 15 }
    }

    /// Runs of each row.
    #[must_use]
    pub fn runs(&self) -> usize {
        if self.quick { 1 } else { RUNS }
    }
}

/// Prints the machine and the head of the table.
pub fn head(options: &Options, unit: &str) {
    println!("{}", machine::describe());
    if options.quick {
        println!("quick: whether it runs; the figures mean nothing");
    }
    println!("times in ns a {unit}: smallest, median");
    println!(
        "{:<4} {:<42} {:>16} {:>16} {:>7} {:>15}  met",
        "row", "what", "measured", "against", "ratio", "goal (stretch)"
    );
}

/// Prints a row: the run with the middle ratio, and how many runs met the goal.
pub fn print(row: &Row, size: &str, mut runs: Vec<Compared>) {
    runs.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
    let Some(middle) = runs.get(runs.len() / 2) else { return };
    let (ours, floor) = (middle.ours(), middle.floor());
    let verdicts = runs.iter().map(|run| row.goal.met(run.ratio()));
    let met = match verdicts.collect::<Option<Vec<bool>>>() {
        None => "report only".into(),
        Some(verdicts) => {
            let count = verdicts.iter().filter(|met| **met).count();
            let word = if count >= RUNS_TO_MEET.min(runs.len()) { "yes" } else { "no" };
            format!("{word}, {count} of {}", runs.len())
        }
    };
    println!(
        "{:<4} {:<42} {:>7.2} {:>8.2} {:>7.2} {:>8.2} {:>7.2} {:>15}  {met}",
        row.id,
        format!("{}, {size}", row.what),
        ours.0,
        ours.1,
        floor.0,
        floor.1,
        middle.ratio(),
        row.goal.text(),
    );
}
