//! Building the static library and programs against it. Shared by the tests that need a C compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory for what tests make.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    dir
}

/// A file of this package.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs a program to its end; a failure shows what it said.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{:?} does not run: {error}", command.get_program()),
    };
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The static library as cargo makes it, built with these arguments of `cargo rustc` in a target
/// directory of its own: with and without `std` it has the same file name.
pub(crate) fn archive(target: &str, profile: &str, args: &[&str]) -> PathBuf {
    let target = scratch(target);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["rustc", "--package", "pinfold-ffi", "--lib", "--profile", profile]);
    build.arg("--target-dir").arg(&target).args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    run(&mut build);
    let folder = if profile == "dev" { "debug" } else { profile };
    target.join(folder).join("libpinfold_c.a")
}

/// A C compiler with the warnings that count.
pub(crate) fn cc() -> Command {
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g"]);
    cc.arg("-I").arg(file("include"));
    cc
}
