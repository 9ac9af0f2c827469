//! Walks of tables that the `x86_64` crate built: each page where its mapper says, in one pass.
//!
//! `pinfold-arch` compares entries with that crate, bit by bit; here it is whole ranges, with holes,
//! sizes side by side and rights that change on the way.

#![expect(unsafe_code, reason = "the oracle's mapper takes table memory by raw pointer")]

use pinfold::host::{PhysMem, TableView};
use pinfold::sync::Word;
use pinfold::walk::{Extent, RangeWalk};
use pinfold::{AddrRange, PageCount, PageShift, PhysAddr, Rights, VirtAddr, X86_64};
use proptest::prelude::*;
use x86_64::structures::paging::mapper::{MappedPageTable, PageTableFrameMapping, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, Page, PageSize, PageTable, PageTableFlags, PhysFrame, Size2MiB,
    Size4KiB, Translate,
};

/// Where tables pretend to be, and how many there can be: a top one, and three for each mapping.
const POOL: u64 = 0x2a_0000_0000;
const TABLES: usize = 32;
/// The range that is mapped in and walked: 8 MiB across the border of two 1 GiB entries.
const START: u64 = 0x7f3f_ffc0_0000;
const PAGES: u64 = 2048;

#[derive(Clone, Copy)]
struct Pool {
    first: *mut PageTable,
    used: usize,
}

// SAFETY: frames are handed out once each, from 1 on, and stay inside the pool.
unsafe impl FrameAllocator<Size4KiB> for Pool {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.used += 1;
        assert!(self.used < TABLES);
        Some(PhysFrame::containing_address(x86_64::PhysAddr::new(POOL + 0x1000 * self.used as u64)))
    }
}

// SAFETY: each frame of the pool has one table, and the mapper gets no other frame to look at.
unsafe impl PageTableFrameMapping for Pool {
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        let table = usize::try_from((frame.start_address().as_u64() - POOL) / 0x1000).unwrap();
        assert!(table < TABLES);
        // SAFETY: the pool has `TABLES` tables.
        unsafe { self.first.add(table) }
    }
}

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
    pool: &mut Pool,
) {
    let size = S::SIZE / 0x1000;
    for index in mapping.page / size..(mapping.page + mapping.pages).min(PAGES).div_ceil(size) {
        let va = x86_64::VirtAddr::new(START + index * S::SIZE);
        let page = Page::<S>::containing_address(va);
        let address = ((mapping.frame * 0x1000) & !(S::SIZE - 1)) + index * S::SIZE;
        let frame = PhysFrame::containing_address(x86_64::PhysAddr::new(address));
        // SAFETY: no CPU uses these tables, so no mapping in them can alias anything.
        let done = unsafe { mapper.map_to(page, frame, mapping.flags, pool) };
        // It refuses to map a page twice: then the first one stays.
        if let Ok(flush) = done {
            flush.ignore();
        }
    }
}

struct Memory(Vec<Word>);

impl PhysMem for Memory {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = usize::try_from(base.raw().checked_sub(POOL)? / 8).ok()?;
        Some(TableView::from_words(self.0.get(first..)?.get(..entries)?))
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
        let mut tables = vec![PageTable::new(); TABLES];
        let mut pool = Pool { first: tables.as_mut_ptr(), used: 0 };
        // SAFETY: the first table of the pool, which the allocator does not hand out again.
        let root = unsafe { &mut *pool.first };
        // SAFETY: every table entry that the mapper writes holds a frame from the pool.
        let mut mapper = unsafe { MappedPageTable::new(root, pool) };
        for mapping in &mappings {
            if mapping.large {
                map::<Size2MiB>(mapping, &mut mapper, &mut pool);
            } else {
                map::<Size4KiB>(mapping, &mut mapper, &mut pool);
            }
        }
        let page = |i: u64| x86_64::VirtAddr::new(START + i * 0x1000);
        let expected: Vec<Found> = (0..PAGES).map(|i| theirs(mapper.translate(page(i)))).collect();

        let entries = tables.iter().flat_map(|table| table.iter());
        let raw = entries.map(|entry| entry.addr().as_u64() | entry.flags().bits());
        let memory = Memory(raw.map(|raw| Word::new(raw.to_le())).collect());
        let format = X86_64::new(4, 52).unwrap();
        let range = AddrRange::new(VirtAddr::new(START), PageCount::new(PAGES), PageShift::SIZE_4K);
        let walk = RangeWalk::new(format, format.root(POOL).unwrap(), &memory, range.unwrap());
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
