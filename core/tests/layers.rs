//! A module imports only modules above it in `lib.rs`: data goes one way.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The modules of a crate in the order of its `lib.rs`.
fn order(lib: &str) -> Vec<String> {
    let name = |line: &str| {
        let rest = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "))?;
        rest.strip_suffix(';').map(str::to_owned)
    };
    lib.lines().filter_map(name).collect()
}

/// The modules that a line of code names as `crate::name`.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        &rest[..end]
    })
}

/// Every import that goes downwards, as "file: line".
fn wrong(root: &Path) -> Vec<String> {
    let lib = fs::read_to_string(root.join("lib.rs")).expect("lib.rs");
    let order = order(&lib);
    let place = |module: &str| order.iter().position(|name| name == module);
    let mut files = Vec::new();
    sources(root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(root).expect("below the root");
        let top = inside.iter().next().and_then(|part| part.to_str()).unwrap_or("");
        let module = top.strip_suffix(".rs").unwrap_or(top);
        let Some(own) = place(module) else { continue };
        let text = fs::read_to_string(&file).expect("a readable file");
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            if named(line).filter_map(place).any(|used| used > own) {
                wrong.push(format!("{}: {}", inside.display(), line.trim()));
            }
        }
    }
    wrong
}

#[test]
fn modules_import_upwards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src", "../arch/src"] {
        let wrong = wrong(&root.join(folder));
        assert!(wrong.is_empty(), "{folder}:\n{}", wrong.join("\n"));
    }
}

#[test]
fn the_check_sees_what_is_named() {
    let line = "use crate::walk::{a, b}; fn f(x: crate::table::PinTable) {}";
    assert_eq!(named(line).collect::<Vec<_>>(), ["walk", "table"]);
    assert_eq!(order("pub mod a;\nmod b;\n// pub mod c;\n"), ["a", "b"]);
}
