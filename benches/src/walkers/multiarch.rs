//! The crate `page_table_multiarch`, in the format of x86-64, whose entries it has only where the program
//! itself is for that CPU.

use memory_addr::{PhysAddr, VirtAddr};
use page_table_entry::MappingFlags;
use page_table_entry::x86_64::X64PTE;
use page_table_multiarch::{PageSize, PageTable64, PagingHandler, PagingMetaData};
use pinfold::AddrRange;
use pinfold_arch::addr::index;

use x86_64::structures::paging::PageTable;

use super::Peer;
use super::x86_64::addresses;

/// Tables on the heap, each at the physical address that is its own. They are not given back.
struct Heap;

impl PagingHandler for Heap {
    fn alloc_frames(num: usize, _: usize) -> Option<PhysAddr> {
        let table: *mut PageTable = Box::leak(Box::new(PageTable::new()));
        (num == 1).then(|| PhysAddr::from(table.expose_provenance()))
    }

    fn dealloc_frames(_: PhysAddr, _: usize) {}

    fn phys_to_virt(paddr: PhysAddr) -> VirtAddr {
        VirtAddr::from(paddr.as_usize())
    }
}

/// The crate's own description of x86-64 flushes the TLB, which a process may not.
pub(crate) struct FourLevels;

impl PagingMetaData for FourLevels {
    const LEVELS: usize = 4;
    const PA_MAX_BITS: usize = 52;
    const VA_MAX_BITS: usize = 48;
    type VirtAddr = VirtAddr;

    fn flush_tlb(_: Option<VirtAddr>) {}
}

/// Tables that are asked for one page after the other.
pub struct Multiarch {
    tables: PageTable64<FourLevels, X64PTE, Heap>,
    range: AddrRange,
}

impl std::fmt::Debug for Multiarch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Multiarch").field("range", &self.range).finish_non_exhaustive()
    }
}

impl Multiarch {
    /// Maps a range with the smallest pages.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn new(range: &AddrRange) -> Self {
        let mut tables = PageTable64::try_new().expect("memory for a table");
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        {
            let mut cursor: page_table_multiarch::PageTable64Cursor<'_, _, _, _> = tables.cursor();
            for va in addresses(range) {
                let (va, addr) = (VirtAddr::from(index(va)), PhysAddr::from(index(va)));
                cursor
                    .map(va, addr, PageSize::Size4K, flags)
                    .expect("a page that is not mapped yet");
            }
        }
        Self { tables, range: *range }
    }
}

impl Peer for Multiarch {
    #[inline(never)]
    fn pass(&self) -> u64 {
        let each = addresses(&self.range).map(|va| {
            let found = self.tables.query(VirtAddr::from(index(va)));
            found.expect("a page that is mapped").0.as_usize() as u64
        });
        each.fold(0, u64::wrapping_add)
    }
}
