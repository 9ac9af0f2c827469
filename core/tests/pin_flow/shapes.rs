//! Folios and mappings of every size and alignment.

use pinfold::folio::FolioFlags;
use pinfold::table::layout::HEADER_WORDS;
use pinfold::table::{Run, TableError};
use pinfold::{Dirtied, Order, PageShift, Pfn, PinCause, PinTable, VirtAddr};
use pinfold_sim::model::Model;
use pinfold_sim::{FileKind, Layout, MapSpec, Thp, Want, mib};

use super::{AT, BOTH, HUGE, coherent, nothing_misplaced, request, words};

/// D59: the offset in a folio was taken from the alignment of the address. Here folios are mapped
/// off their alignment, and the range begins and ends inside them.
#[test]
fn folios_mapped_anywhere_and_ranges_that_begin_inside_them() {
    scene!(machine, bench, Layout::small());
    let four = Order::new(4).unwrap();
    let file = machine.add_file(FileKind::Shmem, 256, four);
    let odd = AT + 0x3000;
    bench.map(MapSpec { offset: 5, ..MapSpec::shared(odd, 200, file) });
    bench.touch(odd, 200, BOTH);
    for (skip, pages) in [(0, 200), (1, 199), (7, 30), (11, 16), (12, 1)] {
        let at = odd + (skip << 12);
        bench
            .while_pinned(&request(at, pages, BOTH), |table, _| {
                nothing_misplaced(&bench, table);
                for i in 0..pages {
                    let va = at + (i << 12) + 0x77;
                    let addr = table.lookup(VirtAddr::new(va)).unwrap();
                    let mapped = machine.translate(bench.space.id(), va, BOTH);
                    assert_eq!(Some(addr), mapped, "page {i}");
                }
                coherent(&bench, table, at);
            })
            .unwrap();
    }
}

#[test]
fn a_run_of_a_large_folio_is_one_count_however_it_is_mapped() {
    for thp in [Thp::Whole, Thp::Split] {
        scene!(machine, bench, Layout::new(Pfn::new(0x1000)).normal(mib(32)));
        bench.map(MapSpec::anonymous(AT, 4 * HUGE).with_thp(thp));
        bench.touch(AT, 4 * HUGE, BOTH);
        bench
            .while_pinned(&request(AT, 4 * HUGE, BOTH), |table, pinned| {
                assert_eq!(pinned.runs, 4, "{thp:?}");
                assert_eq!(bench.counts(AT).pins(), 512);
                assert!(table.used_words() < HEADER_WORDS + 4 + 4, "{} words", table.used_words());
            })
            .unwrap();
    }
}

#[test]
fn a_table_of_any_size_pins_or_says_what_it_needs() {
    scene!(machine, bench, Layout::small());
    // Small pages, a hole, a huge page mapped whole: more than one node, and untouched memory.
    bench.map(MapSpec::anonymous(AT, HUGE + 40));
    bench.map(MapSpec::anonymous(AT + ((HUGE * 2) << 12), HUGE).with_thp(Thp::Whole));
    bench.map(MapSpec::anonymous(AT + ((HUGE + 40) << 12), HUGE - 40));
    bench.touch(AT, 30, BOTH);
    bench.touch(AT + ((HUGE * 2) << 12), HUGE, BOTH);
    let request = request(AT, 3 * HUGE, BOTH);
    let need = {
        let memory = words(4000);
        let table = PinTable::new(&memory).unwrap();
        bench.pin(&table, &request).unwrap();
        let need = table.used_words();
        bench.engine().unpin(&table, Dirtied::No).unwrap();
        need
    };
    for size in 0..need {
        let memory = words(size);
        let error = match PinTable::new(&memory) {
            Err(error) => {
                assert!(size < HEADER_WORDS);
                error
            }
            Ok(table) => match bench.pin(&table, &request).unwrap_err().cause {
                PinCause::Table(error) => {
                    assert_eq!(error, TableError::NoSpace { need }, "{size} words");
                    error
                }
                other => panic!("{other}"),
            },
        };
        assert!(matches!(error, TableError::NoSpace { .. }));
        bench.nothing_is_held(&request);
    }
    let memory = words(need);
    let table = PinTable::new(&memory).unwrap();
    bench.pin(&table, &request).unwrap();
    bench.engine().unpin(&table, Dirtied::No).unwrap();
}

/// D12: a request to split a mapping met a hugetlb page. Here nobody can ask for that, and no pin
/// splits one: not of a part of it, nor when it must be moved first.
#[test]
fn a_hugetlb_page_is_never_split_by_a_pin() {
    scene!(machine, bench, Layout::small());
    let nine = Order::new(9).unwrap();
    machine.reserve_huge(nine, Want::Movable).unwrap();
    bench.map(MapSpec::hugetlb(AT, HUGE, nine));
    bench.touch(AT, HUGE, BOTH);
    assert!(bench.folio(AT).info().flags.contains(FolioFlags::MOVABLE));
    for (first, pages, moved) in [(511, 1, 1), (3, 200, 0), (0, HUGE, 0)] {
        bench
            .while_pinned(&request(AT + (first << 12), pages, BOTH), |table, pinned| {
                assert_eq!((pinned.migrated, pinned.runs), (moved, 1));
                nothing_misplaced(&bench, table);
                assert_eq!(
                    (bench.folio(AT).order(), bench.counts(AT).pins()),
                    (nine, pages as u32)
                );
                // One entry maps it: one reference beside those of the pins.
                assert_eq!(bench.counts(AT).references(), pages as u32 + 1);
            })
            .unwrap();
    }
}

