//! Row L5: how many loads that wait for one another lead from an address to its physical address.
//! Recorded by the words themselves: `RUSTFLAGS="--cfg counting" cargo test --package pinfold-benches
//! --test loads --target-dir target/counting`.
#![cfg(counting)]

use std::collections::HashSet;

use pinfold::sync::{loaded, loads};
use pinfold::{AddrRange, PageCount, VirtAddr};
use pinfold_benches::queries::Locate;
use pinfold_benches::regions::{Layout, Memory, lower_half};
use pinfold_benches::scene::BASE;

/// Most loads on the way to one of these regions' pages that wait for one another.
///
/// Which word to load next is said by the one before, but for the words of a record, which are
/// loaded together: so they are the different words, each record being one.
fn most(window: AddrRange, layout: Layout) -> usize {
    let memory = Memory::new(window, &[layout]);
    let registry = memory.registry();
    for at in 0..layout.regions {
        memory.register(&registry, at as usize);
    }
    let reader = memory.reader();
    let span = layout.span();
    let first = span.start().raw();
    // Each page of three regions, and some of all.
    let near = (0..3 * layout.pages.min(1 << 12)).map(|page| first + (page << BASE.raw()));
    let far = (0..span.pages().raw()).step_by(509).map(|page| first + (page << BASE.raw()));
    let last = span.last().raw();
    near.chain(far).chain([last]).map(|va| different(&memory, || reader.locate(va))).max().unwrap()
}

fn different(memory: &Memory, locate: impl FnOnce() -> Option<u64>) -> usize {
    let before = loads();
    assert!(locate().is_some());
    assert!(loads() - before <= 64, "more than are remembered");
    let words = (before..loads()).map(|load| memory.part(loaded(load)));
    words.collect::<HashSet<_>>().len()
}

// One test: loads are recorded for the whole program.
#[test]
fn as_many_loads_for_one_region_as_for_thousands() {
    let one = Layout::whole(4, 1);
    let small = Layout { regions: 4096, pages: 1, ..one };
    let askew = Layout { skew: 257, ..Layout::whole(4, 1024) };
    // Entries of the directory, the record, entries of the table.
    for (layout, expected) in [
        (one, 1 + 1 + 3),
        (Layout::whole(4, 16), 2 + 1 + 2),
        (Layout::whole(4, 1024), 2 + 1 + 2),
        (small, 3 + 1 + 1),
        // Where a region shares a block of 2 MiB with the next.
        (askew, 3 + 1 + 2),
    ] {
        assert_eq!(most(lower_half(), layout), expected, "{layout:?}");
    }
    // A window that is no larger than a guest has smaller blocks in its root.
    let start = VirtAddr::new(0x10_0000_0000);
    let window = AddrRange::new(start, PageCount::new(1 << 24), BASE).unwrap();
    for (layout, expected) in [
        (one, 1 + 1 + 3),
        (Layout::whole(4, 1024), 1 + 1 + 2),
        (small, 2 + 1 + 1),
        (askew, 2 + 1 + 2),
    ] {
        assert_eq!(most(window, layout), expected, "{layout:?}");
    }
}
