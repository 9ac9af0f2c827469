//! Programs that break the contract on purpose, one way each, and one that keeps it: an audit that
//! finds nothing in the former proves nothing.

use std::fs;
use std::path::{Path, PathBuf};

use super::build;
use super::check::{Audit, Expected, check};
use super::disassembly::Objdump;
use super::elf::Image;
use crate::command::root;
use crate::toolchain::Target;

/// Files under `xtask/audit/planted`, and what one of the findings must say on the host: any of these
/// words, for compilers spell a thing in several ways. Where there are none, nothing is found.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("good", &[]),
    ("panic", &["leaves for _RN", "leaves for _ZN"]),
    ("spin", &["loops that change memory"]),
    ("swap", &["changes memory other than by compare-and-swap"]),
    ("retry", &["loops that change memory"]),
    ("add", &["changes memory other than by compare-and-swap"]),
    ("store", &["plain stores in the code"]),
    ("divide", &["trap"]),
    ("hook", &["indirect branch or call"]),
    ("call", &["leaves for elsewhere"]),
    ("chain", &["loops that only read"]),
    ("float", &["floating point or vector register"]),
    ("stack", &["bytes of stack, at most"]),
    ("recursion", &["recursion through planted"]),
    ("constant", &["refers to", "address that comes from no argument"]),
    ("switch", &["indirect branch or call"]),
    ("missing", &["pinfold_realmode_lookup: missing"]),
    ("section", &["pinfold_realmode_lookup: stands in .text"]),
];

/// Whether a compiler makes a table of jumps is its own affair. Machines with reservations need no
/// instruction that adds to memory, and some divide by zero without a trap.
const HOST_ONLY: &[&str] = &["switch", "add", "divide"];

/// Compiles them for `target` and audits each: what is found differs, that something is does not.
pub(crate) fn judge(target: &Target, objdump: &Objdump) -> Result<(), String> {
    let directory = root().join("target/audit/planted");
    let failed = |error| format!("{}: {error}", directory.display());
    fs::create_dir_all(&directory).map_err(failed)?;
    let manifest = directory.join("Cargo.toml");
    fs::write(&manifest, package()).map_err(failed)?;
    build::planted(target, &manifest)?;
    let built = root().join("target/audit").join(target.triple).join("release/examples");
    compare(
        objdump,
        |name| Ok(built.join(format!("lib{name}.a"))),
        |name, words, findings| {
            HOST_ONLY.contains(&name) || words.is_empty() == findings.is_empty()
        },
    )
}

/// A package with each program as an example, of the same profile and kinds as the library: so both
/// are built on one `core`.
fn package() -> String {
    let mut text = "\
        [package]\nname = \"planted\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
        [profile.release]\npanic = \"abort\"\nlto = \"thin\"\ncodegen-units = 1\n\
        [workspace]\n"
        .to_owned();
    for (name, _) in PROGRAMS {
        let path = source(name);
        text.push_str(&format!(
            "[[example]]\nname = \"{name}\"\npath = {path:?}\ncrate-type = [\"rlib\", \"staticlib\"]\n"
        ));
    }
    text
}

fn source(name: &str) -> PathBuf {
    root().join("xtask/audit/planted").join(format!("{name}.rs"))
}

/// Audits each program that `build` gives; says for which the findings are not `right`.
fn compare(
    objdump: &Objdump,
    build: impl Fn(&str) -> Result<PathBuf, String>,
    right: impl Fn(&str, &[&str], &[String]) -> bool,
) -> Result<(), String> {
    let mut wrong = Vec::new();
    for (name, words) in PROGRAMS {
        let audit = audit(&build(name)?, objdump)?;
        if !right(name, words, &audit.findings) {
            let findings = audit.findings.join("; ");
            wrong.push(format!("planted program {name}: the audit found {findings:?}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn audit(library: &Path, objdump: &Objdump) -> Result<Audit, String> {
    let image = Image::load(library)?;
    check(&image, objdump, Expected::Library)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{compare, source};
    use crate::audit::disassembly::Objdump;
    use crate::command::root;

    #[test]
    #[ignore = "needs llvm-objdump: cargo xtask test audit"]
    fn each_planted_program_is_found_out() {
        let objdump = Objdump::find().expect("llvm-objdump");
        let directory = root().join("target/audit/host");
        std::fs::create_dir_all(&directory).expect("a directory");
        let build = |name: &str| {
            let library = directory.join(format!("lib{name}.a"));
            let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
            rustc.args(["--edition", "2024", "--crate-type", "staticlib", "-O", "-Cpanic=abort"]);
            rustc.args(["-Crelocation-model=static", "-o"]).arg(&library).arg(source(name));
            let output = rustc.output().map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() { Ok(library) } else { Err(text) }
        };
        let right = |_: &str, words: &[&str], findings: &[String]| {
            let said = |finding: &String| words.iter().any(|word| finding.contains(word));
            if words.is_empty() { findings.is_empty() } else { findings.iter().any(said) }
        };
        if let Err(wrong) = compare(&objdump, build, right) {
            panic!("{wrong}");
        }
    }
}
