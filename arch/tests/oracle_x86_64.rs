//! Another implementation reads and writes the same tables: the `x86_64` crate.
//!
//! Its mapper builds tables in ordinary memory, a short walker over [`PageFormat`] reads them, and
//! both must translate every address alike. The tables' physical addresses are made up: table `n`
//! of the pool is at `POOL + n` pages.

#![expect(unsafe_code, reason = "the oracle's mapper takes table memory by raw pointer")]

use pinfold_arch::{
    Entry, Leaf, LeafFlags, PageFormat, PageShift, PhysAddr, Rights, Table, VirtAddr, X86_64,
};
use proptest::prelude::*;
use x86_64::structures::paging::mapper::{MappedFrame, MappedPageTable, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, Page, PageSize, PageTable, PageTableFlags, PhysFrame, Size1GiB,
    Size2MiB, Size4KiB, Translate, page_table::PageTableEntry,
};

/// Where the pool of tables pretends to be.
const POOL: u64 = 0x2a_0000_0000;
/// Enough for every table that [`mapping`] can ask for: 1 + 4 + 4 * 3 + 4 * 3 * 3, and a top one.
const TABLES: usize = 54;
const TOP: usize = TABLES - 1;

fn frame(table: usize) -> u64 {
    POOL + 0x1000 * table as u64
}

/// The oracle's view of the pool.
#[derive(Clone, Copy)]
struct Pool {
    first: *mut PageTable,
    used: usize,
}

// SAFETY: frames are handed out once each, from 1 on, and stay inside the pool.
unsafe impl FrameAllocator<Size4KiB> for Pool {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.used += 1;
        assert!(self.used < TOP);
        Some(PhysFrame::containing_address(x86_64::PhysAddr::new(frame(self.used))))
    }
}

// SAFETY: each frame of the pool has one table, and the mapper gets no other frame to look at.
unsafe impl x86_64::structures::paging::mapper::PageTableFrameMapping for Pool {
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        let table = usize::try_from((frame.start_address().as_u64() - POOL) / 0x1000).unwrap();
        assert!(table < TABLES);
        // SAFETY: the pool has `TABLES` tables.
        unsafe { self.first.add(table) }
    }
}

/// One page to map: its size, where, which frame number of that size, and its flags.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    shift: u8,
    va: u64,
    frame: u64,
    flags: PageTableFlags,
    parent: PageTableFlags,
}

impl Mapping {
    fn apply<S: PageSize + core::fmt::Debug>(&self, mapper: &mut impl Mapper<S>, pool: &mut Pool) {
        let page = Page::<S>::containing_address(x86_64::VirtAddr::new(self.va));
        let address = self.frame << self.shift & 0x3fff_ffff_ffff;
        let frame = PhysFrame::containing_address(x86_64::PhysAddr::new(address));
        // SAFETY: no CPU uses these tables, so no mapping in them can alias anything.
        let done =
            unsafe { mapper.map_to_with_table_flags(page, frame, self.flags, self.parent, pool) };
        // It refuses to map a page twice, or below a large page: then the first one stays.
        if let Ok(flush) = done {
            flush.ignore();
        }
    }
}

/// Maps everything, and asks the oracle where every address of `probes` leads.
fn build(mappings: &[Mapping], probes: &[u64]) -> (Vec<PageTable>, Vec<TranslateResult>) {
    let mut tables = vec![PageTable::new(); TABLES];
    let mut pool = Pool { first: tables.as_mut_ptr(), used: 0 };
    // SAFETY: the first table of the pool, which the allocator does not hand out again.
    let root = unsafe { &mut *pool.first };
    // SAFETY: every table entry that the mapper writes holds a frame from the pool.
    let mut mapper = unsafe { MappedPageTable::new(root, pool) };
    for mapping in mappings {
        match mapping.shift {
            12 => mapping.apply::<Size4KiB>(&mut mapper, &mut pool),
            21 => mapping.apply::<Size2MiB>(&mut mapper, &mut pool),
            _ => mapping.apply::<Size1GiB>(&mut mapper, &mut pool),
        }
    }
    let found = probes.iter().map(|&va| mapper.translate(x86_64::VirtAddr::new(va))).collect();
    (tables, found)
}

fn raw(entry: &PageTableEntry) -> u64 {
    entry.addr().as_u64() | entry.flags().bits()
}

