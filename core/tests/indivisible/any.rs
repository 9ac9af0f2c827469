//! Any mapping: what a pin says against the definition, page by page.

use pinfold::folio::FolioKind;
use proptest::prelude::*;

use super::World;
use super::source::{Behind, Source};

/// Straight from the definition: the largest order for which it holds.
fn expected(first: u64, pages: &[Behind]) -> u8 {
    let holds = |order: &u8| {
        let size = 1 << order;
        (first..).zip(pages).all(|(page, behind)| {
            // The first page of the range in the same block.
            let begin = (page - page % size).max(first);
            let other = pages[(begin - first) as usize];
            let folio = |of: Behind| (of.pfn >> of.order, of.order);
            behind.whole
                && behind.order >= *order
                && behind.pfn % size == page % size
                && folio(*behind) == folio(other)
                && behind.pfn.wrapping_sub(other.pfn) == page - begin
        })
    };
    (0..=20).rev().find(holds).unwrap_or(0)
}

/// First frame of each block of 32: all folios of a block are alike.
const BLOCKS: [(u64, u8, bool); 7] = [
    (64, 5, true),
    (96, 5, true),
    (128, 4, true),
    (160, 3, true),
    (192, 5, false),
    (224, 0, false),
    (256, 5, true),
];

fn block(number: usize) -> impl Iterator<Item = Behind> {
    let (first, order, whole) = BLOCKS[number];
    (first..first + 32).map(move |pfn| Behind { pfn, order, whole })
}

prop_compose! {
    /// Pages from some first one on: runs of any blocks, most of them aligned as their addresses are.
    fn mapping()(
        first in 0_u64..64,
        // Mostly of blocks that stay whole.
        parts in prop::collection::vec(
            (prop_oneof![6 => 0_usize..2, 1 => 0..BLOCKS.len()], 0_usize..32, 1_usize..40, 0..8),
            1..8,
        ),
    ) -> (u64, Vec<Behind>) {
        let (mut pages, mut next) = (Vec::new(), 0);
        for (number, skip, length, how) in parts {
            let aligned = (first as usize + pages.len()) % 32;
            let (number, skip, length) = match how {
                0 => (number, skip, length),
                1 => (number, aligned, length),
                2 => (number, aligned ^ 8, length),
                // The frames behind those of the last one.
                3 => (next, aligned, 32),
                _ => (number, aligned, 32),
            };
            next = (number + 1) % BLOCKS.len();
            pages.extend(block(number).skip(skip).take(length));
        }
        (first, pages)
    }
}

proptest! {
    #[test]
    fn any_mapping_is_good_for_what_the_definition_says(
        (first, pages) in mapping(),
        step in prop::sample::select(vec![1, 3, 16, 4096]),
        longest in 1_usize..64,
        chunk in 0_u8..10,
    ) {
        let mut world = World::new(512);
        world.step = step;
        for (start, order, whole) in BLOCKS {
            let kind = if whole { FolioKind::Hugetlb } else { FolioKind::Anonymous };
            (start..start + 32).step_by(1 << order).for_each(|head| world.folio(head, order, kind));
        }
        for (page, behind) in (first..).zip(&pages) {
            world.map(page, 1, behind.pfn);
        }
        let expected = expected(first, &pages);
        prop_assert_eq!(world.indivisible(first, pages.len() as u64), expected);
        let source = Source { first, pages: &pages, longest, chunk };
        prop_assert_eq!(source.indivisible(step), expected, "host pins");
    }
}
