use super::{Row, costs, is_ours};
use crate::audit::isa::Isa;

fn row(name: &str, bytes: u64, bytes_in_all: u64, changes: u64) -> Row {
    let name = name.to_owned();
    Row { name, bytes, bytes_in_all, stack: 0, steps: 0, changes, stores: 0, loops: Vec::new() }
}

#[test]
fn a_look_up_is_small_and_changes_nothing() {
    let name = "pinfold::realmode::RealMode::lookup";
    let found = |isa, bytes, changes| costs(isa, &row(name, bytes, bytes, changes), &[]).len();
    assert_eq!(found(Isa::X86_64, 256, 0), 0);
    assert_eq!(found(Isa::X86_64, 257, 0), 1);
    assert_eq!(found(Isa::S390x, 257, 0), 0);
    assert_eq!(found(Isa::S390x, 256, 1), 1);
}

#[test]
fn what_c_calls_adds_little() {
    let callees = ["pinfold::realmode::RealMode::lookup".to_owned()];
    let found = |bytes| {
        costs(Isa::X86_64, &row("pinfold_realmode_lookup", bytes, bytes + 256, 0), &callees)
    };
    assert!(found(128).is_empty());
    assert_eq!(found(129), ["129 bytes of code, at most 128 are allowed"]);
}

#[test]
fn a_count_changes_in_one_place() {
    let found =
        |isa, changes| costs(isa, &row("pinfold_realmode_map_get", 64, 64, changes), &[]).len();
    assert_eq!([0, 1, 2].map(|changes| found(Isa::X86_64, changes)), [1, 0, 1]);
    assert_eq!([0, 1, 2].map(|changes| found(Isa::Power, changes)), [1, 0, 0]);
}

#[test]
fn only_an_answer_to_c_is_stored() {
    let found = |name, changes, stores| {
        let row = Row { stores, ..row(name, 64, 64, changes) };
        costs(Isa::S390x, &row, &[]).len()
    };
    assert_eq!([0, 1, 2].map(|stores| found("pinfold_realmode_lookup", 0, stores)), [0, 0, 1]);
    assert_eq!([0, 1].map(|stores| found("pinfold_realmode_map_put", 1, stores)), [0, 1]);
    let rust = "pinfold::realmode::RealMode::translate";
    assert_eq!([0, 1].map(|stores| found(rust, 0, stores)), [0, 1]);
}

#[test]
fn sections() {
    assert!(is_ours(".text.realmode") && is_ours(".text.realmode.lookup"));
    assert!(!is_ours(".text.realmodeish") && !is_ours(".text"));
}
