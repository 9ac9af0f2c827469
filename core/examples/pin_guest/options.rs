//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::scenario::{SCENARIOS, Scenario};

const USAGE: &str = "\
Pins the memory of a guest for a device, and tells what happens step by step.

Usage: pin_guest [--snapshot FILE | --scenario NAME] [--svg FILE]

  --snapshot FILE  a file of `cargo xtask capture`; otherwise the one of a kernel with CMA
                   that comes with pinfold
  --scenario NAME  a guest built in memory, see below; `list` names them
  --svg FILE       also draws the guest's memory before and after as a picture
  --help           this text

Scenarios:
";

const EXIT_CODES: &str = "\
Exit code: 0 if all checks hold, 1 if not or if a file cannot be used, 2 for a wrong option. What
a scenario expects to be refused is checked: it is no failure.";

/// The guest.
pub(crate) enum From {
    Snapshot(PathBuf),
    Scenario(&'static Scenario),
}

/// What was asked for.
pub(crate) enum Command {
    Help,
    List,
    Run { from: From, svg: Option<PathBuf> },
}

pub(crate) fn usage() -> String {
    format!("{USAGE}{}\n{EXIT_CODES}", list())
}

/// A line for each scenario.
pub(crate) fn list() -> String {
    let line = |scenario: &Scenario| format!("  {:<12} {}\n", scenario.name, scenario.about);
    SCENARIOS.iter().map(line).collect()
}

pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let (mut snapshot, mut scenario, mut svg) = (None, None, None);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let (name, value) = split(&arg);
        let slot = match name.as_ref() {
            "--help" | "-h" => return Ok(Command::Help),
            "--snapshot" => &mut snapshot,
            "--scenario" => &mut scenario,
            "--svg" => &mut svg,
            _ => return Err(format!("unknown option {}", arg.to_string_lossy())),
        };
        let value = value.or_else(|| args.next()).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| format!("{name} needs a value"))?;
        if slot.replace(value).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    let svg = svg.map(PathBuf::from);
    if svg.as_deref().is_some_and(|file| file == "-") {
        return Err("--svg needs a file: the report goes to the standard output".into());
    }
    let from = match (snapshot, scenario) {
        (Some(_), Some(_)) => {
            return Err(
                "--snapshot and --scenario exclude each other: a guest has one origin".into()
            );
        }
        (_, Some(name)) if name == "list" => return Ok(Command::List),
        (_, Some(name)) => From::Scenario(find(&name)?),
        (Some(file), _) => From::Snapshot(file.into()),
        (None, None) => {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/x86_64-6.1-cma.snap");
            From::Snapshot(file.into())
        }
    };
    if let (From::Snapshot(file), Some(svg)) = (&from, &svg)
        && let (Ok(file), Ok(svg)) = (file.canonicalize(), svg.canonicalize())
        && file == svg
    {
        return Err("--svg would overwrite the snapshot".into());
    }
    Ok(Command::Run { from, svg })
}

/// `--name=value` or `--name`.
fn split(arg: &OsStr) -> (String, Option<OsString>) {
    let text = arg.to_string_lossy();
    match arg.to_str().and_then(|text| text.split_once('=')) {
        Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.into())),
        _ => (text.into_owned(), None),
    }
}

fn find(name: &OsStr) -> Result<&'static Scenario, String> {
    let known = || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    let name = name.to_string_lossy();
    SCENARIOS
        .iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| format!("no scenario {name}; there are {}", known()))
}
