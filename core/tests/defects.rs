//! `DEFECTS.md` and the tests agree: every row names tests that exist, and every id that a source
//! names has a row.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Row id and the tests that it names.
fn rows() -> BTreeMap<String, Vec<String>> {
    let text = include_str!("DEFECTS.md");
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let id = cells.get(1)?;
        let number = id.strip_prefix('D')?.parse::<u32>().ok()?;
        let tests = cells.get(5)?.split(", ").map(|test| test.trim_matches('`').to_owned());
        Some((format!("D{number}"), tests.collect()))
    };
    text.lines().filter_map(row).collect()
}

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

/// Ids such as D12 in a text.
fn ids(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c))
        .filter(|token| {
            token.strip_prefix('D').is_some_and(|rest| {
                !rest.is_empty() && rest.len() <= 2 && rest.bytes().all(|b| b.is_ascii_digit())
            })
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_row_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = rows();
    assert!(rows.len() > 30, "the table was not read: {rows:?}");
    for (id, test) in rows.iter().flat_map(|(id, tests)| tests.iter().map(move |test| (id, test))) {
        let (place, name) = test.rsplit_once("::").expect("file::test");
        let path = format!("{}.rs", place.replace("::", "/"));
        let tests = root.join("tests").join(&path);
        let file = if tests.exists() { tests } else { root.join("src").join(&path) };
        let text = fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{id}: {}: {error}", file.display()));
        assert!(
            text.contains(&format!("fn {name}(")),
            "{id}: no test {name} in {}",
            file.display()
        );
    }
}

#[test]
fn every_id_in_the_sources_has_a_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = rows();
    let mut files = Vec::new();
    for folder in ["src", "tests", "sim/src", "../arch/src", "../arch/tests", "../ffi/src"] {
        sources(&root.join(folder), &mut files);
    }
    for file in files.iter().filter(|file| !file.ends_with("defects.rs")) {
        let text = fs::read_to_string(file).expect("a readable file");
        let comments = text.lines().filter(|line| line.trim_start().starts_with("//"));
        for id in comments.flat_map(ids) {
            assert!(rows.contains_key(&id), "{id} in {} has no row", file.display());
        }
    }
}
