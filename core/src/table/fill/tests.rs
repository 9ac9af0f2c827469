use crate::table::layout::HEADER_WORDS;
use std::collections::BTreeMap;
use std::vec::Vec;

use pinfold_arch::{Access, AddrRange, PageCount, PageShift, Pfn, PhysAddr, VirtAddr};
use proptest::prelude::*;

use super::Filler;
use crate::host::Step;
use crate::request::{AccountId, HolderId, PinFlags, PinRequest};
use crate::sync::Word;
use crate::table::{Keeper, PinTable, Run, TableError};

const BASE: PageShift = PageShift::SIZE_4K;

fn request(first_page: u64, pages: u64) -> PinRequest {
    let start = VirtAddr::new(first_page << BASE.raw());
    PinRequest {
        range: AddrRange::new(start, PageCount::new(pages), BASE).unwrap(),
        access: Access::READ,
        flags: PinFlags::LONGTERM,
        holder: HolderId(7),
        account: AccountId(9),
        revocable: false,
    }
}

fn words(n: usize) -> Vec<Word> {
    (0..n).map(|_| Word::new(0x5555_5555_5555_5555)).collect()
}

/// Fills a table with folio pieces (frame, pages) in a row; what it needs, if the words run out.
fn fill(table: &PinTable<'_>, first: u64, pieces: &[(u64, u64)]) -> Result<usize, usize> {
    let total = pieces.iter().map(|piece| piece.1).sum();
    let geometry = table.begin(&request(first, total), Keeper::Frames).unwrap();
    let mut filler = Filler::new(*table, geometry);
    for (pfn, pages) in pieces {
        let recorded = filler.place(Pfn::new(*pfn), PageCount::new(*pages));
        if filler.check().is_ok() {
            assert_eq!(recorded.raw(), *pages);
        }
    }
    match filler.check() {
        Ok(()) => {
            let mut from = 0;
            while let Some(next) = table.convert(&geometry, from, Step::new(7)) {
                from = next;
            }
            table.publish();
            Ok(table.used_words())
        }
        Err(TableError::NoSpace { need }) => Err(need),
        Err(other) => panic!("{other}"),
    }
}

/// Every page answers with its own frame, and nothing around the range answers.
fn check(table: &PinTable<'_>, first: u64, pieces: &[(u64, u64)]) {
    let mut page = first;
    for (pfn, pages) in pieces {
        for i in 0..*pages {
            let expected = PhysAddr::new((pfn + i) << 12 | 0x123);
            assert_eq!(table.lookup(VirtAddr::new(page << 12 | 0x123)), Ok(expected));
            page += 1;
        }
    }
    assert!(table.lookup(VirtAddr::new((first << 12) - 1)).is_err());
    assert!(table.lookup(VirtAddr::new(page << 12)).is_err());
    let listed: u64 = table.runs().map(|run| run.pages.raw()).sum();
    assert_eq!(listed, page - first);
}

/// Folio pieces as a pin call meets them: any folio order, mapped anywhere, cut at the ends.
fn pieces() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let piece = (0u64..1 << 20, prop_oneof![Just(1u64), Just(16), Just(512), 1u64..600]);
    prop::collection::vec(piece, 1..24)
}

proptest! {
    #[test]
    fn whatever_is_recorded_is_found(first in 1u64..5000, pieces in pieces()) {
        let total: u64 = pieces.iter().map(|piece| piece.1).sum();
        let bound = PinTable::words_for(&request(first, total).range, BASE).unwrap();
        let words = words(bound);
        let table = PinTable::new(&words).unwrap();
        prop_assert!(fill(&table, first, &pieces).is_ok_and(|used| used <= bound));
        check(&table, first, &pieces);
    }

    #[test]
    fn the_need_is_exact_for_every_size(first in 1u64..5000, pieces in pieces()) {
        let generous = words(40_000);
        let need = fill(&PinTable::new(&generous).unwrap(), first, &pieces).unwrap();
        for size in (HEADER_WORDS..need).step_by(1 + need / 50) {
            let short = words(size);
            let table = PinTable::new(&short).unwrap();
            prop_assert_eq!(fill(&table, first, &pieces), Err(need));
        }
        let exact = words(need);
        let table = PinTable::new(&exact).unwrap();
        prop_assert_eq!(fill(&table, first, &pieces), Ok(need));
        check(&table, first, &pieces);
    }
}

