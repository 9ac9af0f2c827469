//! Which Rust builds for a CPU other than the host's, and what it must be told.
//!
//! Three may: the one that runs us, if it has the target's standard library; nightly, and the
//! system's in /usr, if they have that library's source. [`Target::cargo`] takes the first of them.

mod targets;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::command::command;
pub(crate) use targets::*;

/// How much of the standard library a build wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    /// `core`, and the four functions on memory that compiled code calls.
    Core,
    /// All of it. Tests want a profile whose `panic` is `unwind`: cargo would build two of it.
    Std,
}

/// What to build for.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) triple: &'static str,
    library: Library,
    rustflags: &'static [&'static str],
    linker: &'static str,
    /// A program that runs what was built, with its arguments; empty if only a machine could.
    runner: &'static str,
}

/// How to come by a standard library, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is installed beside the compiler that runs us.
    Installed,
    /// Nightly builds it.
    Nightly,
    /// The system's own Rust builds it, told that it is a nightly.
    System,
}

/// Debian's packages that build for every target.
pub(crate) const PACKAGES: &str = "rustc-web cargo-web rust-web-src";

/// What does without them.
pub(crate) const OTHERWISE: &str =
    "`rustup target add`, or `rustup toolchain install nightly --component rust-src`";

/// Where the system's package manager puts Rust.
const SYSTEM: &str = "/usr";

/// Below a compiler's root, if it has the library's source.
const SOURCE: &str = "lib/rustlib/src/rust/library/std/Cargo.toml";

impl Target {
    /// Whether a Rust here builds for it.
    pub(crate) fn able(&self) -> bool {
        self.way().is_some()
    }

    /// What runs its programs, with arguments, a blank between them.
    pub(crate) fn runner(&self) -> &'static str {
        self.runner
    }

    /// `cargo SUBCOMMAND` (one word or several) for this target, with `rustflags` besides the target's own. The caller
    /// adds its arguments, and a target directory unless the default one will do.
    ///
    /// # Errors
    ///
    /// What to install, if no Rust here builds for it.
    pub(crate) fn cargo(&self, subcommand: &str, rustflags: &[&str]) -> Result<Command, String> {
        let way = self.way().ok_or_else(|| self.missing())?;
        Ok(self.prepare(way, subcommand, rustflags))
    }

    fn prepare(&self, way: Way, subcommand: &str, rustflags: &[&str]) -> Command {
        let mut cargo = way.cargo(subcommand);
        cargo.args(["--target", self.triple]);
        if way != Way::Installed {
            self.library.build(&mut cargo);
        }
        // Above every other way to set flags, so that a build is the same whatever the environment says.
        let flags = [self.rustflags, rustflags].concat();
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        cargo.env(self.variable("LINKER"), self.linker);
        if !self.runner.is_empty() {
            cargo.env(self.variable("RUNNER"), self.runner);
        }
        cargo
    }

    fn way(&self) -> Option<Way> {
        choose(|way| match way {
            Way::Installed => self.installed(),
            Way::Nightly => has_source(command("rustup", &["run", "nightly", "rustc"])),
            Way::System => has_source(command(&format!("{SYSTEM}/bin/rustc"), &[])),
        })
    }

    fn installed(&self) -> bool {
        let libdir = print(command("rustc", &[]), &["target-libdir", "--target", self.triple]);
        let crate_file = match self.library {
            Library::Core => "libcore-",
            Library::Std => "libstd-",
        };
        libdir.and_then(|dir| dir.read_dir().ok()).is_some_and(|mut files| {
            files.any(|file| {
                file.is_ok_and(|file| {
                    file.file_name().as_encoded_bytes().starts_with(crate_file.as_bytes())
                })
            })
        })
    }

    /// One line: what would make a Rust here build for it.
    fn missing(&self) -> String {
        format!("no Rust here builds for {} (Debian: {PACKAGES}; or {OTHERWISE})", self.triple)
    }

    /// The name of cargo's variable for a setting of this target.
    fn variable(&self, setting: &str) -> String {
        let triple = self.triple.replace('-', "_").to_uppercase();
        format!("CARGO_TARGET_{triple}_{setting}")
    }
}

