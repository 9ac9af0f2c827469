//! The walker on POWER radix trees: their own widths and byte order, and tables that lie.

use std::collections::BTreeMap;

use pinfold::host::{PhysMem, TableView};
use pinfold::sync::Word;
use pinfold::walk::{Extent, RangeWalk, WalkError};
use pinfold::{
    Access, AddrRange, PageCount, PageFormat, PageShift, PhysAddr, PowerRadix, Rights, Table,
    VirtAddr,
};
use pinfold_arch::Geometry;

/// Words by address.
#[derive(Default)]
struct Memory(BTreeMap<u64, Vec<Word>>);

impl Memory {
    fn set(&mut self, table: u64, entries: usize, index: usize, raw: u64) {
        let words =
            self.0.entry(table).or_insert_with(|| (0..entries).map(|_| Word::new(0)).collect());
        words[index] = Word::new(raw.to_be());
    }
}

impl PhysMem for Memory {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        self.0.get(&base.raw())?.get(..entries).map(TableView::from_words)
    }
}

fn large_pages() -> PowerRadix {
    PowerRadix::new(PageShift::new(16).unwrap()).unwrap()
}

/// Address, frame, pages, rights, size of a run; or address, nothing, pages of a hole.
type Found = (u64, Option<u64>, u64, Rights, u8);

fn walk(
    format: PowerRadix,
    root: Table,
    memory: &Memory,
    start: u64,
    pages: u64,
) -> Result<Vec<Found>, WalkError> {
    let range = AddrRange::new(VirtAddr::new(start), PageCount::new(pages), format.base());
    let mut walk = RangeWalk::new(format, root, memory, range.unwrap())?;
    let mut found = Vec::new();
    while let Some(extent) = walk.next_extent()? {
        found.push(match extent {
            Extent::Hole { va, pages } => (va.raw(), None, pages.raw(), Rights::empty(), 0),
            Extent::Leaf(run) => {
                let pfn = Some(run.pfn.raw());
                (run.va.raw(), pfn, run.pages.raw(), run.rights, run.shift.raw())
            }
        });
    }
    Ok(found)
}

#[test]
fn each_table_has_the_width_that_the_entry_above_says() {
    let format = large_pages();
    let root = format.top(PhysAddr::new(0x1_0000));
    let mut memory = Memory::default();
    memory.set(0x1_0000, 8192, 8191, 0x8000_0000_0002_0009);
    memory.set(0x2_0000, 512, 511, 0x8000_0000_0003_0009);
    // The last 2 MiB in pages of 64 KiB, in a table of 256 bytes; below it a large page.
    memory.set(0x3_0000, 512, 511, 0x8000_0000_0004_0305);
    memory.set(0x3_0000, 512, 510, 0xc000_0000_0040_0186);
    for (index, raw) in [
        (0, 0xc000_0000_0050_0186),
        (1, 0xc000_0000_0051_0186),
        // What follows has other rights: none, once privileged and once not; then a hole.
        (2, 0xc000_0000_0052_0108),
        (3, 0xc000_0000_0053_0100),
        (31, 0xc000_0000_0070_0104),
    ] {
        memory.set(0x4_0300, 32, index, raw);
    }
    let start = (1 << 52) - (4 << 20);
    let found = walk(format, root, &memory, start, 64).unwrap();
    let (rw, page) = (Rights::READ | Rights::WRITE | Rights::USER, 1 << 16);
    let tail = start + (2 << 20);
    assert_eq!(
        found,
        [
            (start, Some(0x40), 32, rw, 21),
            (tail, Some(0x50), 2, rw, 16),
            (tail + 2 * page, Some(0x52), 1, Rights::empty(), 16),
            (tail + 3 * page, Some(0x53), 1, Rights::USER, 16),
            (tail + 4 * page, None, 27, Rights::empty(), 0),
            (tail + 31 * page, Some(0x70), 1, Rights::READ | Rights::USER, 16),
        ]
    );
    for (_, _, _, rights, _) in &found[2..4] {
        assert!(!rights.allow(Access::READ));
    }
    assert!(matches!(
        walk(format, root, &memory, 1 << 52, 1),
        Err(WalkError::NotTranslatable { .. })
    ));
}

#[test]
fn tables_that_point_to_themselves_end() {
    // A root of 13 bits whose every entry leads back: the next would have to map less than a page.
    let format = large_pages();
    let root = format.top(PhysAddr::new(0x1_0000));
    let mut memory = Memory::default();
    let raw = 0x8000_0000_0001_000d;
    for index in 0..8192 {
        memory.set(0x1_0000, 8192, index, raw);
    }
    let level = PageShift::new(26).unwrap();
    let malformed = WalkError::Malformed { at: VirtAddr::new(0), raw, level };
    assert_eq!(walk(format, root, &memory, 0, 1), Err(malformed));
}

#[test]
fn a_tree_deeper_than_any_cpu_reads_is_malformed() {
    // 62 bits of address in tables of five: ten levels.
    let base = PageShift::SIZE_4K;
    let (format, root) = PowerRadix::from_process_entry(base, 0x6000_0000_0001_00e5).unwrap();
    assert_eq!((root.shift.raw(), root.bits), (57, 5));
    let mut memory = Memory::default();
    let raw = 0x8000_0000_0001_0005;
    memory.set(0x1_0000, 32, 0, raw);
    let level = PageShift::new(57 - 5 * 5).unwrap();
    let malformed = WalkError::Malformed { at: VirtAddr::new(0), raw, level };
    assert_eq!(walk(format, root, &memory, 0, 1), Err(malformed));
}

#[test]
fn sizes_that_do_not_exist_are_malformed() {
    let format = large_pages();
    let root = format.top(PhysAddr::new(0x1_0000));
    for size in [0, 4, 17, 31] {
        let mut memory = Memory::default();
        let raw = 0x8000_0000_0100_0000 | size;
        memory.set(0x1_0000, 8192, 0, raw);
        let malformed = WalkError::Malformed { at: VirtAddr::new(0), raw, level: root.shift };
        assert_eq!(walk(format, root, &memory, 0, 1), Err(malformed));
    }
}

#[test]
fn a_table_that_moved_by_its_own_size_is_noticed() {
    // One entry of 2 MiB, and its pages in a table of 256 bytes: bit 8 of the entry is part of its
    // address, and in a leaf it is the reference bit.
    let format = large_pages();
    let root = format.top(PhysAddr::new(0x1_0000));
    let mut memory = Memory::default();
    memory.set(0x1_0000, 8192, 0, 0x8000_0000_0002_0009);
    memory.set(0x2_0000, 512, 0, 0x8000_0000_0003_0009);
    memory.set(0x3_0000, 512, 0, 0x8000_0000_0004_0205);
    memory.set(0x4_0200, 32, 0, 0xc000_0000_0050_0186);
    let range = AddrRange::new(VirtAddr::new(0), PageCount::ONE, format.base()).unwrap();
    let mut walk = RangeWalk::new(format, root, &memory, range).unwrap();
    let Ok(Some(Extent::Leaf(run))) = walk.next_extent() else { panic!() };
    let same = || run.unchanged(PageCount::ZERO, PageCount::ONE, format.base());
    assert!(same());
    let above = memory.table(PhysAddr::new(0x3_0000), 512).unwrap();
    above.store(0, 0x8000_0000_0004_0305_u64.to_be()).unwrap();
    assert!(!same());
}
