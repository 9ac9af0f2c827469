//! The hosted tests once more on CPUs of other kinds, each program run by QEMU.

use std::process::Command;

use crate::command::{Show, check};
use crate::counts::{Counts, Outcome, Stop};
use crate::need::NEXTEST;
use crate::toolchain::{AARCH64_LINUX, POWERPC64LE_LINUX, S390X_LINUX, Target};

const PROFILE: &str = "emulated";

/// Tests whose outcome is the same on every little-endian CPU, and which take half of the time: they
/// change what a host says at every call, or what a capture holds. They run here and on the big-endian
/// CPU.
const LONG: &str = "not (binary(host_failures) | binary(hostile_snapshot) | binary(pin_guest_cli))";

/// Big endian.
pub(super) fn s390x() -> Outcome {
    test(&S390X_LINUX, &["pinfold-arch", "pinfold", "pinfold-sim"], None)
}

pub(super) fn powerpc64le() -> Outcome {
    little_endian(&POWERPC64LE_LINUX)
}

pub(super) fn aarch64() -> Outcome {
    little_endian(&AARCH64_LINUX)
}

fn little_endian(target: &Target) -> Outcome {
    // Plain `cargo test` knows no filters.
    let filter = NEXTEST.present().then_some(LONG);
    let long = if filter.is_some() { ", and without what runs long" } else { "" };
    println!("   without pinfold-sim{long}: all little-endian CPUs are alike there");
    test(target, &["pinfold-arch", "pinfold"], filter)
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
    // Without examples, which would be built too.
    if !NEXTEST.present() {
        let mut test = cargo(target, "test", "--profile")?;
        test.args(["--tests", "--no-fail-fast"]);
        return Ok(test);
    }
    let mut test = cargo(target, "nextest run", "--cargo-profile")?;
    // Of the same name in nextest's settings: it waits longer.
    test.args(["--tests", "--profile", PROFILE]);
    Ok(test)
}

fn test(target: &Target, packages: &[&str], filter: Option<&str>) -> Outcome {
    println!(
        "   without pinfold-ffi (its tests run C programs), the benches (figures of a CPU) and xtask (a tool \
         of the machine that builds)"
    );
    // The longest of the tests runs it.
    if filter.is_none() {
        let mut example = cargo(target, "build", "--profile")?;
        example.args(["--package", "pinfold", "--example", "pin_guest"]);
        check(example, Show::OnFailure)?;
    }
    let mut test = tests(target)?;
    for package in packages {
        test.args(["--package", package]);
    }
    if let Some(filter) = filter {
        test.args(["--filterset", filter]);
    }
    test.env("PINFOLD_RUNNER", target.runner());
    // A quarter of the random cases, where a test does not say how many: each costs ten times as much.
    test.env("PROPTEST_CASES", "64");
    check(test, Show::OnFailure)
}
