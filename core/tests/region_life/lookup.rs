//! Every address at every border, in windows whose roots have blocks of every size, with pages of
//! every size.

use pinfold::table::TooHard;
use pinfold::*;

use super::{BASE, PinHost, Stage, page, request, words};

/// Regions in a window: pages counted from its start, and how many.
type Regions<'a> = &'a [(u64, u64)];

/// Asks for all that is near a border, and compares with a search through all regions.
fn check(base: PageShift, start: u64, pages: u64, regions: Regions<'_>) {
    let bytes = |pages: u64| pages << base.raw();
    let range = |first: u64, pages| {
        AddrRange::new(VirtAddr::new(bytes(start + first)), PageCount::new(pages), base).unwrap()
    };
    let window = range(0, pages);
    let own = words(Registry::words_for(&window, regions.len() as u32).unwrap());
    let areas = Areas::new(&[own]).unwrap();
    let registry = Registry::new(areas, own, &window, regions.len() as u32).unwrap();
    let host = PinHost::new(base);
    let mut known = Vec::new();
    for (first, pages) in regions {
        let range = range(*first, *pages);
        let region = registry.register_device(&host, &range, PhysAddr::new(0)).unwrap().region;
        known.push((range, region));
    }
    let realmode = registry.realmode();
    let mut borders = vec![0, u64::MAX, window.start().raw(), window.last().raw()];
    borders.extend(known.iter().flat_map(|(range, _)| [range.start().raw(), range.last().raw()]));
    let mut found = 0;
    for border in borders {
        let page = base.bytes();
        for va in [0, 1, 2, page - 1, page, page + 1].into_iter().flat_map(|near| {
            [VirtAddr::new(border.wrapping_add(near)), VirtAddr::new(border.wrapping_sub(near))]
        }) {
            // One byte too many, for every region; and sums that just wrap, or just do not.
            let rest = known.iter().map(|(range, _)| range.last().raw().wrapping_sub(va.raw()));
            let sizes = rest.flat_map(|rest| [rest, rest.wrapping_add(1), rest.wrapping_add(2)]);
            let wraps = va.raw().wrapping_neg();
            let special =
                [0, 1, page, wraps.wrapping_sub(1), wraps, wraps.wrapping_add(1), u64::MAX];
            for size in sizes.chain(special) {
                let last = size.checked_sub(1).and_then(|others| va.checked_add(others));
                let there = known.iter().find(|(range, _)| {
                    range.contains(va) && last.is_some_and(|last| range.contains(last))
                });
                let expected = there.map(|(_, region)| *region);
                assert_eq!(realmode.lookup(va, size).ok(), expected, "{va}, {size:#x} bytes");
                found += u32::from(expected.is_some());
            }
            for (range, region) in &known {
                let expected = va.raw().checked_sub(range.start().raw());
                let expected = expected.filter(|_| range.contains(va)).map(PhysAddr::new);
                assert_eq!(realmode.translate(*region, va, base).ok(), expected, "{va}");
            }
        }
    }
    assert!(found > 0);
}

#[test]
fn every_border_in_windows_of_every_size() {
    for base in [12, 16].map(|base| PageShift::new(base).unwrap()) {
        let top = 1 << (64 - base.raw());
        for (pages, start) in [
            (500, 0),
            (500, 700),
            (500, top - 500),
            (1 << 20, 700),
            (1 << 20, top - (1 << 20)),
            (1 << 30, 0x12_3456),
            (1 << 30, top - (1 << 30)),
            (1 << 36, 700),
            (1 << 36, top - (1 << 36)),
        ] {
            // Side by side, each page by itself, over everything, at both ends.
            check(base, start, pages, &[(0, 3), (3, 1), (4, 200), (210, 1), (pages - 1, 1)]);
            check(base, start, pages, &[(0, pages)]);
            check(base, start, pages, &[(1, pages - 2)]);
            let half = pages / 2;
            check(base, start, pages, &[(half, half), (half - 1, 1), (0, half - 1)]);
        }
    }
}

/// Memory that was pinned is translated to where each page lies, in tables of one level and of three.
#[test]
fn each_page_is_translated_to_its_frame() {
    for base in [12, 16].map(|base| PageShift::new(base).unwrap()) {
        for (first, pages) in [(100, 3), (700, 1000), ((1 << 18) - 5, (1 << 18) + 700)] {
            let host = PinHost::new(base);
            let start = VirtAddr::new(first << base.raw());
            let range = AddrRange::new(start, PageCount::new(pages), base).unwrap();
            let memory = words(2 * Registry::words_for(&range, 1).unwrap() + 4000);
            let (own, table) = memory.split_at(memory.len() - 3000);
            let registry = Registry::new(Areas::new(&[memory]).unwrap(), own, &range, 1).unwrap();
            let request = PinRequest::longterm(range, Access::READ);
            let region = registry.register(&host, &request, table).unwrap().region;
            let realmode = registry.realmode();
            for at in [0, 1, 4, 5, 6, 511, 516, 517, pages / 2, pages - 2, pages - 1] {
                let va = VirtAddr::new(((first + at) << base.raw()) + base.mask());
                let expected = (at < pages).then_some(host.behind(va));
                assert_eq!(realmode.translate(region, va, base).ok(), expected, "{at}");
            }
        }
    }
}

/// The page at address zero and the frame at address zero are a page and a frame.
#[test]
fn nothing_is_special_about_zero() {
    // Frames wrap around: what lies at the top of all addresses but for the distance has frame 0.
    let first = (1 << 52) - PinHost::DISTANCE;
    let window = AddrRange::new(page(first), PageCount::new(4096), BASE).unwrap();
    let stage = Stage::new(window, 2);
    let region = stage.register_in(&request(first, 2), stage.table(20)).unwrap().region;
    let realmode = stage.realmode();
    assert_eq!(realmode.translate(region, page(first), BASE), Ok(PhysAddr::new(0)));
    assert_eq!(realmode.translate(region, page(first + 1), BASE), Ok(PhysAddr::new(0x1000)));
    assert_eq!(stage.host.held(), 2);
    stage.unregister(region).unwrap();
    stage.reclaim();
    stage.assert_empty();
    let stage = Stage::new(super::range(0, 512), 1);
    let region = stage.register(0, 1).unwrap().region;
    assert_eq!(stage.realmode().lookup(VirtAddr::new(0), 4096), Ok(region));
    assert_eq!(stage.realmode().lookup(VirtAddr::new(0), 4097), Err(TooHard));
}
