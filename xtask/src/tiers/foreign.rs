//! The hosted tests once more on CPUs of other kinds, each program run by QEMU.

use std::process::Command;

use crate::command::{Show, check};
use crate::counts::{Counts, Outcome, Stop};
use crate::need::NEXTEST;
use crate::toolchain::{AARCH64_LINUX, POWERPC64LE_LINUX, S390X_LINUX, Target};

const PROFILE: &str = "emulated";

/// Big endian.
pub(super) fn s390x() -> Outcome {
    test(&S390X_LINUX)
}

pub(super) fn powerpc64le() -> Outcome {
    test(&POWERPC64LE_LINUX)
}

pub(super) fn aarch64() -> Outcome {
    test(&AARCH64_LINUX)
}

/// In the profile that an emulator runs fast, beside the hosted builds.
fn cargo(target: &Target, subcommand: &str, profile: &str) -> Result<Command, Stop> {
    let failed = |why| Stop::Failed { counts: Counts::default(), why };
    let mut cargo = target.cargo(subcommand, &[]).map_err(failed)?;
    cargo.args([profile, PROFILE, "--target-dir", "target/foreign"]);
    Ok(cargo)
}

/// The tests' runner: nextest keeps both CPUs busy where one program has one long test.
fn tests(target: &Target) -> Result<Command, Stop> {
    if !NEXTEST.present() {
        let mut test = cargo(target, "test", "--profile")?;
        test.args(["--tests", "--no-fail-fast"]);
        return Ok(test);
    }
    let mut test = cargo(target, "nextest run", "--cargo-profile")?;
    // Of the same name in nextest's settings: it waits longer.
    test.args(["--profile", PROFILE]);
    Ok(test)
}

fn test(target: &Target) -> Outcome {
    println!(
        "   without pinfold-ffi (its tests run C programs), the benches (figures of a CPU) and xtask (a tool \
         of the machine that builds)"
    );
    // One of the tests runs it.
    let mut example = cargo(target, "build", "--profile")?;
    example.args(["--package", "pinfold", "--example", "pin_guest"]);
    check(example, Show::OnFailure)?;
    let mut test = tests(target)?;
    for package in ["pinfold-arch", "pinfold", "pinfold-sim"] {
        test.args(["--package", package]);
    }
    test.env("PINFOLD_RUNNER", target.runner());
    // A quarter of the random cases, where a test does not say how many: each costs ten times as much.
    test.env("PROPTEST_CASES", "64");
    check(test, Show::OnFailure)
}
