//! The crate `x86_64`.

#![expect(unsafe_code, reason = "the crate reaches tables through pointers")]

use pinfold::AddrRange;
use x86_64::structures::paging::mapper::PageTableFrameMapping;
use x86_64::structures::paging::{
    FrameAllocator, MappedPageTable, Mapper, Page, PageTable, PageTableFlags, PhysFrame, Size4KiB,
    Translate,
};
use x86_64::{PhysAddr, VirtAddr};

use super::Peer;
use crate::scene::BASE;

/// Tables on the heap, each at the physical address that is its own. They are not given back.
#[derive(Clone, Copy, Debug)]
struct Heap;

// SAFETY: each frame is a table of its own, made from a box that is leaked.
unsafe impl FrameAllocator<Size4KiB> for Heap {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let table: *mut PageTable = Box::leak(Box::new(PageTable::new()));
        PhysFrame::from_start_address(PhysAddr::new(table.expose_provenance() as u64)).ok()
    }
}

// SAFETY: the frames are those that `allocate_frame` made, at their own addresses.
unsafe impl PageTableFrameMapping for Heap {
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        std::ptr::with_exposed_provenance_mut(pinfold_arch::addr::index(
            frame.start_address().as_u64(),
        ))
    }
}

/// Tables that are asked for one page after the other: the crate has no pass over a range.
#[derive(Debug)]
pub struct Mapped {
    tables: MappedPageTable<'static, Heap>,
    range: AddrRange,
}

impl Mapped {
    /// Maps a range with the smallest pages.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn new(range: &AddrRange) -> Self {
        let top = Box::leak(Box::new(PageTable::new()));
        // SAFETY: a new top table, and a mapping that knows every frame of the allocator.
        let mut tables = unsafe { MappedPageTable::new(top, Heap) };
        let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        for va in addresses(range) {
            let page = Page::<Size4KiB>::containing_address(VirtAddr::new(va));
            let frame = PhysFrame::containing_address(PhysAddr::new(va));
            // SAFETY: no CPU uses these tables.
            let mapped = unsafe { tables.map_to(page, frame, flags, &mut Heap) };
            mapped.expect("a page that is not mapped yet").ignore();
        }
        Self { tables, range: *range }
    }
}

impl Peer for Mapped {
    #[inline(never)]
    fn pass(&self) -> u64 {
        let each = addresses(&self.range).map(|va| {
            let addr = self.tables.translate_addr(VirtAddr::new(va));
            addr.expect("a page that is mapped").as_u64()
        });
        each.fold(0, u64::wrapping_add)
    }
}

/// The pages of a range.
pub(super) fn addresses(range: &AddrRange) -> impl Iterator<Item = u64> {
    let start = range.start().raw();
    (0..range.pages().raw()).map(move |page| start + (page << BASE.raw()))
}
