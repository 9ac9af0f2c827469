//! Chores that want more than a screen of shell: test tiers, their tools, captures.
//!
//! `cargo xtask --help` says what there is; `cargo xtask test --list` says what each tier needs and
//! how long it takes.

mod audit;
mod capture;
mod command;
mod counts;
mod need;
mod report;
mod setup;
mod tiers;
mod toolchain;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND

  test                  the hosted tiers: stable Rust only, installs nothing. Two cores take about eight minutes
                        the first time, when all is compiled, and two later
  test all              every tier; one whose tool is missing is skipped and says so
  test rest             the same without those of plain `test`
  test TIER [TIER...]   these tiers only
  test --list           the tiers, what each needs and how long it takes
  setup [--yes]         what the other tiers need; installs packages and cargo tools that are missing, after asking
  audit [--help]        the object code of the real-mode functions, held against their contract
  capture [--help]      page tables and frames of a Debian kernel under QEMU, as a snapshot
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("-h" | "--help" | "help") => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Some("test") => tiers::run(&args[1..]),
        Some("setup") => setup::run(&args[1..]),
        Some("audit") => ended(audit::run(&args[1..])),
        Some("capture") => ended(capture::run(&args[1..])),
        Some(other) => usage(&format!("there is no command `{other}`")),
        None => usage("a command is missing"),
    }
}

fn ended(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The caller asked for something that does not exist: says what does.
fn usage(error: &str) -> ExitCode {
    eprintln!("error: {error}\n\n{HELP}");
    ExitCode::from(2)
}
