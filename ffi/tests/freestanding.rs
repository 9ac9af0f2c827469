//! The library without an operating system below: what it needs, what it shows, and that it works.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget};

#[path = "tools/installed.rs"]
mod installed;
#[path = "tools/library.rs"]
mod library;

/// All that a program must provide; the README and the header say the same.
const NEEDED: &[&str] = &["memcmp", "memcpy", "memmove", "memset", "pinfold_host_panic"];

/// The installed object, made in `folder`: tests that run at the same time have one each.
fn object(folder: &str) -> PathBuf {
    let args = ["--no-default-features", "--features", "panic-handler"];
    let archive = library::archive("freestanding", "release", &args);
    installed::one_object(&archive, &library::scratch(folder), &declared())
}

fn symbols(object: &Path, wanted: impl Fn(&object::Symbol<'_, '_>) -> bool) -> BTreeSet<String> {
    let bytes = std::fs::read(object).expect("the object");
    let file = object::File::parse(&*bytes).expect("an object file");
    file.symbols()
        .filter(|symbol| symbol.is_global() && wanted(symbol))
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned))
        .collect()
}

/// Functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header = std::fs::read_to_string(library::file("include/pinfold.h")).expect("the header");
    header
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '#']))
        .filter_map(|line| line.split_once('('))
        .filter_map(|(before, _)| before.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("pinfold_"))
        .map(str::to_owned)
        .collect()
}

#[test]
#[ignore = "needs a C compiler: cargo xtask test c"]
fn it_runs_without_a_c_library() {
    let object = object("freestanding-program");
    let program = object.with_file_name("program");
    let mut cc = library::cc();
    cc.args(["-ffreestanding", "-nostdlib", "-static", "-nostartfiles", "-fno-stack-protector"]);
    cc.arg("-o").arg(&program).arg(library::file("tests/c/freestanding.c"));
    cc.arg(object.with_file_name(installed::INSTALLED));
    library::run(&mut cc);
    library::run(&mut Command::new(program));
}

#[test]
#[ignore = "needs a C compiler: cargo xtask test c"]
fn it_needs_and_shows_only_what_it_says() {
    let object = object("freestanding-symbols");
    let undefined = symbols(&object, |symbol| symbol.is_undefined());
    let needed: BTreeSet<String> = NEEDED.iter().map(|name| (*name).to_owned()).collect();
    let more: Vec<_> = undefined.difference(&needed).collect();
    assert!(more.is_empty(), "a program would have to provide {more:?}");

    let shown = symbols(&object, |symbol| symbol.is_definition());
    assert_eq!(shown, declared(), "what is shown and what the header declares");
}

/// What the compiled code refers to: a panic that the optimiser could not rule out would show here.
#[test]
#[ignore = "needs a C compiler: cargo xtask test c"]
fn no_panic_is_left_in_it() {
    let bytes = std::fs::read(object("freestanding-panics")).expect("the object");
    let file = object::File::parse(&*bytes).expect("an object file");
    let panics = file.symbol_by_name("pinfold_host_panic").map(|symbol| symbol.index());
    let mut relocations = 0;
    for section in file.sections() {
        for (_, relocation) in section.relocations() {
            relocations += 1;
            let RelocationTarget::Symbol(target) = relocation.target() else { continue };
            assert_ne!(Some(target), panics, "in {}", section.name().unwrap_or("?"));
        }
    }
    assert!(relocations > 100, "the object has no code");
}