#[test]
fn what_was_recorded_before_the_words_ran_out_is_still_there() {
    // One coarse node that a single page makes finer than the words allow.
    let pieces = [(0x1000, 256), (0x9000, 1)];
    let words = words(HEADER_WORDS + 2 + 2);
    let table = PinTable::new(&words).unwrap();
    let geometry = table.begin(&request(0x200, 700), Keeper::Frames).unwrap();
    let mut filler = Filler::new(table, geometry);
    let recorded: Vec<u64> = pieces
        .iter()
        .map(|(pfn, pages)| filler.place(Pfn::new(*pfn), PageCount::new(*pages)).raw())
        .collect();
    assert_eq!(recorded, [256, 0]);
    let held: Vec<Run> = table.held(filler.held()).collect();
    assert_eq!(held.len(), 1);
    assert_eq!((held[0].pfn.raw(), held[0].pages.raw()), (0x1000, 256));
}

/// Bytes per page for a gibibyte of equal folios, the header apart.
fn bytes_per_page(order: u32) -> f64 {
    let pages = 1u64 << 18;
    let words = words(300_000);
    let table = PinTable::new(&words).unwrap();
    let pieces: Vec<(u64, u64)> =
        (0..pages >> order).map(|i| ((i * 7919 % 4096) << order, 1 << order)).collect();
    let used = fill(&table, 1 << 18, &pieces).unwrap();
    ((used - HEADER_WORDS) * 8) as f64 / pages as f64
}

#[test]
fn the_table_is_as_small_as_the_folios_are_large() {
    assert!(bytes_per_page(0) <= 8.1);
    assert!(bytes_per_page(4) <= 0.6);
    assert!(bytes_per_page(9) <= 0.02);
    assert!(bytes_per_page(18) <= 0.0001);
}

#[test]
fn a_region_inside_a_large_folio_is_one_entry() {
    // Starts and ends in the middle of a 1 GiB folio.
    let (first, pages) = ((1 << 18) + 0x123, 0x20_000);
    let words = words(HEADER_WORDS + 257);
    let table = PinTable::new(&words).unwrap();
    assert_eq!(fill(&table, first, &[(0x40_0123, pages)]), Ok(HEADER_WORDS + 257));
    check(&table, first, &[(0x40_0123, pages)]);
}

#[test]
fn the_bound_holds_for_every_granule() {
    for (first, pages) in [(1, 1), (0x1ff, 2), (0x200, 512), (0x201, 5000), (0x3_ffff, 0x8_0001)] {
        let range = request(first, pages).range;
        let mut last = usize::MAX;
        for shift in [12, 16, 21, 30] {
            let granule = PageShift::new(shift).unwrap();
            let bound = PinTable::words_for(&range, granule).unwrap();
            assert!(bound <= last, "a coarser granule needs more words");
            last = bound;
        }
    }
}

#[test]
fn a_dirty_mark_stays_with_its_block() {
    let pieces = [(0x1000, 16), (0x2000, 16)];
    let words = words(100);
    let table = PinTable::new(&words).unwrap();
    fill(&table, 0x10, &pieces).unwrap();
    table.mark_dirty(VirtAddr::new(0x25 << 12)).unwrap();
    assert!(table.mark_dirty(VirtAddr::new(0x30 << 12)).is_err());
    let mut dirty = BTreeMap::new();
    for run in table.runs() {
        for i in 0..run.pages.raw() {
            dirty.insert(run.pfn.raw() + i, run.dirty);
        }
    }
    assert!(dirty.iter().all(|(pfn, dirty)| *dirty == (*pfn == 0x2005)));
}
