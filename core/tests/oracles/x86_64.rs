//! Walks of tables that the `x86_64` crate built: each page where its mapper says, in one pass.
//!
//! `pinfold-arch` compares entries with that crate, bit by bit; here it is whole ranges, with holes,
//! sizes side by side and rights that change on the way.

#![expect(unsafe_code, reason = "the oracle's mapper takes its root by raw pointer")]

use ::x86_64::structures::paging::mapper::{MappedPageTable, TranslateResult};
use ::x86_64::structures::paging::{
    Mapper, Page, PageSize, PageTableFlags, PhysFrame, Size2MiB, Size4KiB, Translate,
};
use pinfold::walk::{Extent, RangeWalk};
use pinfold::{AddrRange, PageCount, PageShift, Rights, VirtAddr, X86_64};
use proptest::prelude::*;

use crate::pool::Pool;

/// The range that is mapped in and walked: 8 MiB across the border of two 1 GiB entries.
const START: u64 = 0x7f3f_ffc0_0000;
const PAGES: u64 = 2048;

/// Pages to map one behind the other: from which page on, how many, to which frame, and how.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    large: bool,
    page: u64,
    pages: u64,
    frame: u64,
    flags: PageTableFlags,
}

fn mapping() -> impl Strategy<Value = Mapping> {
    let flags = prop::sample::subsequence(
        vec![PageTableFlags::WRITABLE, PageTableFlags::USER_ACCESSIBLE, PageTableFlags::NO_EXECUTE],
        0..=3,
    );
    let flags = flags.prop_map(|all| all.into_iter().collect::<PageTableFlags>());
    (any::<bool>(), 0..PAGES, 1..600_u64, 0..1_u64 << 33, flags).prop_map(
        |(large, page, pages, frame, flags)| Mapping {
            large,
            page,
            pages,
            frame,
            flags: flags | PageTableFlags::PRESENT,
        },
    )
}

fn map<S: PageSize + core::fmt::Debug>(
    mapping: &Mapping,
    mapper: &mut impl Mapper<S>,
    pool: &Pool,
) {
    let size = S::SIZE / 0x1000;
    for index in mapping.page / size..(mapping.page + mapping.pages).min(PAGES).div_ceil(size) {
        let va = ::x86_64::VirtAddr::new(START + index * S::SIZE);
        let page = Page::<S>::containing_address(va);
        let address = ((mapping.frame * 0x1000) & !(S::SIZE - 1)) + index * S::SIZE;
        let frame = PhysFrame::containing_address(::x86_64::PhysAddr::new(address));
        // SAFETY: no CPU uses these tables, so no mapping in them can alias anything.
        let done = unsafe { mapper.map_to(page, frame, mapping.flags, &mut &*pool) };
        // It refuses to map a page twice: then the first one stays.
        if let Ok(flush) = done {
            flush.ignore();
        }
    }
}

/// What unprivileged code may do with a page, or nothing: frame, size of its leaf, rights.
type Found = Option<(u64, u64, Rights)>;

/// By the oracle. Entries above a leaf have its rights, or those of others below them too: the crate
/// gives them what any page needs, so the leaf's own are what counts.
fn theirs(result: TranslateResult) -> Found {
    let TranslateResult::Mapped { frame, offset, flags } = result else { return None };
    let mut rights = Rights::READ;
    rights.set(Rights::WRITE, flags.contains(PageTableFlags::WRITABLE));
    rights.set(Rights::USER, flags.contains(PageTableFlags::USER_ACCESSIBLE));
    rights.set(Rights::EXECUTE, !flags.contains(PageTableFlags::NO_EXECUTE));
    Some(((frame.start_address().as_u64() + offset) / 0x1000, frame.size(), rights))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn each_page_is_where_the_mapper_says(mappings in prop::collection::vec(mapping(), 0..6)) {
        let pool = Pool::new();
        let top = pool.take(1);
        // SAFETY: a table that the pool does not hand out again.
        let root = unsafe { pool.root(top).as_mut() };
        // SAFETY: every table entry that the mapper writes holds a frame from the pool.
        let mut mapper = unsafe { MappedPageTable::new(root, &pool) };
        for mapping in &mappings {
            if mapping.large {
                map::<Size2MiB>(mapping, &mut mapper, &pool);
            } else {
                map::<Size4KiB>(mapping, &mut mapper, &pool);
            }
        }
        let page = |i: u64| ::x86_64::VirtAddr::new(START + i * 0x1000);
        let expected: Vec<Found> = (0..PAGES).map(|i| theirs(mapper.translate(page(i)))).collect();

        pool.hand_over();
        let format = X86_64::new(4, 52).unwrap();
        let range = AddrRange::new(VirtAddr::new(START), PageCount::new(PAGES), PageShift::SIZE_4K);
        let walk = RangeWalk::new(format, format.root(top.raw()).unwrap(), &pool, range.unwrap());
        let mut found: Vec<Found> = Vec::new();
        walk.unwrap().for_each(|extent| match extent {
            Extent::Hole { pages, .. } => found.extend((0..pages.raw()).map(|_| None)),
            Extent::Leaf(run) => found.extend((0..run.pages.raw()).map(|i| {
                Some((run.pfn.raw() + i, run.shift.bytes(), run.rights))
            })),
        }).unwrap();
        prop_assert!(found == expected, "{:?}", found.iter().zip(&expected).find(|(a, b)| a != b));
    }
}
