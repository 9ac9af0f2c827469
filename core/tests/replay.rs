//! Every input of the fuzz corpus, as a test that needs no fuzzer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pinfold_sim::script::{Outcome, Script, run};

/// Calls `each` with the inputs of a target. Returns how many there are.
fn replay(target: &str, mut each: impl FnMut(&Path, &[u8])) -> u32 {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in fs::read_dir(corpus).expect("the corpus is in the tree") {
        let path = entry.expect("a readable folder").path();
        let input = fs::read(&path).expect("a readable file");
        assert!(input.len() <= 4096, "{} is no small seed", path.display());
        each(&path, &input);
        replayed += 1;
    }
    replayed
}

#[test]
fn the_walk_corpus() {
    let mut pinned = BTreeMap::<u8, u32>::new();
    let replayed = replay("walk", |_, input| {
        let format = input.first().map_or(0, |byte| byte & 0xf);
        let pins = pinned.entry(format).or_default();
        *pins += u32::from(pinfold_sim::hostile::walk_and_pin(input));
    });
    assert!(replayed >= 40, "only {replayed} inputs");
    // Every format has some, and not all of them lead to nothing but errors.
    assert!(pinned.keys().copied().eq(0..=12), "{pinned:?}");
    assert!(pinned.iter().all(|(format, pins)| *pins > 0 || *format == 1), "{pinned:?}");
}

#[test]
fn the_script_corpus() {
    let mut sum = Outcome::default();
    let replayed = replay("script", |path, input| match run(&Script::from_bytes(input)) {
        Ok(outcome) => sum += outcome,
        Err(failure) => panic!("{}: {failure}", path.display()),
    });
    assert!(replayed >= 4, "only {replayed} inputs");
    assert!(sum.pinned >= 4 && sum.injected + sum.disturbed >= 4, "they do too little: {sum}");
}

#[test]
fn the_registry_corpus() {
    let (mut registered, mut removed) = (0, 0);
    let replayed = replay("registry", |_, input| {
        let outcome = pinfold_sim::regions::run(input);
        registered += outcome.registered;
        removed += outcome.removed;
    });
    assert!(replayed >= 6, "only {replayed} inputs");
    assert!(registered >= 40 && removed >= 20, "they do too little: {registered}, {removed}");
}

#[test]
fn the_iommu_corpus() {
    let (mut done, mut failed) = (0, 0);
    let replayed = replay("iommu", |_, input| {
        let outcome = pinfold_sim::hostile_io::run(input);
        (done, failed) = (done + outcome.done, failed + outcome.failed);
    });
    assert!(replayed >= 22, "only {replayed} inputs");
    assert!(done >= 60 && failed >= 20, "they do too little: {done}, {failed}");
}
