//! C programs against the hosted static library. Each is a test of its own in `tests/c`; its exit
//! code is the verdict.

use std::path::PathBuf;
use std::process::Command;

#[path = "tools/library.rs"]
mod library;

/// What Rust's standard library wants from the system (`rustc --print native-static-libs`).
const SYSTEM: &[&str] = &["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"];

/// `folder` keeps tests apart that run at the same time.
fn build(name: &str, folder: &str) -> PathBuf {
    // Unoptimised, so that an overflow in the library ends the program.
    let archive = library::archive("hosted", "dev", &[]);
    let program = library::scratch(folder).join(name);
    let source = library::file("tests/c").join(name).with_extension("c");
    let mut cc = library::cc();
    cc.arg("-o").arg(&program).arg(source).arg(archive).args(SYSTEM);
    library::run(&mut cc);
    program
}

fn passes(name: &str) {
    library::run(&mut Command::new(build(name, "c_api")));
}

/// Also without a byte read or written where it should not be.
fn passes_under_valgrind(name: &str) {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--quiet", "--error-exitcode=99", "--leak-check=full"])
        .arg(build(name, "c_api_valgrind"));
    library::run(&mut valgrind);
}

macro_rules! programs {
    ($($name:ident)*) => {
        $(
            #[test]
            #[ignore = "needs a C compiler: cargo xtask test c"]
            fn $name() {
                passes(stringify!($name));
            }
        )*
    };
}

programs! {
    life errors stale hooks versions race layout
    registry registry_errors realmode realmode_race
}

#[test]
#[ignore = "needs a C compiler and valgrind: cargo xtask test c"]
fn no_stray_access() {
    for name in ["life", "errors", "stale", "versions", "registry", "registry_errors", "realmode"] {
        passes_under_valgrind(name);
    }
}

/// The header is C++ as well, and stands on its own.
#[test]
#[ignore = "needs a C compiler: cargo xtask test c"]
fn the_header_stands_on_its_own() {
    for (language, standard) in [("c", "-std=c99"), ("c", "-std=c17")] {
        let mut cc = Command::new("cc");
        cc.args(["-x", language, standard, "-pedantic", "-Wall", "-Wextra", "-Werror"]);
        cc.arg("-fsyntax-only").arg(library::file("include/pinfold.h"));
        library::run(&mut cc);
    }
}
