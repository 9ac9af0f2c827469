//! How large the IOMMU pages of a region may be: never larger than what is pinned, stays together
//! and is released together.

use pinfold::host::{PlainHost, SourceError, SpaceId};
use pinfold::region::InSpace;
use pinfold::source::{HostPins, PinSource, RunSink};
use pinfold::table::Run;
use pinfold::*;

use super::{BASE, page, range, request, words};

/// What is behind a range: first page, first frame, pages, and the order of the folios if they can
/// never be split.
type Folios = &'static [(u64, u64, u64, u8)];

struct Mixed(Folios);

impl PinSource for Mixed {
    fn base(&self) -> PageShift {
        BASE
    }
    fn chunk(&self) -> Order {
        Order::new(18).unwrap()
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        let mut at = part.start().raw() >> 12;
        let end = at + part.pages().raw();
        while at < end {
            let (first, pfn, pages, order) =
                *self.0.iter().find(|folio| (folio.0..folio.0 + folio.2).contains(&at)).unwrap();
            let pfn = pfn + at - first;
            let folio = if order == 0 { pages } else { (1 << order) - pfn % (1 << order) };
            let run = folio.min((first + pages).min(end) - at);
            let order = Order::new(order).unwrap();
            runs.push_indivisible(Pfn::new(pfn), PageCount::new(run), order)?;
            at += run;
        }
        Ok(())
    }
    fn unpin(&self, _: Run) {}
}

/// The largest IOMMU page of a region of so many pages from page 0x40000 (1 GiB) on, as a shift.
fn usable(first: u64, pages: u64, folios: Folios) -> u8 {
    let window = range(0, 1 << 24);
    let memory = words(Registry::words_for(&window, 1).unwrap() + 4000);
    let (own, table) = memory.split_at(memory.len() - 4000);
    let registry = Registry::new(Areas::new(&[memory]).unwrap(), own, &window, 1).unwrap();
    let pins = HostPins::new(PlainHost, Mixed(folios));
    let pinner = InSpace { pins: &pins, space: SpaceId(1) };
    let region = registry.register(&pinner, &request(first, pages), table).unwrap().region;
    let usable = registry.region(region).unwrap().usable;
    // That is what a translation goes by, everywhere in the region.
    let realmode = registry.realmode();
    for at in [first, first + pages / 2, first + pages - 1] {
        for shift in 12..=40 {
            let found = realmode.translate(region, page(at), PageShift::new(shift).unwrap());
            assert_eq!(found.is_ok(), shift <= usable.raw(), "{shift}");
        }
    }
    registry.unregister(&pinner, region, Dirtied::No).unwrap();
    usable.raw()
}

const G: u64 = 0x4_0000;

#[test]
fn folios_that_are_never_split_carry_pages_as_large_as_they_are() {
    assert_eq!(usable(G, 1024, &[(G, 0x800, 512, 9), (G + 512, 0x200, 512, 9)]), 21);
    assert_eq!(usable(G, G, &[(G, 0x8_0000, G, 18)]), 30);
}

/// D26: a large folio that may be mapped in smaller pieces tomorrow is base pages today.
#[test]
fn folios_that_can_be_split_carry_base_pages() {
    assert_eq!(usable(G, 512, &[(G, 0x800, 512, 0)]), 12);
}

/// D27: a page of the IOMMU never reaches past what is behind it, nor past the region.
#[test]
fn ends_inside_a_folio_make_pages_smaller() {
    const HUGE: Folios = &[(G, 0x8_0000, G, 18)];
    assert_eq!(usable(G + 512, 1024, HUGE), 21, "the region begins inside the folio");
    assert_eq!(usable(G, 512, HUGE), 21, "and ends inside it");
    assert_eq!(usable(G + 16, 512, HUGE), 16);
    assert_eq!(usable(G + 16, 8, HUGE), 15);
    assert_eq!(usable(G + 1, 512, HUGE), 12);
    assert_eq!(usable(G, 513, HUGE), 12);
}

/// D28: with pages of several sizes the smallest counts, and serves everywhere.
#[test]
fn of_several_sizes_the_smallest_counts() {
    assert_eq!(usable(G, 1024, &[(G, 0x800, 512, 9), (G + 512, 0x1010, 512, 4)]), 16);
    assert_eq!(usable(G, 512, &[(G, 0x800, 256, 8), (G + 256, 0x1010, 256, 4)]), 16);
}

/// D29: a large page says nothing of the base pages behind it, nor of those in front of it.
#[test]
fn base_pages_behind_a_large_one_are_base_pages() {
    assert_eq!(usable(G, 1024, &[(G, 0x800, 512, 9), (G + 512, 0x1000, 512, 0)]), 12);
    assert_eq!(usable(G, 1024, &[(G, 0x1000, 512, 0), (G + 512, 0x800, 512, 9)]), 12);
}
