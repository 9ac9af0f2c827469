//! The tiers that stable Rust alone can run.

use std::process::Command;

use crate::command::{Show, check, command};
use crate::counts::Outcome;
use crate::need::{CXX, NEXTEST};

pub(super) fn fmt() -> Outcome {
    check(command("cargo", &["fmt", "--all", "--check"]), Show::OnFailure)
}

pub(super) fn clippy() -> Outcome {
    let mut clippy = command("cargo", &["clippy", "--all-targets"]);
    clippy.args(workspace()).args(["--", "-D", "warnings"]);
    check(clippy, Show::OnFailure)?;
    // They run in a tier of their own, but whoever breaks them shall see it here.
    let mut models = models("clippy");
    models.args(["--", "-D", "warnings"]);
    check(models, Show::OnFailure)
}

/// `cargo SUBCOMMAND` for loom's models. In a target directory of its own: the flag would rebuild
/// everything else each time.
pub(super) fn models(subcommand: &str) -> Command {
    let mut cargo = command("cargo", &[subcommand, "--package", "pinfold", "--test", "loom"]);
    cargo.args(["--target-dir", "target/loom"]).env("RUSTFLAGS", "--cfg loom");
    cargo
}

pub(super) fn test() -> Outcome {
    let runner: &[&str] = if NEXTEST.present() {
        &["nextest", "run"]
    } else {
        println!("   with `cargo test`: {}", NEXTEST.missing());
        &["test", "--tests", "--no-fail-fast"]
    };
    check(command("cargo", runner), Show::Always)
}

pub(super) fn doctest() -> Outcome {
    check(command("cargo", &["test", "--doc", "--no-fail-fast"]), Show::OnFailure)
}

pub(super) fn doc() -> Outcome {
    let mut doc = command("cargo", &["doc", "--no-deps"]);
    doc.args(workspace()).env("RUSTDOCFLAGS", "-D warnings");
    check(doc, Show::OnFailure)
}

pub(super) fn example() -> Outcome {
    check(pin_guest(), Show::OnFailure)
}

pub(super) fn pin_guest() -> Command {
    command("cargo", &["run", "--release", "--package", "pinfold", "--example", "pin_guest"])
}

pub(super) fn fuzz_build() -> Outcome {
    check(command("cargo", &["build", "--package", "pinfold-fuzz"]), Show::OnFailure)
}

/// In a target directory of its own: the library without `std` has the same file name.
pub(super) fn no_std() -> Outcome {
    let mut build = command("cargo", &["build", "--package", "pinfold-ffi"]);
    build.args(["--no-default-features", "--features", "panic-handler"]);
    build.args(["--target-dir", "target/no-std"]);
    check(build, Show::OnFailure)
}

/// The whole workspace; without a C++ compiler all but the fuzz targets.
fn workspace() -> &'static [&'static str] {
    if CXX.present() {
        return &["--workspace"];
    }
    println!("   without pinfold-fuzz: {}", CXX.missing());
    &["--workspace", "--exclude", "pinfold-fuzz"]
}
