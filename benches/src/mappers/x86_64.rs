//! The crate `x86_64`, page by page: it has no call for a range.

#![expect(unsafe_code, reason = "the crate reaches tables through pointers")]

use pinfold::sync::Word;
use x86_64::structures::paging::mapper::PageTableFrameMapping;
use x86_64::structures::paging::{
    FrameAllocator, MappedPageTable, Mapper as Tables, Page, PageSize, PageTable, PageTableFlags,
    PhysFrame, Size4KiB, Translate,
};
use x86_64::{PhysAddr, VirtAddr};

use super::{Job, Mapper, Unmapper};
use crate::pool::{TablePool, pointer};

/// Tables of the pool, each at the physical address that is its own.
#[derive(Clone, Copy, Debug)]
struct Identity;

// SAFETY: the frames are those that the pool gave out, which are mapped at their own addresses.
unsafe impl PageTableFrameMapping for Identity {
    #[inline]
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        pointer(frame.start_address().as_u64())
    }
}

struct Frames<'a>(&'a TablePool);

// SAFETY: the pool gives each frame out once.
unsafe impl FrameAllocator<Size4KiB> for Frames<'_> {
    #[inline]
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        PhysFrame::from_start_address(PhysAddr::new(self.0.take(4096)?)).ok()
    }
}

/// Tables for a job in leaves of a size that the crate knows.
#[derive(Debug)]
pub struct X86_64<S> {
    job: Job,
    // Before the memory that it lies in.
    tables: MappedPageTable<'static, Identity>,
    pool: TablePool,
    size: std::marker::PhantomData<S>,
}

fn empty(pool: &TablePool) -> MappedPageTable<'static, Identity> {
    let mut top = pool.take_page::<PageTable>().expect("memory for a table");
    // SAFETY: 4 KiB of the pool, aligned, that nobody else has until it is reset; any words are a table.
    let top = unsafe { top.as_mut() };
    top.zero();
    // SAFETY: a top table without entries, and a mapping that knows every frame of the pool.
    unsafe { MappedPageTable::new(top, Identity) }
}

impl<S: PageSize> X86_64<S> {
    /// Tables that map nothing yet.
    ///
    /// # Panics
    /// If there is no memory, or leaves are of another size.
    #[must_use]
    pub fn new(job: Job) -> Self {
        assert_eq!(job.leaf.bytes(), S::SIZE);
        let pool = TablePool::new(job.table_bytes());
        Self { job, tables: empty(&pool), pool, size: std::marker::PhantomData }
    }
}

impl<S: PageSize + std::fmt::Debug> Mapper for X86_64<S>
where
    MappedPageTable<'static, Identity>: Tables<S>,
{
    fn job(&self) -> Job {
        self.job
    }

    fn clear(&mut self) {
        self.pool.reset();
        self.tables = empty(&self.pool);
    }

    #[inline(never)]
    fn map(&mut self) {
        let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        for (iova, addr) in self.job.each() {
            let page = Page::<S>::containing_address(VirtAddr::new(iova));
            let frame = PhysFrame::containing_address(PhysAddr::new(addr));
            // SAFETY: no CPU uses these tables.
            let mapped = unsafe { self.tables.map_to(page, frame, flags, &mut Frames(&self.pool)) };
            mapped.expect("a page that is not mapped yet").ignore();
        }
    }

    fn entries(&self) -> &[Word] {
        self.pool.last_words(self.job.entries())
    }

    fn translate(&self, iova: u64) -> Option<u64> {
        self.tables.translate_addr(VirtAddr::new(iova)).map(PhysAddr::as_u64)
    }
}

impl<S: PageSize + std::fmt::Debug> Unmapper for X86_64<S>
where
    MappedPageTable<'static, Identity>: Tables<S>,
{
    #[inline(never)]
    fn unmap(&mut self) -> u64 {
        let mut sum = 0_u64;
        for (iova, _) in self.job.each() {
            let page = Page::<S>::containing_address(VirtAddr::new(iova));
            let (frame, flush) = self.tables.unmap(page).expect("a page that is mapped");
            flush.ignore();
            sum = sum.wrapping_add(frame.start_address().as_u64());
        }
        sum
    }
}
