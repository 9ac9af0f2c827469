//! Whether the real-mode functions stand where they should, and refer to nothing elsewhere.
//!
//! A quick look at the relocations of the library without an operating system. What the instructions
//! do is the business of `cargo xtask audit`.

use std::collections::BTreeSet;

use object::read::archive::ArchiveFile;
use object::{Object, ObjectSection, ObjectSymbol, RelocationKind, RelocationTarget};

#[path = "tools/library.rs"]
#[expect(dead_code, reason = "no C compiler is needed here")]
mod library;

const SECTION: &str = ".text.realmode";

/// The functions that C calls.
const FUNCTIONS: &[&str] = &[
    "pinfold_realmode_lookup",
    "pinfold_realmode_translate",
    "pinfold_realmode_map_get",
    "pinfold_realmode_map_put",
    "pinfold_realmode_mark_dirty",
];

/// What the linker puts in by arithmetic, without a look at memory: Power's base of addresses.
const COMPUTED: &[&str] = &[".TOC."];

/// Calls go straight to their target, as in a kernel, not through a table of addresses in memory.
const ARGS: &[&str] =
    &["--no-default-features", "--features", "panic-handler", "--", "-Crelocation-model=static"];

#[test]
fn real_mode_refers_to_nothing_outside_its_section() {
    let archive =
        std::fs::read(library::archive("sections", "release", ARGS)).expect("the archive");
    let members = ArchiveFile::parse(&*archive).expect("an archive");
    let objects: Vec<_> = members
        .members()
        .map(|member| member.expect("a member").data(&*archive).expect("its bytes"))
        .filter_map(|bytes| object::File::parse(bytes).ok())
        .collect();

    let inside: BTreeSet<&str> = objects.iter().flat_map(names_inside).collect();
    for name in FUNCTIONS {
        assert!(inside.contains(name), "{name} is not in {SECTION}");
    }
    for object in &objects {
        for section in object.sections().filter(|section| section.name() == Ok(SECTION)) {
            for (at, relocation) in section.relocations() {
                let name = target(object, relocation.target());
                let stays = inside.contains(name) || COMPUTED.contains(&name);
                assert!(stays, "{SECTION}+{at:#x} refers to {name}");
                let direct = relocation.kind() != RelocationKind::GotRelative;
                assert!(direct, "{SECTION}+{at:#x} reads the address of {name} from memory");
            }
        }
    }
}

/// Names of the symbols in the section, and of the section itself.
fn names_inside<'a>(object: &'a object::File<'a>) -> Vec<&'a str> {
    let section = |symbol: &object::Symbol<'a, 'a>| {
        object.section_by_index(symbol.section_index()?).ok()?.name().ok()
    };
    object
        .symbols()
        .filter(|symbol| section(symbol) == Some(SECTION))
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| !name.is_empty())
        .chain([SECTION])
        .collect()
}

/// The name of what a relocation is to.
fn target<'a>(object: &'a object::File<'a>, target: RelocationTarget) -> &'a str {
    let RelocationTarget::Symbol(index) = target else { return "no symbol" };
    let symbol = object.symbol_by_index(index).expect("a symbol");
    match symbol.name() {
        Ok(name) if !name.is_empty() => name,
        // A section's own symbol has no name.
        _ => symbol
            .section_index()
            .and_then(|index| object.section_by_index(index).ok()?.name().ok())
            .unwrap_or("a symbol without a name"),
    }
}