/// D26, D27, D28, D29: the size of an IOMMU page was taken from the level of the page table that
/// mapped the memory, or from the page before, and reached past what was pinned. Here runs are
/// what a size can be taken from: frames in a row, all pinned, whatever maps them, and they stay
/// so when the mapping is split afterwards.
#[test]
fn a_run_is_frames_in_a_row_that_are_all_pinned_however_they_are_mapped() {
    scene!(machine, bench, Layout::new(Pfn::new(0x1000)).normal(mib(24)));
    let four = machine.add_file(FileKind::Shmem, 64, Order::new(4).unwrap());
    // A huge page, base pages every second of which lies elsewhere, a huge page mapped by base
    // pages, folios of 64 KiB off their alignment, a huge page.
    let [whole, small, split, odd, last] = [0, 1, 2, 3, 4].map(|part| AT + ((part * HUGE) << 12));
    bench.map(MapSpec::anonymous(whole, HUGE).with_thp(Thp::Whole));
    bench.map(MapSpec::anonymous(small, HUGE));
    bench.map(MapSpec::anonymous(split, HUGE).with_thp(Thp::Split));
    bench.map(MapSpec { offset: 5, ..MapSpec::shared(odd, 50, four) });
    bench.map(MapSpec::anonymous(odd + (50 << 12), HUGE - 50));
    bench.map(MapSpec::anonymous(last, HUGE).with_thp(Thp::Whole));
    for page in (0..HUGE).step_by(2).chain((1..HUGE).step_by(2)) {
        bench.touch(small + (page << 12), 1, BOTH);
    }
    let request = request(AT + 0x3000, 5 * HUGE - 7, BOTH);
    bench
        .while_pinned(&request, |table, _| {
            let runs: Vec<_> = table.runs().collect();
            let look = || {
                let mut next = request.range.start();
                for run in &runs {
                    assert_eq!(run.va, next, "a gap");
                    for i in 0..run.pages.raw() {
                        let pfn = Pfn::new(run.pfn.raw() + i);
                        let mapped = machine.translate(bench.space.id(), next.raw(), BOTH);
                        assert_eq!(pfn.addr(PageShift::SIZE_4K), mapped, "at {next}");
                        let folio = machine.frames().folio(pfn).unwrap();
                        assert!(machine.frames().counts_of(folio).pins() > 0, "at {next}");
                        next = VirtAddr::new(next.raw() + 0x1000);
                    }
                }
                assert_eq!(next.raw(), request.range.start().raw() + ((5 * HUGE - 7) << 12));
            };
            look();
            let longest = |at: u64| {
                let inside = |run: &&Run| (at..at + (HUGE << 12)).contains(&run.va.raw());
                runs.iter().filter(inside).map(|run| run.pages.raw()).max()
            };
            assert_eq!(longest(small), Some(1), "base pages are base pages, behind a huge one too");
            assert_eq!(longest(split), Some(HUGE), "entries are small, the folio is not");
            machine.split_mapping(bench.space.id(), whole).unwrap();
            machine.split_mapping(bench.space.id(), last).unwrap();
            machine.split_folio(bench.space.id(), last).unwrap_err();
            look();
        })
        .unwrap();
}

/// D72: a walker kept the length of the run before. Here short runs follow long ones and long ones
/// short ones, from any page of the range to any other.
#[test]
fn runs_of_changing_length_are_each_recorded_with_their_own() {
    scene!(machine, bench, Layout::new(Pfn::new(0x1000)).normal(mib(24)));
    let file = machine.add_file(FileKind::Shmem, 4096, Order::new(3).unwrap());
    // Frames in a row, then every third one missing, then none in a row, and again.
    let pages = 600;
    for (i, at) in (0..pages).enumerate() {
        let offset = match i / 100 % 3 {
            0 => at,
            1 => at + at / 3,
            _ => 4000 - 2 * at,
        };
        bench.map(MapSpec { offset, ..MapSpec::shared(AT + (at << 12), 1, file) });
    }
    bench.touch(AT, pages, BOTH);
    for (first, length) in [(0, pages), (95, 10), (195, 10), (1, 333), (299, 2), (250, 350)] {
        bench
            .while_pinned(&request(AT + (first << 12), length, BOTH), |table, _| {
                for page in first..first + length {
                    let va = AT + (page << 12);
                    let mapped = machine.translate(bench.space.id(), va, BOTH);
                    assert_eq!(table.lookup(VirtAddr::new(va)).ok(), mapped, "page {page}");
                }
                let sum: u64 = table.runs().map(|run| run.pages.raw()).sum();
                assert_eq!(sum, length);
            })
            .unwrap();
    }
    Model::new().check(&machine).unwrap();
}
