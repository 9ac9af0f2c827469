//! Row P8: how many words are changed in place, atomically, for each folio that is pinned and unpinned.
//! Counted by the words themselves: `RUSTFLAGS="--cfg counting" cargo test --package pinfold-benches
//! --test atomics --target-dir target/counting`.
#![cfg(counting)]

use pinfold::PageShift;
use pinfold::sync::changes;
use pinfold_benches::scene::{BASE, Layout, Scene};

/// Changes in a pin and in an unpin of so many folios.
fn changed(folios: u64, page: PageShift, mapped: PageShift) -> [u64; 2] {
    let pages = folios * page.pages(BASE).raw();
    let scene = Scene::new(Layout { pages, page, mapped, shuffled: true });
    let start = changes();
    scene.pin();
    let pinned = changes();
    scene.unpin();
    [pinned - start, changes() - pinned]
}

// One test: the count is of the whole program.
#[test]
fn a_folio_is_counted_once_however_it_is_mapped() {
    let (small, large, huge) = (PageShift::SIZE_4K, PageShift::SIZE_2M, PageShift::SIZE_1G);
    for (page, mapped) in [(small, small), (large, large), (large, small), (huge, huge)] {
        let [few, many] = [2, 8].map(|folios| changed(folios, page, mapped));
        // The table changes hands once a call; beside that it is one for each folio.
        assert_eq!(few, [2 + 1, 2 + 1], "{page:?} mapped by {mapped:?}");
        assert_eq!(many, [8 + 1, 8 + 1], "{page:?} mapped by {mapped:?}");
    }
}