/// The leaf that maps `va`, and what the whole path grants.
fn walk(format: X86_64, tables: &[PageTable], root: Table, va: u64) -> Option<(Leaf, Rights)> {
    let (mut at, mut rights) = (root, Rights::all());
    loop {
        let index = at.index(VirtAddr::new(va));
        let table = usize::try_from((at.base.raw() - POOL) / 0x1000).unwrap();
        match format.decode(&at, raw(&tables[table][usize::from(index)])) {
            Entry::Absent => return None,
            Entry::Table(next, granted) => (at, rights) = (next, rights & granted),
            Entry::Leaf(leaf) => return Some((leaf, rights & leaf.rights)),
            Entry::Malformed => panic!("malformed at {at:?}"),
        }
    }
}

fn flags_of(leaf: &Leaf) -> PageTableFlags {
    let mut flags = PageTableFlags::PRESENT;
    flags.set(PageTableFlags::WRITABLE, leaf.rights.contains(Rights::WRITE));
    flags.set(PageTableFlags::USER_ACCESSIBLE, leaf.rights.contains(Rights::USER));
    flags.set(PageTableFlags::NO_EXECUTE, !leaf.rights.contains(Rights::EXECUTE));
    flags.set(PageTableFlags::ACCESSED, leaf.flags.contains(LeafFlags::ACCESSED));
    flags.set(PageTableFlags::DIRTY, leaf.flags.contains(LeafFlags::DIRTY));
    flags.set(PageTableFlags::GLOBAL, leaf.flags.contains(LeafFlags::GLOBAL));
    flags.set(PageTableFlags::WRITE_THROUGH, leaf.memory & 1 != 0);
    flags.set(PageTableFlags::NO_CACHE, leaf.memory & 2 != 0);
    flags.set(PageTableFlags::HUGE_PAGE, leaf.shift > PageShift::SIZE_4K);
    flags
}

/// Software's bits and protection keys: the oracle keeps them, a leaf does not.
const SOFTWARE: PageTableFlags = PageTableFlags::from_bits_retain(0x7ff0_0000_0000_0e00);

fn compare(format: X86_64, tables: &[PageTable], root: Table, va: u64, want: &TranslateResult) {
    let got = walk(format, tables, root, va);
    let TranslateResult::Mapped { frame, offset, flags } = want else {
        assert!(matches!(want, TranslateResult::NotMapped), "{want:?}");
        assert_eq!(got, None, "{va:#x}");
        return;
    };
    let (leaf, rights) = got.unwrap_or_else(|| panic!("{va:#x} is {want:?}"));
    assert_eq!(leaf.addr.raw(), frame.start_address().as_u64(), "{va:#x}");
    assert_eq!(leaf.shift.bytes(), frame.size());
    assert_eq!(va & leaf.shift.mask(), *offset);
    assert_eq!(flags_of(&leaf), *flags - SOFTWARE);
    assert_eq!(rights, path_rights(tables, va, frame));
}

/// The rights of a path, from the oracle's own indices and flags.
fn path_rights(tables: &[PageTable], va: u64, frame: &MappedFrame) -> Rights {
    let va = x86_64::VirtAddr::new(va);
    let indices = [va.p4_index(), va.p3_index(), va.p2_index(), va.p1_index()];
    let depth = match frame {
        MappedFrame::Size1GiB(_) => 2,
        MappedFrame::Size2MiB(_) => 3,
        MappedFrame::Size4KiB(_) => 4,
    };
    let (mut rights, mut table) = (Rights::all(), 0);
    for (level, index) in indices.into_iter().take(depth).enumerate() {
        let entry = &tables[table][index];
        for (flag, when, right) in [
            (PageTableFlags::WRITABLE, false, Rights::WRITE),
            (PageTableFlags::USER_ACCESSIBLE, false, Rights::USER),
            (PageTableFlags::NO_EXECUTE, true, Rights::EXECUTE),
        ] {
            if entry.flags().contains(flag) == when {
                rights.remove(right);
            }
        }
        if level + 1 < depth {
            table = usize::try_from((entry.addr().as_u64() - POOL) / 0x1000).unwrap();
        }
    }
    rights
}

/// An address that is canonical with 4 levels, from few enough tables that mappings meet.
fn address() -> impl Strategy<Value = u64> {
    let few = || prop::sample::select(&[0_u64, 1, 511]);
    let top = prop::sample::select(&[0_u64, 255, 256, 511]);
    (top, few(), few(), few(), 0..0x1000_u64).prop_map(|(p4, p3, p2, p1, offset)| {
        let va = p4 << 39 | p3 << 30 | p2 << 21 | p1 << 12 | offset;
        if p4 < 256 { va } else { va | !0 << 48 }
    })
}

