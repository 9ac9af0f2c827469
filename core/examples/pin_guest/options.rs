//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
Pins the memory of a guest, as a real kernel had it, for a device.

Usage: pin_guest [--snapshot FILE]

  --snapshot FILE  a file of `cargo xtask capture`; otherwise the one of a kernel with CMA
                   that comes with pinfold
  --help           this text

Exit code: 0 if all checks hold, 1 if not or if the file cannot be used, 2 for a wrong option.";

/// What was asked for.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    Help,
    Run(PathBuf),
}

pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/x86_64-6.1-cma.snap");
    let mut file = PathBuf::from(default);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.to_string_lossy().as_ref() {
            "--help" | "-h" => return Ok(Asked::Help),
            "--snapshot" => file = args.next().ok_or("--snapshot needs a file")?.into(),
            text => match text.strip_prefix("--snapshot=") {
                Some(path) => file = path.into(),
                None => return Err(format!("unknown option {text}")),
            },
        }
    }
    Ok(Asked::Run(file))
}
