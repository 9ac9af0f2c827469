//! The crate `aarch64-paging`, in its own pass over a range.

#![expect(unsafe_code, reason = "the crate reaches tables through pointers")]

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::rc::Rc;

use aarch64_paging::descriptor::{Descriptor, El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{
    Constraints, El1And0, MemoryRegion, PageTable, RootTable, Translation, VaRange,
};
use pinfold::sync::Word;
use pinfold_arch::addr::index;

use super::{Job, Mapper};
use crate::pool::{TablePool, pointer};

/// What makes an entry one that maps.
const PAGE: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::NON_GLOBAL)
    .union(El1Attributes::USER)
    .union(El1Attributes::UXN);

/// Tables of the pool, each at the physical address that is its own.
#[derive(Clone, Debug)]
struct Tables(Rc<TablePool>);

impl Translation<El1Attributes> for Tables {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El1Attributes>>, PhysicalAddress) {
        let table = self.0.take_page::<PageTable<_>>().expect("memory for a table");
        // SAFETY: 4 KiB of the pool, aligned, that nobody else has until it is reset.
        unsafe { table.write_bytes(0, 1) };
        (table, PhysicalAddress(table.as_ptr().expose_provenance()))
    }

    unsafe fn deallocate_table(&mut self, _: NonNull<PageTable<El1Attributes>>) {}

    #[inline]
    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<El1Attributes>> {
        NonNull::new(pointer(pa.0 as u64)).expect("an address that a table has")
    }
}

/// Tables for a job in leaves of 4 KiB.
#[derive(Debug)]
pub struct Aarch64Paging {
    job: Job,
    // Would only give tables back one by one.
    tables: ManuallyDrop<RootTable<El1And0, Tables>>,
    pool: Rc<TablePool>,
}

fn empty(pool: &Rc<TablePool>) -> ManuallyDrop<RootTable<El1And0, Tables>> {
    let root = RootTable::with_va_range(Tables(Rc::clone(pool)), 0, El1And0, VaRange::Lower);
    ManuallyDrop::new(root)
}

impl Aarch64Paging {
    /// Tables that map nothing yet.
    ///
    /// # Panics
    /// If there is no memory.
    #[must_use]
    pub fn new(job: Job) -> Self {
        let pool = Rc::new(TablePool::new(job.table_bytes()));
        Self { job, tables: empty(&pool), pool }
    }

    fn region(&self) -> MemoryRegion {
        MemoryRegion::new(index(self.job.iova), index(self.job.iova + self.job.bytes))
    }
}

impl Mapper for Aarch64Paging {
    fn job(&self) -> Job {
        self.job
    }

    fn clear(&mut self) {
        self.pool.reset();
        self.tables = empty(&self.pool);
    }

    #[inline(never)]
    fn map(&mut self) {
        let (range, addr) = (self.region(), PhysicalAddress(index(self.job.addr)));
        let pages = Constraints::NO_BLOCK_MAPPINGS | Constraints::NO_CONTIGUOUS_HINT;
        self.tables.map_range(&range, addr, PAGE, pages).expect("a range that can be mapped");
    }

    fn entries(&self) -> &[Word] {
        self.pool.last_words(self.job.entries())
    }

    fn translate(&self, iova: u64) -> Option<u64> {
        let page = MemoryRegion::new(index(iova), index(iova) + 1);
        let mut found = None;
        let mut note = |_: &MemoryRegion, entry: &Descriptor<El1Attributes>, _| {
            let inside = iova & self.job.leaf.mask();
            found = entry.is_valid().then(|| entry.output_address().0 as u64 | inside);
            Ok(())
        };
        self.tables.walk_range(&page, &mut note).expect("a range of the tables");
        found
    }
}
