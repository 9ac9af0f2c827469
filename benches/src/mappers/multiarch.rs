//! The crate `page_table_multiarch`, in the format of x86-64.

use std::cell::Cell;
use std::mem::ManuallyDrop;

use memory_addr::{PhysAddr, VirtAddr};
use page_table_entry::MappingFlags;
use page_table_entry::x86_64::X64PTE;
use page_table_multiarch::{PageTable64, PageTable64Cursor, PagingHandler};
use pinfold::sync::Word;
use pinfold_arch::addr::index;

use super::{Job, Mapper, Unmapper};
use crate::pool::TablePool;
use crate::walkers::FourLevels;

thread_local! {
    /// What the next table is cut from: the crate's way to memory knows no object.
    static POOL: Cell<Option<&'static TablePool>> = const { Cell::new(None) };
}

/// Tables of the pool, each at the physical address that is its own.
struct Tables;

impl PagingHandler for Tables {
    fn alloc_frames(num: usize, _: usize) -> Option<PhysAddr> {
        let table = POOL.get()?.take(4096).map(index);
        table.filter(|_| num == 1).map(PhysAddr::from)
    }

    fn dealloc_frames(_: PhysAddr, _: usize) {}

    fn phys_to_virt(paddr: PhysAddr) -> VirtAddr {
        VirtAddr::from(paddr.as_usize())
    }
}

type Root = PageTable64<FourLevels, X64PTE, Tables>;

/// Tables for a job in leaves of 4 KiB.
pub struct Multiarch {
    job: Job,
    // Would only give tables back one by one.
    tables: ManuallyDrop<Root>,
    pool: &'static TablePool,
}

impl std::fmt::Debug for Multiarch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Multiarch").field("job", &self.job).finish_non_exhaustive()
    }
}

fn empty(pool: &'static TablePool) -> ManuallyDrop<Root> {
    POOL.set(Some(pool));
    ManuallyDrop::new(Root::try_new().expect("memory for a table"))
}

impl Multiarch {
    /// Tables that map nothing yet. Their memory is not given back.
    ///
    /// # Panics
    /// If there is no memory.
    #[must_use]
    pub fn new(job: Job) -> Self {
        let pool = Box::leak(Box::new(TablePool::new(job.table_bytes())));
        Self { job, tables: empty(pool), pool }
    }
}

impl Mapper for Multiarch {
    fn job(&self) -> Job {
        self.job
    }

    fn clear(&mut self) {
        self.pool.reset();
        self.tables = empty(self.pool);
    }

    #[inline(never)]
    fn map(&mut self) {
        let Job { iova, addr, bytes, .. } = self.job;
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        let to = |at: VirtAddr| PhysAddr::from(at.as_usize() - index(iova) + index(addr));
        let mut cursor: PageTable64Cursor<'_, _, _, _> = self.tables.cursor();
        let mapped = cursor.map_region(VirtAddr::from(index(iova)), to, index(bytes), flags, false);
        mapped.expect("memory that is not mapped yet");
    }

    fn entries(&self) -> &[Word] {
        self.pool.last_words(self.job.entries())
    }

    fn translate(&self, iova: u64) -> Option<u64> {
        let found = self.tables.query(VirtAddr::from(index(iova)));
        found.ok().map(|(addr, ..)| addr.as_usize() as u64)
    }
}

impl Unmapper for Multiarch {
    #[inline(never)]
    fn unmap(&mut self) -> u64 {
        let mut cursor: PageTable64Cursor<'_, _, _, _> = self.tables.cursor();
        let each = self.job.each().map(|(iova, _)| {
            let was = cursor.unmap(VirtAddr::from(index(iova))).expect("a page that is mapped");
            was.0.as_usize() as u64
        });
        each.fold(0, u64::wrapping_add)
    }
}
