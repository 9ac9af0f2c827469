//! The page of duties and the tests agree: every duty names a test that exists, every scene here is on
//! the page, and the page says of each duty whether the kit checks it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pinfold_sim::conformance::DUTIES;

/// A duty on the page: its name, its tests as `file::name`, and whether the kit checks it.
struct Duty {
    name: String,
    tests: Vec<String>,
    checked: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn duties() -> Vec<Duty> {
    let page = fs::read_to_string(root().join("../src/host/duties.md")).expect("the page");
    let sections = page.split("\n### `").skip(1);
    let duty = |section: &str| {
        let (name, text) = section.split_once('`').expect("a name in backquotes");
        let line = |label: &str| text.lines().find_map(|line| line.strip_prefix(label));
        let test = line("- *Damage shown by*: ").unwrap_or_else(|| panic!("{name}: no test line"));
        let kit = line("- *Kit*: ").unwrap_or_else(|| panic!("{name}: no kit line"));
        for label in ["- *Why*: ", "- *Where*: ", "- *Otherwise*: "] {
            assert!(line(label).is_some(), "{name}: no line that begins with {label}");
        }
        Duty {
            name: name.to_owned(),
            tests: test.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
            checked: kit.starts_with("checks"),
        }
    };
    sections.map(duty).collect()
}

/// The tests of the scenes, as `file::name`.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for entry in fs::read_dir(root().join("tests/duties")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let file = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if ["kit", "page"].contains(&file.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        let named = text.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split('(').next());
        tests.extend(named.map(|name| format!("{file}::{name}")));
    }
    tests
}

#[test]
fn every_duty_names_a_test_and_every_test_a_duty() {
    let duties = duties();
    assert!(duties.len() > 30, "the page was not read");
    let named: Vec<String> = duties.iter().flat_map(|duty| duty.tests.clone()).collect();
    let once: BTreeSet<String> = named.iter().cloned().collect();
    assert_eq!(once.len(), named.len(), "two duties name the same test");
    assert_eq!(once, tests());
    let without: Vec<_> = duties.iter().filter(|duty| duty.tests.is_empty()).collect();
    // Their damage is undefined behaviour, which no test can show.
    assert_eq!(without.iter().map(|duty| duty.name.as_str()).collect::<Vec<_>>(), ["direct-map"]);
}

#[test]
fn the_page_says_which_duties_the_kit_checks() {
    let duties = duties();
    let checked: Vec<&str> =
        duties.iter().filter(|duty| duty.checked).map(|duty| duty.name.as_str()).collect();
    assert_eq!(checked, DUTIES);
}

#[test]
fn every_pointer_to_a_duty_leads_to_one() {
    let page = fs::read_to_string(root().join("../src/host/duties.md")).expect("the page");
    let headings: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches(['#', ' ']).replace('`', "").to_lowercase())
        .map(|heading| heading.replace(' ', "-"))
        .collect();
    let mut pointers = 0;
    for entry in fs::read_dir(root().join("../src/host")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a source");
        for pointer in text.split("duties#").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(headings.contains(pointer), "{}: no duty {pointer}", path.display());
            pointers += 1;
        }
    }
    assert!(pointers > 8, "the sources were not read");
}
