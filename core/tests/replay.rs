//! Every input of the fuzz corpus, as a test that needs no fuzzer.

use std::fs;
use std::path::Path;

#[test]
fn the_walk_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/walk");
    let (mut replayed, mut pinned) = (0, 0);
    for entry in fs::read_dir(corpus).expect("the corpus is in the tree") {
        let path = entry.expect("a readable folder").path();
        let input = fs::read(&path).expect("a readable file");
        assert!(input.len() <= 4096, "{} is no small seed", path.display());
        pinned += u32::from(pinfold_sim::hostile::walk_and_pin(&input));
        replayed += 1;
    }
    assert!(replayed >= 7, "only {replayed} inputs");
    assert!(pinned >= 2, "the seeds reach only errors: {pinned} pins");
}
