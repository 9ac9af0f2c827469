//! Memory for tables that one side builds and all sides read, where it is.

#![expect(unsafe_code, reason = "oracles take tables by raw pointer")]

use std::cell::Cell;
use std::ptr::NonNull;

use aarch64_paging::descriptor::{PagingAttributes, PhysicalAddress};
use aarch64_paging::paging::{PageTable as Aarch64Table, Translation};
use pinfold::PhysAddr;
use pinfold::host::{Flow, IoTables, PhysMem, Progress, TableView, Wait};
use pinfold::sync::{Ordering, Word};
use x86_64::structures::paging::mapper::PageTableFrameMapping;
use x86_64::structures::paging::{FrameAllocator, PageTable, PhysFrame, Size4KiB};

/// Where the memory pretends to be, and how many tables of 4 KiB it has.
const POOL: u64 = 0x2a_0000_0000;
const FRAMES: usize = 4096;

/// A table, or a part of a larger one.
#[repr(C, align(4096))]
struct Frame([Word; 512]);

const _: () = assert!(size_of::<Frame>() == 4096);

/// Tables one behind the other, zeroed. None is given twice.
pub(crate) struct Pool {
    frames: Box<[Frame]>,
    used: Cell<usize>,
}

impl Pool {
    pub(crate) fn new() -> Self {
        let frames = Box::new_zeroed_slice(FRAMES);
        // SAFETY: words are integers, for which zero is a value.
        let frames = unsafe { frames.assume_init() };
        Self { frames, used: Cell::new(0) }
    }

    /// A table of so many frames, at a multiple of its size.
    pub(crate) fn take(&self, frames: usize) -> PhysAddr {
        let first = self.used.get().next_multiple_of(frames);
        assert!(first + frames <= FRAMES, "more tables than anybody thought of");
        self.used.set(first + frames);
        PhysAddr::new(POOL + 0x1000 * first as u64)
    }

    fn words(&self, base: PhysAddr) -> Option<&[Word]> {
        let frame = usize::try_from(base.raw().checked_sub(POOL)? / 0x1000).ok()?;
        // SAFETY: all of a boxed slice from one of its elements on, and a frame is 512 words.
        let words = |all: &[Frame]| unsafe {
            std::slice::from_raw_parts(all.as_ptr().cast(), all.len() * 512)
        };
        self.frames.get(frame..).map(words)
    }

    /// A table as an oracle wants it.
    fn table_at(&self, base: PhysAddr) -> NonNull<[u64; 512]> {
        assert!(base.raw().is_multiple_of(0x1000));
        NonNull::from(&self.words(base).expect("a table of the pool")[0]).cast()
    }

    pub(crate) fn root(&self, base: PhysAddr) -> NonNull<PageTable> {
        self.table_at(base).cast()
    }

    /// What is in an entry, on this side.
    pub(crate) fn load(&self, base: PhysAddr, index: usize) -> u64 {
        let words = self.words(base).expect("a table of the pool");
        u64::from_le(words[index].load(Ordering::Relaxed))
    }

    pub(crate) fn store(&self, base: PhysAddr, index: usize, raw: u64) {
        let words = self.words(base).expect("a table of the pool");
        words[index].store(raw.to_le(), Ordering::Relaxed);
    }

    /// Hands all tables from one side to the other: oracles have entries in the CPU's order of bytes, where
    /// these formats have the least significant one first.
    pub(crate) fn hand_over(&self) {
        for word in self.frames[..self.used.get()].iter().flat_map(|frame| &frame.0) {
            word.store(word.load(Ordering::Relaxed).to_le(), Ordering::Relaxed);
        }
    }
}

impl PhysMem for Pool {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let inside = usize::try_from(base.raw() % 0x1000 / 8).ok()?;
        self.words(base)?.get(inside..)?.get(..entries).map(TableView::from_words)
    }
}

impl Wait for Pool {
    fn pause(&self, _: Progress) -> Flow {
        Flow::Continue
    }
}

impl IoTables for Pool {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        Some(self.take(usize::try_from(bytes.div_ceil(0x1000)).ok()?))
    }

    fn free(&self, _: PhysAddr, _: u64) {}
}

// SAFETY: `take` gives no frame twice.
unsafe impl FrameAllocator<Size4KiB> for &Pool {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = ::x86_64::PhysAddr::new(self.take(1).raw());
        Some(PhysFrame::containing_address(frame))
    }
}

// SAFETY: each frame has one place, and it checks that the frame is one of the pool's.
unsafe impl PageTableFrameMapping for &Pool {
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        self.root(PhysAddr::new(frame.start_address().as_u64())).as_ptr()
    }
}

/// The pool for `aarch64-paging`, which asks for its root like for any other table: it gets one that is
/// there already, if there is.
pub(crate) struct Tables<'p> {
    pub(crate) pool: &'p Pool,
    pub(crate) root: Option<PhysAddr>,
}

impl<A: PagingAttributes> Translation<A> for Tables<'_> {
    fn allocate_table(&mut self) -> (NonNull<Aarch64Table<A>>, PhysicalAddress) {
        let base = self.root.take().unwrap_or_else(|| self.pool.take(1));
        let physical = PhysicalAddress(usize::try_from(base.raw()).unwrap());
        (self.pool.table_at(base).cast(), physical)
    }

    unsafe fn deallocate_table(&mut self, _: NonNull<Aarch64Table<A>>) {}

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<Aarch64Table<A>> {
        self.pool.table_at(PhysAddr::new(pa.0 as u64)).cast()
    }
}