impl Library {
    /// Has it built from source.
    fn build(self, cargo: &mut Command) {
        match self {
            Self::Core => {
                cargo.args(["-Zbuild-std=core", "-Zbuild-std-features=compiler-builtins-mem"]);
            }
            Self::Std => {
                cargo.arg("-Zbuild-std");
            }
        }
    }
}

impl Way {
    fn cargo(self, subcommand: &str) -> Command {
        let mut cargo = match self {
            Self::Installed => command("cargo", &[]),
            Self::Nightly => command("rustup", &["run", "nightly", "cargo"]),
            Self::System => {
                let mut cargo = command(&format!("{SYSTEM}/bin/cargo"), &[]);
                cargo.env("RUSTC_BOOTSTRAP", "1");
                // Whatever runs `rustc` shall get the one that belongs to this cargo, not rustup's.
                let mut path = OsString::from(format!("{SYSTEM}/bin:"));
                path.push(std::env::var_os("PATH").unwrap_or_default());
                cargo.env("PATH", path);
                cargo
            }
        };
        cargo.args(subcommand.split(' '));
        cargo
    }
}

/// The first way that `possible` finds open.
fn choose(possible: impl Fn(Way) -> bool) -> Option<Way> {
    [Way::Installed, Way::Nightly, Way::System].into_iter().find(|&way| possible(way))
}

fn has_source(rustc: Command) -> bool {
    print(rustc, &["sysroot"]).is_some_and(|root| root.join(SOURCE).exists())
}

/// What `rustc --print` answers; none if there is no such compiler or it knows no such target.
fn print(mut rustc: Command, what: &[&str]) -> Option<PathBuf> {
    let output = rustc.arg("--print").args(what).stderr(Stdio::null()).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| Path::new(answer.trim_end()).to_owned())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::process::Command;

    use super::{Library, S390X_LINUX, Way, choose};

    fn args(command: &Command) -> Vec<&OsStr> {
        command.get_args().collect()
    }

    fn variable<'a>(command: &'a Command, name: &str) -> Option<&'a OsStr> {
        command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value)
    }

    #[test]
    fn what_is_installed_goes_before_what_must_be_built() {
        assert_eq!(choose(|_| true), Some(Way::Installed));
        assert_eq!(choose(|way| way != Way::Installed), Some(Way::Nightly));
        assert_eq!(choose(|way| way == Way::System), Some(Way::System));
        assert_eq!(choose(|_| false), None);
    }

    #[test]
    fn each_way_has_its_cargo() {
        assert_eq!(args(&Way::Installed.cargo("build")), ["build"]);
        assert_eq!(args(&Way::Nightly.cargo("build")), ["run", "nightly", "cargo", "build"]);
        let system = Way::System.cargo("build");
        assert_eq!(system.get_program(), "/usr/bin/cargo");
        assert_eq!(variable(&system, "RUSTC_BOOTSTRAP"), Some(OsStr::new("1")));
        let path = variable(&system, "PATH").expect("a path");
        assert!(path.to_string_lossy().starts_with("/usr/bin:"), "{path:?}");
    }

    #[test]
    fn a_library_without_std_is_for_no_system() {
        let mut core = Command::new("cargo");
        Library::Core.build(&mut core);
        assert_eq!(args(&core)[0], "-Zbuild-std=core");
        let mut std = Command::new("cargo");
        Library::Std.build(&mut std);
        assert_eq!(args(&std), ["-Zbuild-std"]);
    }

    #[test]
    fn settings_bear_the_name_of_the_target() {
        let name = "CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_LINKER";
        assert_eq!(S390X_LINUX.variable("LINKER"), name);
        let way = |way| S390X_LINUX.prepare(way, "test", &["-Cdebuginfo=0"]);
        let built = way(Way::System);
        assert_eq!(args(&built), ["test", "--target", "s390x-unknown-linux-gnu", "-Zbuild-std"]);
        assert_eq!(variable(&built, name), Some(OsStr::new("s390x-linux-gnu-gcc")));
        assert_eq!(args(&way(Way::Installed)).len(), 3);
    }

    #[test]
    fn what_is_missing_has_three_remedies() {
        let line = S390X_LINUX.missing();
        for remedy in ["rustup target add", "component rust-src", "rust-web-src"] {
            assert!(line.contains(remedy), "{line}");
        }
    }
}
