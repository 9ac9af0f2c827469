//! `cargo xtask audit`: holds the object code of the real-mode functions against their contract.
//!
//! Source code says what is meant; only the object code says that a compiler added no call, no table,
//! no vector register and no way to panic. So the audit disassembles every real-mode function,
//! follows all of its ways, and refuses what it does not know.
//!
//! What it proves of each function and of all that it calls:
//! - no way leaves the section `.text.realmode`, by call, by jump or through a pointer;
//! - no way ends in a trap, so that none panics, and no instruction may trap by what it divides;
//! - no instruction names an address that came from no argument: no static, no constant in memory,
//!   no thread's or CPU's own data;
//! - no floating-point or vector register is used;
//! - the stack stays under a limit, and there is no recursion;
//! - there is no loop but those of `rules` with their bounds, and, on machines that change memory by
//!   reservations, those that go round only after the conditional store failed;
//! - memory is changed only by compare-and-swap, or by the conditional store of a reservation; besides
//!   there are stores to its own frame and, in a C function that answers through a pointer, one more.
//!
//! What it cannot see: whether an address computed from the arguments lies inside the declared areas,
//! whether the one store of a C function goes to the pointer that it was given, and whether a stated
//! bound is true. Tests say that. The plain stores of functions that are no service are counted with
//! the services that call them, and judged nowhere else. How often a conditional store fails is the
//! machine's affair; the steps count such a loop once. In a program that is linked to a fixed address
//! a static may look like any number: audit the object before it is linked, too.
//!
//! `elf` reads the file, `disassembly` runs the disassembler, `isa` knows the instructions, `decode`
//! follows them, `graph` finds loops, longest way and stack, `rules` has the limits, `check` holds one
//! against the other, `report` prints.

mod build;
mod check;
mod decode;
mod disassembly;
mod elf;
mod graph;
mod isa;
mod name;
mod planted;
mod report;
mod rules;

use std::path::{Path, PathBuf};

use crate::toolchain::{BARE, Target};
use check::Expected;
pub(crate) use disassembly::Objdump;
use elf::Image;

const HELP: &str = "\
usage: cargo xtask audit [--target NAME]...
       cargo xtask audit --object FILE [--symbol NAME]...

Builds the C library for machines without an operating system and audits its real-mode functions,
or audits those of another program.

  --target NAME   only this target, and those named besides
  --object FILE   any ELF: an object, an archive, a kernel module, a linked image
  --symbol NAME   this function of it must be there too, and keeps the contract
";

const NO_OBJDUMP: &str = "llvm-objdump 19 or newer is missing (Debian package llvm-19)";

/// Runs the command; the error is one line for the user.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let (mut objects, mut symbols, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().cloned().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "-h" | "--help" => {
                print!("{HELP}");
                return Ok(());
            }
            "--target" => targets.push(target(&value()?)?),
            "--object" => objects.push(PathBuf::from(value()?)),
            "--symbol" => symbols.push(value()?),
            other => return Err(format!("audit does not know `{other}` (--help: what it knows)")),
        }
    }
    match objects.as_slice() {
        [] if !symbols.is_empty() => Err("--symbol needs --object".to_owned()),
        [] if targets.is_empty() => library(BARE),
        [] => library(&targets),
        [object] if targets.is_empty() => {
            let title = object.display().to_string();
            let findings = audit(object, &title, Expected::Embedder(&symbols))?;
            verdict(findings)
        }
        [_] => Err("--object says what to audit; --target would be of no use".to_owned()),
        _ => Err("one --object at a time".to_owned()),
    }
}

fn target(name: &str) -> Result<&'static Target, String> {
    BARE.iter().copied().find(|target| target.triple == name).ok_or_else(|| {
        let names: Vec<&str> = BARE.iter().map(|target| target.triple).collect();
        format!("there is no target `{name}` to audit, but {}", names.join(", "))
    })
}

/// Builds the library for these targets and audits it.
pub(crate) fn library(targets: &[&Target]) -> Result<(), String> {
    let mut findings = 0;
    for target in targets {
        let built = build::build(target)?;
        let title = format!("{}, built with {}", target.triple, built.flags);
        findings += audit(&built.library, &title, Expected::Library)?;
    }
    verdict(findings)
}

/// Whether the audit finds what is planted, on these targets.
pub(crate) fn planted(targets: &[&Target]) -> Result<(), String> {
    let objdump = Objdump::find().ok_or(NO_OBJDUMP)?;
    for target in targets {
        planted::judge(target, &objdump).map_err(|why| format!("{}: {why}", target.triple))?;
    }
    Ok(())
}

/// How many findings there are in a file; they are printed.
fn audit(path: &Path, title: &str, expected: Expected<'_>) -> Result<usize, String> {
    let objdump = Objdump::find().ok_or(NO_OBJDUMP)?;
    let image = Image::load(path)?;
    let audit = check::check(&image, &objdump, expected)?;
    let order = if image.big_endian { "big" } else { "little" };
    report::print(&format!("{title} ({}, {order} endian)", image.isa), &audit);
    Ok(audit.findings.len())
}

fn verdict(findings: usize) -> Result<(), String> {
    match findings {
        0 => Ok(()),
        1 => Err("one real-mode function breaks the contract in one place".to_owned()),
        count => Err(format!("the real-mode contract is broken in {count} places")),
    }
}
