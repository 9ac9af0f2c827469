//! Long runs: each page of them, in every format and however the addresses lie to each other.

use pinfold::iopt::{IoPageTable, IoRun, UnmappedRun};
use pinfold::{Access, IovaRange, PhysAddr};
use pinfold_arch::{IoFlags, IoFormat, Iova};
use pinfold_sim::TableMemory;

use super::formats;

/// Pages before the run's end that a table's entries, groups and lines have to be passed for.
const PAGES: u64 = 1500;

#[test]
fn every_page_of_a_long_run_leads_to_its_own() {
    for format in formats() {
        let base = format.base().raw();
        for (start, from) in
            [(0, 0), (1, 0), (3, 3), (8, 24), (16, 48), (17, 33), (500, 244), (505, 9)]
        {
            let memory = TableMemory::new(16 << 20);
            let table = IoPageTable::new(format, &memory).unwrap();
            let pages = PAGES.min((format.last().raw() >> base) - start);
            let at = Iova::new(start << base);
            let addr = PhysAddr::new((1 << 36) + (from << base));
            let run = IoRun { addr, bytes: pages << base };
            table.map(&memory, at, [run], Access::READ, IoFlags::empty()).unwrap();
            for page in 0..pages {
                let inside = page << base;
                let found = table.translate(&memory, Iova::new(at.raw() + inside)).unwrap();
                let found = found.map(|found| found.addr.raw());
                assert_eq!(
                    found,
                    Some(addr.raw() + inside),
                    "{format:?}, {start}, {from}: page {page}"
                );
            }
            let range = IovaRange::new(at, run.bytes).unwrap();
            let mut unmap = table.unmap(&memory, range).unwrap();
            let mut runs = heapless::Vec::<UnmappedRun, 2>::new();
            let unmapped = unmap.step(&memory, &mut runs).unwrap().unwrap();
            let quiesced = unmapped.flushed(&memory);
            let [all] = quiesced.runs() else { panic!("{format:?}: {:?}", quiesced.runs()) };
            assert_eq!((all.at, all.addr, all.bytes), (at, addr, run.bytes), "{format:?}");
        }
    }
}