fn mapping() -> impl Strategy<Value = Mapping> {
    // Not the size bit, which is PAT in a 4 KiB entry and the mapper's own in others.
    let flags = any::<u64>().prop_map(|raw| raw & 0xfff0_0000_0000_0f7f | 1);
    let parent = prop_oneof![Just(7_u64), (0..4_u64, 0..2_u64).prop_map(|(w, x)| w << 1 | x << 63)];
    let shift = prop_oneof![3 => Just(12), 2 => Just(21), 1 => Just(30)];
    (shift, address(), any::<u64>(), flags, parent).prop_map(|(shift, va, frame, flags, parent)| {
        let flags = PageTableFlags::from_bits_retain(flags);
        let parent = PageTableFlags::from_bits_retain(parent | 1);
        Mapping { shift, va, frame, flags, parent }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Tables that the oracle built lead to the same places with our format.
    #[test]
    fn both_translate_alike(
        mappings in prop::collection::vec(mapping(), 1..24),
        mut probes in prop::collection::vec(address(), 24),
    ) {
        for Mapping { shift, va, .. } in &mappings {
            let page = va >> shift << shift;
            probes.extend([*va, page, page | ((1 << shift) - 1)]);
        }
        let (mut tables, found) = build(&mappings, &probes);
        let four = X86_64::new(4, 46).unwrap();
        let root = four.root(frame(0)).unwrap();
        for (va, want) in probes.iter().zip(&found) {
            compare(four, &tables, root, *va, want);
        }
        // The same below a fifth level: both halves of 48 bits are one entry each of 57 bits.
        for index in [0, 511_usize] {
            let all = PageTableFlags::from_bits_retain(7);
            tables[TOP][index].set_addr(x86_64::PhysAddr::new(frame(0)), all);
        }
        let five = X86_64::new(5, 46).unwrap();
        let root = five.root(frame(TOP)).unwrap();
        for (va, want) in probes.iter().zip(&found) {
            compare(five, &tables, root, *va, want);
        }
    }

    /// Entries that our format encoded mean the same to the oracle.
    #[test]
    fn the_oracle_reads_our_entries(
        level in prop::sample::select(&[12_u8, 21, 30]),
        addr in any::<u64>(),
        rights in 0..16_u8,
        flags in 0..8_u8,
        memory in 0..8_u8,
    ) {
        let format = X86_64::new(4, 46).unwrap();
        let shift = PageShift::new(level).unwrap();
        let rights = Rights::from_bits_retain(rights) | Rights::READ;
        let flags = LeafFlags::from_bits_retain(flags);
        let addr = PhysAddr::new(addr & 0x3fff_ffff_ffff).align_down(shift);
        let leaf = Leaf { flags, memory, ..Leaf::new(addr, shift, rights) };
        let at = Table { shift, ..format.root(0).unwrap() };
        let entry = oracle_entry(format.encode(&at, Entry::Leaf(leaf)).unwrap());
        // The oracle has no name for PAT: it is its size bit, or the lowest bit of its address.
        let pat = memory & 4 != 0;
        let small = level == 12;
        prop_assert_eq!(entry.addr().as_u64(), addr.raw() | if pat && !small { 0x1000 } else { 0 });
        let size = PageTableFlags::HUGE_PAGE;
        let want = flags_of(&leaf) | if pat && small { size } else { PageTableFlags::empty() };
        prop_assert_eq!(entry.flags(), want);

        if level > 12 {
            let base = PhysAddr::new(addr.raw() | 0x3000);
            let shift = PageShift::new(level - 9).unwrap();
            let below = Table { base, shift, ..at };
            let entry = oracle_entry(format.encode(&at, Entry::Table(below, rights)).unwrap());
            prop_assert_eq!(entry.frame().unwrap().start_address().as_u64(), base.raw());
            let granted = Leaf { shift: PageShift::SIZE_4K, flags: LeafFlags::empty(), memory: 0, ..leaf };
            prop_assert_eq!(entry.flags(), flags_of(&granted));
        }
    }
}

fn oracle_entry(raw: u64) -> PageTableEntry {
    let word = &raw;
    // SAFETY: the oracle's entry is a transparent `u64`, for which every value is valid.
    unsafe { &*core::ptr::from_ref(word).cast::<PageTableEntry>() }.clone()
}
