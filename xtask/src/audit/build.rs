//! Builds the C library as an embedder without an operating system does, for every machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Show, check, root};
use crate::counts::Stop;
use crate::toolchain::{Target, X86_64_BARE};

/// A library, and how it came to be.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) library: PathBuf,
    /// What the compiler was told besides the profile.
    pub(crate) flags: String,
}

/// What an embedder must say as well. Without it x86_64 calls what another object holds through a table
/// of addresses in memory, which is nobody's declared area.
fn extra(target: &Target) -> &'static [&'static str] {
    if target.triple == X86_64_BARE.triple { &["-Crelocation-model=static"] } else { &[] }
}

/// In a target directory of its own: no flag of another build shall be taken over.
pub(crate) fn build(target: &Target) -> Result<Built, String> {
    let mut cargo = prepare(target)?;
    cargo.args(["--package", "pinfold-ffi"]);
    cargo.args(["--no-default-features", "--features", "panic-handler"]);
    let flags = flags(&cargo);
    run(cargo)?;
    let library = directory().join(target.triple).join("release/libpinfold_c.a");
    Ok(Built { library, flags })
}

/// All examples of the package with this manifest, in the same way.
pub(crate) fn planted(target: &Target, manifest: &Path) -> Result<(), String> {
    let mut cargo = prepare(target)?;
    cargo.arg("--examples").arg("--manifest-path").arg(manifest);
    run(cargo)
}

fn prepare(target: &Target) -> Result<Command, String> {
    let mut cargo = target.cargo("build", extra(target))?;
    cargo.arg("--release").arg("--target-dir").arg(directory());
    Ok(cargo)
}

fn directory() -> PathBuf {
    root().join("target/audit")
}

/// Runs a build; its failure is one line, after all that it printed.
fn run(cargo: Command) -> Result<(), String> {
    match check(cargo, Show::OnFailure) {
        Ok(_) => Ok(()),
        Err(Stop::Failed { why, .. } | Stop::Skipped(why)) => Err(why),
    }
}

fn flags(cargo: &Command) -> String {
    let name = Path::new("CARGO_ENCODED_RUSTFLAGS").as_os_str();
    let value = cargo.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value);
    value.map_or_else(String::new, |value| value.to_string_lossy().replace('\x1f', " "))
}
