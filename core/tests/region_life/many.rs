//! Thousands of regions that share a chunk, pinned by a host's own call.

use pinfold::host::{PlainHost, SpaceId, SpinWait};
use pinfold::region::{InSpace, RegionError, Unregistered};
use pinfold::source::{HostPins, PinSource, RunSink, SourceError};
use pinfold::table::layout::HEADER_WORDS;
use pinfold::table::{Run, TooHard};
use pinfold::*;

use super::{BASE, range, words};

struct Fixed;
impl PinSource for Fixed {
    fn base(&self) -> PageShift {
        BASE
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        runs.push(Pfn::new(part.start().raw() >> 12), part.pages())
    }
    fn unpin(&self, _: Run) {}
}
#[test]
fn four_thousand_one_page_regions_in_one_chunk() {
    const REGIONS: usize = 4096;
    /// Words of a table for one page.
    const TABLE: usize = HEADER_WORDS + 1;
    let window = range(0, 1 << 24);
    let own_words = Registry::words_for(&window, 16).unwrap() + REGIONS * 8 + 520 * 40;
    let memory = words(own_words + REGIONS * TABLE);
    let (own, tables) = memory.split_at(own_words);
    let registry =
        Registry::new(Areas::new(&[memory]).unwrap(), own, &window, REGIONS as u32).unwrap();
    let pins = HostPins::new(PlainHost, Fixed);
    let pinner = InSpace { pins: &pins, space: SpaceId(1) };
    let mut regions = Vec::new();
    for (at, table) in tables.chunks(TABLE).enumerate() {
        let request = PinRequest::longterm(range(0x1000 + at as u64 * 2, 1), Access::WRITE);
        regions.push(registry.register(&pinner, &request, table).unwrap().region);
    }
    let realmode = registry.realmode();
    for (at, region) in regions.iter().enumerate() {
        let va = VirtAddr::new((0x1000 + at as u64 * 2) << 12 | 5);
        assert_eq!(realmode.lookup(va, 100), Ok(*region));
        assert_eq!(realmode.translate(*region, va, BASE), Ok(PhysAddr::new(va.raw())));
        assert_eq!(realmode.lookup(va, 4096), Err(TooHard));
        assert_eq!(realmode.lookup(VirtAddr::new(va.raw() + 4096), 1), Err(TooHard));
    }
    for region in &regions {
        let gone = registry.unregister(&pinner, *region, Dirtied::No).unwrap();
        assert!(matches!(gone, Unregistered::Gone(Some(_))));
        let again = registry.unregister(&pinner, *region, Dirtied::No);
        assert_eq!(again, Err(RegionError::NotFound));
    }
    let grace = registry.retired(&SpinWait);
    let mut given = 0;
    registry.reclaim(&SpinWait, grace, |table| given += table.len());
    assert_eq!(given, REGIONS * TABLE);
    assert!(registry.is_empty(&SpinWait));
}
