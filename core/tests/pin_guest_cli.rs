//! The example that a newcomer runs first, as a program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Cargo builds examples beside the tests, unless it was told to build some tests only.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).expect("a test is in deps/ of its profile");
    let program =
        profile.join("examples/pin_guest").with_extension(std::env::consts::EXE_EXTENSION);
    if !program.exists() {
        let release = (profile.file_name() == Some("release".as_ref())).then_some("--release");
        let build = Command::new(env!("CARGO"))
            .args(["build", "--offline", "-p", "pinfold", "--example", "pin_guest"])
            .args(release)
            .arg("--target-dir")
            .arg(profile.parent().expect("a profile is in a target directory"))
            .output();
        assert!(program.exists(), "no {}: {build:?}", program.display());
    }
    program
}

fn run(args: &[&str]) -> Output {
    Command::new(program()).args(args).output().unwrap()
}

fn snapshot(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Every check holds, nothing but plain lines for any terminal.
fn is_a_good_report(output: &Output) -> String {
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{report}{}", text(&output.stderr));
    assert!(!report.contains("FAILED") && report.matches("\n  ok ").count() > 12, "{report}");
    assert!(report.chars().all(|char| char == '\n' || !char.is_control()), "control characters");
    for line in report.lines() {
        assert!(line.chars().count() <= 100, "too long: {line}");
    }
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    report.to_owned()
}

#[test]
fn it_pins_the_guest_of_a_kernel_with_cma() {
    let report = is_a_good_report(&run(&[]));
    assert!(report.contains("24576 pages pinned"), "{report}");
    assert!(report.contains("the HPT cannot be allocated: the folio at frame"), "{report}");
    assert!(!report.contains("CMA area is declared"), "{report}");
    assert_eq!(report, is_a_good_report(&run(&[])), "two runs differ");
}

#[test]
fn a_kernel_without_cma_gets_an_area_that_is_marked() {
    let file = snapshot("x86_64-6.1.snap");
    let report = is_a_good_report(&run(&["--snapshot", file.to_str().unwrap()]));
    assert!(report.contains("[overlay] CMA area"), "{report}");
}

#[test]
fn help_is_help_and_wrong_options_are_told() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--snapshot FILE"));
    for args in [&["--frobnicate"][..], &["--snapshot"], &["file"]] {
        let wrong = run(args);
        assert_eq!(wrong.status.code(), Some(2), "{args:?}");
        assert!(wrong.stdout.is_empty() && text(&wrong.stderr).contains("Usage:"), "{args:?}");
    }
}

/// One clear line, exit code 1.
fn is_refused(file: &Path, why: &str) {
    let output = run(&[&format!("--snapshot={}", file.display())]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(error.contains(why) && error.lines().count() == 1, "{error}");
}

#[test]
fn files_that_cannot_be_used_are_told_in_one_line() {
    is_refused(Path::new("/nonexistent.snap"), "cannot read /nonexistent.snap");
    let mut bytes = std::fs::read(snapshot("x86_64-6.1.snap")).unwrap();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("damaged.snap");
    bytes[1000] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    is_refused(&file, "checksum");
    std::fs::write(&file, "what is this").unwrap();
    is_refused(&file, "not a snapshot");

    let mut snapshot = pinfold_sim::snapshot::Snapshot::parse(
        &std::fs::read(snapshot("x86_64-6.1.snap")).unwrap(),
    )
    .unwrap();
    snapshot.tables[3].addr ^= 1 << 36;
    snapshot.tables.sort_by_key(|table| table.addr);
    std::fs::write(&file, snapshot.to_bytes()).unwrap();
    is_refused(&file, "it was not captured");
}
