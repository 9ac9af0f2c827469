//! The tiers that need more than stable Rust, or more patience.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::hosted;
use crate::audit;
use crate::capture::{self, arch::Arch};
use crate::command::{Show, check, command, root};
use crate::counts::{Counts, Outcome, Stop};
use crate::need::NEXTEST;
use crate::toolchain::BARE;

/// Optimised, but with every assertion. The scripts say what they did, and how to repeat what failed.
pub(super) fn model() -> Outcome {
    let checked = ["--profile", "checked", "--package"];
    let mut sweep = command("cargo", &["test"]);
    sweep.args(checked).args(["pinfold", "--test", "host_failures", "the_world"]);
    sweep.env("PINFOLD_EVERY_CHANGE", "1");
    check(sweep, Show::OnFailure)?;
    let mut storm = command("cargo", &["run"]);
    storm.args(checked).args(["pinfold-sim", "--example", "storm"]);
    storm.args(["--", "--operations", "400000"]);
    check(storm, Show::Always)?;
    // The `test` tier has counted those tests.
    Ok(Counts::default())
}

pub(super) fn loom() -> Outcome {
    let mut test = hosted::models("test");
    test.arg("--release");
    check(test, Show::OnFailure)
}

/// The tests of the C library that are ignored elsewhere, because they need a tool.
pub(super) fn c() -> Outcome {
    let args: &[&str] = if NEXTEST.present() {
        &["nextest", "run", "--package", "pinfold-ffi", "--run-ignored", "only", "--no-tests=pass"]
    } else {
        &["test", "--package", "pinfold-ffi", "--tests", "--", "--ignored"]
    };
    let ran = check(command("cargo", args), Show::Always)?;
    if ran.passed == 0 {
        return Err(Stop::Skipped("no C test needs a tool so far".to_owned()));
    }
    // The `test` tier counted them as skipped.
    Ok(Counts { skipped: -ran.passed, ..ran })
}

/// First that the audit finds what is planted, here and for every machine; then the library.
pub(super) fn audit() -> Outcome {
    let args: &[&str] = if NEXTEST.present() {
        &["nextest", "run", "--package", "xtask", "--run-ignored", "only", "audit::"]
    } else {
        &["test", "--package", "xtask", "audit::", "--", "--ignored"]
    };
    let ran = check(command("cargo", args), Show::OnFailure)?;
    // The `test` tier counted them as skipped.
    let counts = Counts { skipped: -ran.passed, ..ran };
    match audit::planted(BARE).and_then(|()| audit::library(BARE)) {
        Ok(()) => Ok(counts),
        Err(why) => Err(Stop::Failed { counts, why }),
    }
}

/// A count of runs, so that every machine does the same; the time is only a guard.
pub(super) fn fuzz() -> Outcome {
    for target in fuzz_targets().map_err(failed("fuzz/fuzz_targets"))? {
        println!("   {target}");
        let corpus = scratch_corpus(&target).map_err(failed("corpus"))?;
        let mut run = command("rustup", &["run", "nightly", "cargo", "fuzz", "run"]);
        run.args(["--target-dir", "target/fuzz", &target]).arg(&corpus);
        run.args(["--", "-runs=5000", "-max_total_time=60", "-timeout=20", "-max_len=4096"]);
        check(run, Show::OnFailure)?;
    }
    Ok(Counts::default())
}

/// Page tables and answers of a kernel that no committed snapshot is of, with so many levels where
/// there is a choice.
pub(super) fn capture(arch: &Arch, levels: Option<u8>) -> Outcome {
    let failed = |why| Stop::Failed { counts: Counts::default(), why };
    let kernel = capture::other_kernel(arch).map_err(failed)?.display().to_string();
    let out = root().join(format!("target/capture/{}.snap", arch.name)).display().to_string();
    let args = ["--arch", arch.name, "--kernel", &kernel, "--out", &out].map(str::to_owned);
    let levels = levels.map(|levels| ["--levels".to_owned(), levels.to_string()]);
    let args: Vec<String> = args.into_iter().chain(levels.into_iter().flatten()).collect();
    capture::run(&args).map_err(failed)?;
    let mut example = hosted::pin_guest();
    example.args(["--", "--snapshot", &out]);
    check(example, Show::OnFailure)
}

pub(super) fn deny() -> Outcome {
    let args = ["deny", "check", "bans", "licenses", "sources"];
    check(command("cargo", &args), Show::OnFailure)
}

/// Builds each package from what would be uploaded, so that a missing file shows.
///
/// In a target directory of a name that was never used before: cargo keeps the sources of a
/// package under its version and the directory's path, and takes those of an earlier run for the
/// ones that it has just packed.
pub(super) fn package() -> Outcome {
    let fresh = root().join(format!("target/publish/{}", now().as_nanos()));
    let mut publish = command("cargo", &["publish", "--workspace", "--dry-run", "--allow-dirty"]);
    publish.arg("--target-dir").arg(&fresh);
    let outcome = check(publish, Show::OnFailure);
    // Left over, it costs only disk space.
    let _ = fs::remove_dir_all(fresh);
    outcome
}

/// Short: whether they run and their own assertions hold, not their figures.
pub(super) fn bench() -> Outcome {
    let args = ["bench", "--package", "pinfold-benches", "--bench", "*", "--", "--quick"];
    check(command("cargo", &args), Show::OnFailure)
}

/// In a target directory of its own, like loom's models.
pub(super) fn counts() -> Outcome {
    let mut test = command("cargo", &["test", "--package", "pinfold-benches"]);
    test.args(["--test", "atomics", "--test", "loads", "--target-dir", "target/counting"]);
    test.env("RUSTFLAGS", "--cfg counting");
    check(test, Show::OnFailure)
}

/// Since the epoch; zero if the clock stands before it.
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn fuzz_targets() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// A fresh copy of the seeds: the fuzzer writes what it finds into its corpus.
fn scratch_corpus(target: &str) -> io::Result<PathBuf> {
    let scratch = root().join("target/fuzz-corpus").join(target);
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    let seeds = root().join("fuzz/corpus").join(target);
    if seeds.exists() {
        copy_files(&seeds, &scratch)?;
    }
    Ok(scratch)
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> Stop {
    move |error| Stop::Failed { counts: Counts::default(), why: format!("{what}: {error}") }
}
