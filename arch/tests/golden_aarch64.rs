//! Entries worked out by hand from the manual.
//!
//! ARM is the Arm Architecture Reference Manual for A-profile (DDI 0487), chapter D8. Each value was
//! put together from the bit positions in the section named beside it, not by `encode`.

use pinfold_arch::{
    Aarch64, Aarch64Stage2, AddrRange, Entry, FormatError, Geometry, Granule, Leaf, LeafFlags,
    PageCount, PageFormat, PageShift, PhysAddr, Rights, Table, VirtAddr,
};

const R: Rights = Rights::READ;
const RX: Rights = R.union(Rights::EXECUTE);
const RW: Rights = R.union(Rights::WRITE);
const RWX: Rights = RW.union(Rights::EXECUTE);
const USER: Rights = Rights::USER;

const NONE: LeafFlags = LeafFlags::empty();
const A: LeafFlags = LeafFlags::ACCESSED;
const AD: LeafFlags = A.union(LeafFlags::DIRTY);
const G: LeafFlags = LeafFlags::GLOBAL;

fn stage1(granule: Granule, va_bits: u8, pa_bits: u8) -> Aarch64 {
    Aarch64::new(granule, va_bits, pa_bits).unwrap()
}

fn stage2(granule: Granule, ipa_bits: u8, pa_bits: u8) -> Aarch64Stage2 {
    Aarch64Stage2::new(granule, ipa_bits, pa_bits).unwrap()
}

fn shift(raw: u8) -> PageShift {
    PageShift::new(raw).unwrap()
}

/// A full table of this granule whose entries map `1 << level` bytes.
fn at(granule: Granule, level: u8) -> Table {
    let bits = granule.shift().raw() - 3;
    let last = (1 << bits) - 1;
    Table { base: PhysAddr::new(0x10000), shift: shift(level), bits, first: 0, last }
}

fn leaf(addr: u64, level: u8, rights: Rights, flags: LeafFlags, memory: u8) -> Entry {
    let addr = PhysAddr::new(addr);
    Entry::Leaf(Leaf { flags, memory, ..Leaf::new(addr, shift(level), rights) })
}

fn table(granule: Granule, base: u64, level: u8, rights: Rights) -> Entry {
    Entry::Table(Table { base: PhysAddr::new(base), ..at(granule, level) }, rights)
}

#[track_caller]
fn decodes<F: Geometry + core::fmt::Debug>(format: F, level: u8, raw: u64, want: Entry) {
    let granule = granule(&format);
    assert_eq!(format.decode(&at(granule, level), raw), want, "{raw:#x} at {level} in {format:?}");
}

/// The same both ways: for values without a bit that is ignored.
#[track_caller]
fn both<F: Geometry + core::fmt::Debug>(format: F, level: u8, raw: u64, want: Entry) {
    decodes(format, level, raw, want);
    let encoded = format.encode(&at(granule(&format), level), want);
    assert_eq!(encoded, Ok(raw), "{want:?} at {level} in {format:?}");
}

fn granule<F: PageFormat>(format: &F) -> Granule {
    match format.base().raw() {
        12 => Granule::Size4K,
        14 => Granule::Size16K,
        _ => Granule::Size64K,
    }
}

#[test]
fn leaves_of_every_size() {
    let f = stage1(Granule::Size4K, 48, 48);
    // ARM D8.3.1.2, page: bits 1:0, AP[1], SH, AF, nG, PXN, UXN; a process's data.
    both(f, 12, 0x0060_0000_1234_5f43, leaf(0x1234_5000, 12, RW | USER, A, 0));
    // With AP[2] and without UXN: a process's text.
    both(f, 12, 0x0020_0000_1234_5fc3, leaf(0x1234_5000, 12, RX | USER, A, 0));
    // Without AP[1] and nG: a kernel's data; with AP[2] and without PXN its text.
    both(f, 12, 0x0060_0000_00ab_c703, leaf(0xab_c000, 12, RW, A | G, 0));
    both(f, 12, 0x0040_0000_00ab_c783, leaf(0xab_c000, 12, RX, A | G, 0));
    // The last frame of 48 bits; AF clear.
    both(f, 12, 0x0060_ffff_ffff_fb43, leaf(0xffff_ffff_f000, 12, RW | USER, NONE, 0));
    // ARM D8.3.1.2, block: bit 1 clear.
    both(f, 21, 0x0060_0001_2340_0f41, leaf(0x1_2340_0000, 21, RW | USER, A, 0));
    both(f, 30, 0x0060_0012_4000_0f41, leaf(0x12_4000_0000, 30, RW | USER, A, 0));
    let f = stage1(Granule::Size16K, 47, 48);
    both(f, 14, 0x0060_0000_1234_4f43, leaf(0x1234_4000, 14, RW | USER, A, 0));
    both(f, 25, 0x0060_0000_1200_0f41, leaf(0x1200_0000, 25, RW | USER, A, 0));
    let f = stage1(Granule::Size64K, 48, 48);
    both(f, 16, 0x0060_0000_1235_0f43, leaf(0x1235_0000, 16, RW | USER, A, 0));
    both(f, 29, 0x0060_0000_2000_0f41, leaf(0x2000_0000, 29, RW | USER, A, 0));
}

#[test]
fn addresses_of_52_bits_are_split() {
    // ARM D8.3.1.2, 4K and 16K with DS: address bits 51:50 stand in 9:8, 49:48 in their place.
    let f = stage1(Granule::Size16K, 52, 52);
    both(f, 14, 0x0060_0000_1234_4c43, leaf(0x1234_4000, 14, RW | USER, A, 0));
    both(f, 14, 0x0062_0000_1234_4d43, leaf(0x6_0000_1234_4000, 14, RW | USER, A, 0));
    both(f, 14, 0x0063_ffff_ffff_cf43, leaf(0xf_ffff_ffff_c000, 14, RW | USER, A, 0));
    both(f, 36, 0x0061_0010_0000_0e41, leaf(0x9_0010_0000_0000, 36, RW | USER, A, 0));
    both(f, 25, 0x0002_0000_0200_0303, table(Granule::Size16K, 0xe_0000_0200_0000, 14, RWX | USER));
    let f = stage1(Granule::Size4K, 52, 52);
    both(f, 12, 0x0060_0000_1234_5c43, leaf(0x1234_5000, 12, RW | USER, A, 0));
    both(f, 39, 0x0061_1280_0000_0d41, leaf(0x5_1280_0000_0000, 39, RW | USER, A, 0));
    both(f, 48, 0x0003_0000_0000_1203, table(Granule::Size4K, 0xb_0000_0000_1000, 39, RWX | USER));
    // 64K: address bits 51:48 stand in 15:12, and shareability where it always is.
    let f = stage1(Granule::Size64K, 52, 52);
    both(f, 16, 0x0060_0000_1235_0f43, leaf(0x1235_0000, 16, RW | USER, A, 0));
    both(f, 16, 0x0060_0000_1235_af43, leaf(0xa_0000_1235_0000, 16, RW | USER, A, 0));
    both(f, 29, 0x0060_0000_2000_ff41, leaf(0xf_0000_2000_0000, 29, RW | USER, A, 0));
    both(f, 42, 0x0060_0400_0000_1f41, leaf(0x1_0400_0000_0000, 42, RW | USER, A, 0));
    both(f, 42, 0x0000_0000_0005_9003, table(Granule::Size64K, 0x9_0000_0005_0000, 29, RWX | USER));
}

#[test]
fn a_leaf_stands_only_where_one_can() {
    use Granule::{Size4K, Size16K, Size64K};
    // ARM D8.3.1.2: blocks at levels 1 and 2; with DS at level 0; with 16K and 64K at level 2, and at
    // level 1 with 52-bit addresses.
    for (granule, width, levels) in [
        (Size4K, 48, [21, 30].as_slice()),
        (Size4K, 52, &[21, 30, 39]),
        (Size16K, 48, &[25]),
        (Size16K, 52, &[25, 36]),
        (Size64K, 48, &[29]),
        (Size64K, 52, &[29, 42]),
    ] {
        let f = stage1(granule, 48, width);
        let page = granule.shift().raw();
        for level in page..52 {
            let is_leaf = |raw| matches!(f.decode(&at(granule, level), raw), Entry::Leaf(_));
            // Bit 0 alone is a block, and at the last level nothing; with bit 1 it is a page there.
            assert_eq!(is_leaf(0x401), levels.contains(&level), "{f:?} at {level}");
            assert_eq!(is_leaf(0x403), level == page, "{f:?} at {level}");
            assert_eq!(f.leaf_at(&at(granule, level)), is_leaf(0x401) || is_leaf(0x403));
        }
    }
}

#[test]
fn tables_take_rights_away() {
    let f = stage1(Granule::Size4K, 48, 48);
    let to = |rights| table(Granule::Size4K, 0x20_3000, 21, rights);
    // ARM D8.3.1.1: PXNTable 59, UXNTable 60, APTable 62:61.
    both(f, 30, 0x0000_0000_0020_3003, to(RWX | USER));
    both(f, 30, 0x1800_0000_0020_3003, to(RW | USER));
    both(f, 30, 0x4000_0000_0020_3003, to(RX | USER));
    both(f, 30, 0x3000_0000_0020_3003, to(RWX));
    both(f, 30, 0x7800_0000_0020_3003, to(R));
    // What is taken from the other one alone says nothing here.
    decodes(f, 30, 0x0800_0000_0020_3003, to(RWX | USER));
    decodes(f, 30, 0x2000_0000_0020_3003, to(RWX));
    decodes(f, 30, 0x1000_0000_0020_3003, to(RW | USER));
    // Bits 63, 58:50 and 11:2 are ignored.
    decodes(f, 30, 0x87fc_0000_0020_3fff, to(RWX | USER));
    // And all of it where TCR.HPDn is set.
    decodes(f.with_table_rights(false), 30, 0x7800_0000_0020_3003, to(RWX | USER));
}

#[test]
fn marks_of_leaves() {
    let f = stage1(Granule::Size4K, 48, 48);
    let page = |rights, flags| leaf(0x1234_5000, 12, rights, flags, 0);
    // ARM D8.5.1: without hardware management a clear access flag faults.
    let by_hand = f.with_hardware_access(false);
    both(by_hand, 12, 0x0060_0000_1234_5f43, page(RW | USER, A));
    decodes(by_hand, 12, 0x0060_0000_1234_5b43, page(Rights::empty(), NONE));
    both(by_hand, 12, 0x0060_0000_1234_5b83, page(Rights::empty(), NONE));
    // ARM D8.5.2: DBM (51) and AP[2] are writable and clean, without AP[2] dirty.
    let dirty = f.with_hardware_dirty(true);
    assert_eq!(dirty.with_hardware_access(false), by_hand);
    both(dirty, 12, 0x0068_0000_1234_5fc3, page(RW | USER, A));
    both(dirty, 12, 0x0068_0000_1234_5f43, page(RW | USER, AD));
    both(dirty, 12, 0x0060_0000_1234_5fc3, page(R | USER, A));
    decodes(dirty, 12, 0x0060_0000_1234_5f43, page(RW | USER, AD));
    // Where hardware does not keep it, AP[2] is all there is.
    decodes(f, 12, 0x0068_0000_1234_5fc3, page(R | USER, A));
    decodes(f, 12, 0x0068_0000_1234_5f43, page(RW | USER, A));
    // Contiguous is bit 52, AttrIndx bits 4:2.
    both(f, 12, 0x0070_0000_1234_5f43, page(RW | USER, A | LeafFlags::CONTIGUOUS));
    both(f, 12, 0x0060_0000_1234_5f57, leaf(0x1234_5000, 12, RW | USER, A, 5));
    // Device memory and a clean page of a real kernel: bits 58:55 are software's.
    decodes(f, 12, 0x0168_0000_1000_0fd3, leaf(0x1000_0000, 12, R | USER, A, 4));
    // Bits 63:59 and 50, NS and, in a block, nT change nothing.
    decodes(f, 12, 0xf860_0000_1234_5f43, page(RW | USER, A));
    decodes(f, 12, 0x0064_0000_1234_5f63, page(RW | USER, A));
    decodes(f, 21, 0x0060_0001_2341_0f41, leaf(0x1_2340_0000, 21, RW | USER, A, 0));
}

#[test]
fn absent_and_malformed() {
    let f = stage1(Granule::Size4K, 48, 44);
    // Bit 0 decides; a kernel keeps what it likes in the rest.
    for raw in [0, 2, 0x0400_0000_1234_5f42, !1] {
        decodes(f, 12, raw, Entry::Absent);
        decodes(f, 30, raw, Entry::Absent);
    }
    // Above the physical width, and where 52-bit forms have address bits.
    for bit in 44..50 {
        for (level, low) in [(12, 0x403), (21, 0x401), (30, 0x401), (21, 3), (30, 3), (39, 3)] {
            decodes(f, level, 1 << bit | low, Entry::Malformed);
        }
    }
    // Below the alignment of a block, but for nT.
    for bit in (12..21).filter(|bit| *bit != 16) {
        decodes(f, 21, 1 << bit | 0x401, Entry::Malformed);
        decodes(f, 30, 1 << bit | 0x401, Entry::Malformed);
    }
    let f = stage1(Granule::Size64K, 48, 48);
    decodes(f, 16, 0x1235_1f43, Entry::Malformed);
    decodes(f, 29, 0x1235_1003, Entry::Malformed);
    // The split part of an address is as wide as the rest: 50 bits leave two of four.
    let f = stage1(Granule::Size16K, 48, 50);
    decodes(f, 14, 0x0003_0000_1234_4403, leaf(0x3_0000_1234_4000, 14, RWX, A | G, 0));
    decodes(f, 14, 0x0000_0000_1234_4503, Entry::Malformed);
    decodes(stage1(Granule::Size64K, 48, 50), 16, 0x1235_4403, Entry::Malformed);
}

#[test]
fn roots() {
    use Granule::{Size4K, Size16K, Size64K};
    // ARM D8.2.4 to D8.2.6, the initial level: widths, then what an entry maps and how many there are.
    for (granule, va, pa, level, entries) in [
        (Size4K, 48, 48, 39, 512),
        (Size4K, 39, 48, 30, 512),
        (Size4K, 36, 40, 30, 64),
        (Size4K, 40, 40, 39, 2),
        (Size4K, 25, 40, 21, 16),
        (Size4K, 52, 52, 48, 16),
        (Size4K, 48, 52, 39, 512),
        (Size16K, 48, 48, 47, 2),
        (Size16K, 47, 48, 36, 2048),
        (Size16K, 36, 40, 25, 2048),
        (Size16K, 52, 52, 47, 32),
        (Size64K, 48, 48, 42, 64),
        (Size64K, 42, 48, 29, 8192),
        (Size64K, 52, 48, 42, 1024),
        (Size64K, 52, 52, 42, 1024),
    ] {
        let root = stage1(granule, va, pa).root(0x4000_0000).unwrap();
        assert_eq!((root.shift.raw(), root.entries()), (level, entries), "{granule:?} {va} {pa}");
        assert_eq!((root.base.raw(), 1 << root.bits), (0x4000_0000, entries));
    }
    // TTBR0_EL1: ASID in 63:48, CnP in bit 0. The table may be smaller than a page.
    let f = stage1(Size16K, 52, 52);
    assert_eq!(f.root(0x0042_0000_4123_4c01).unwrap().base.raw(), 0x4123_4c00);
    assert_eq!(f.root(0x0042_0000_4123_4c29).unwrap().base.raw(), 0xa_0000_4123_4c00);
    // Bit 1 and bits below the size of the table (32 entries are 256 bytes) are reserved.
    for bad in [0x4123_4c02, 0x4123_4c40, 0x4123_4c80] {
        assert_eq!(f.root(bad), Err(FormatError::Root { raw: bad }));
    }
    // Two entries of 8 bytes, and no 52-bit form: bits 5:2 are address bits, but for the alignment.
    let f = stage1(Size4K, 40, 44);
    assert_eq!(f.root(0x1234_5670).unwrap().base.raw(), 0x1234_5670);
    assert!(f.root(0x1234_5678).is_err());
    assert!(f.root(1 << 43).is_ok() && f.root(1 << 44).is_err());
    // 50 bits of address leave two of the four that were moved.
    let f = stage1(Size64K, 48, 50);
    assert_eq!(f.root(0x4000_000c).unwrap().base.raw(), 0x3_0000_4000_0000);
    assert!(f.root(0x4000_0010).is_err());
}

#[test]
fn what_tcr_says() {
    let raw = |bits: &[(u64, u32)]| bits.iter().fold(0, |raw, (value, at)| raw | value << at);
    // ARM D24.2, TCR_EL1: T0SZ, TG0 at 14, T1SZ at 16, TG1 at 30, IPS at 32, TBI0 37, TBI1 38, HA, HD.
    let tcr = raw(&[(16, 0), (16, 16), (2, 30), (5, 32), (1, 37), (1, 39), (1, 40)]);
    let lower = Aarch64::from_tcr(tcr, false, 44).unwrap();
    let dirty = stage1(Granule::Size4K, 48, 44).with_hardware_dirty(true);
    assert_eq!(lower, dirty.with_tags(true));
    assert_eq!(
        Aarch64::from_tcr(tcr, true, 52).unwrap(),
        stage1(Granule::Size4K, 48, 48).with_hardware_dirty(true).with_upper(true)
    );
    // 16K below (TG0 2) and above (TG1 1), DS at 59, 52 bits.
    let tcr = raw(&[(12, 0), (2, 14), (12, 16), (1, 30), (6, 32), (1, 59)]);
    let by_hand = stage1(Granule::Size16K, 52, 52).with_hardware_access(false);
    assert_eq!(Aarch64::from_tcr(tcr, false, 52).unwrap(), by_hand);
    assert_eq!(Aarch64::from_tcr(tcr, true, 52).unwrap(), by_hand.with_upper(true));
    // 64K below (TG0 1) and above (TG1 3), HPD1 at 42, HD without HA.
    let tcr = raw(&[(22, 0), (1, 14), (12, 16), (3, 30), (2, 32), (1, 40), (1, 42)]);
    let by_hand = stage1(Granule::Size64K, 42, 40).with_hardware_access(false);
    assert_eq!(Aarch64::from_tcr(tcr, false, 48).unwrap(), by_hand);
    let by_hand = stage1(Granule::Size64K, 52, 40).with_hardware_access(false);
    assert_eq!(
        Aarch64::from_tcr(tcr, true, 48).unwrap(),
        by_hand.with_upper(true).with_table_rights(false)
    );
    // EPD0 at 7 and EPD1 at 23; TG0 3 and TG1 0 are reserved.
    for (bad, upper) in [(1 << 7, false), (1 << 23 | 2 << 30, true), (3 << 14, false), (0, true)] {
        let bad = bad | 16 | 16 << 16;
        assert_eq!(Aarch64::from_tcr(bad, upper, 48), Err(FormatError::Control { raw: bad }));
    }
    // More than 48 bits want DS with 4K.
    assert_eq!(Aarch64::from_tcr(12, false, 48), Err(FormatError::AddressBits { bits: 52 }));
    assert_eq!(Aarch64::from_tcr(0, false, 48), Err(FormatError::AddressBits { bits: 64 }));
    assert_eq!(Aarch64::from_tcr(63, false, 48), Err(FormatError::AddressBits { bits: 1 }));
    // A wide IPS without DS is still 48 bits.
    let plain = Aarch64::from_tcr(16 | 6 << 32 | 1 << 39, false, 52).unwrap();
    assert_eq!(plain, stage1(Granule::Size4K, 48, 48));
    assert_eq!(Aarch64::from_tcr(16, false, 31), Err(FormatError::PhysBits { bits: 31 }));
}

#[test]
fn the_edges_of_the_halves() {
    let range = |start, pages| {
        AddrRange::new(VirtAddr::new(start), PageCount::new(pages), PageShift::SIZE_4K).unwrap()
    };
    let lower = stage1(Granule::Size4K, 39, 40);
    let upper = lower.with_upper(true);
    let valid =
        |start, pages| (lower.valid(&range(start, pages)), upper.valid(&range(start, pages)));
    assert_eq!(valid(0, 1 << 27), (true, false));
    assert_eq!(valid(0, (1 << 27) + 1), (false, false));
    assert_eq!(valid(1 << 39, 1), (false, false));
    assert_eq!(valid(!0 << 39, 1 << 27), (false, true));
    assert_eq!(valid((!0 << 39) - 0x1000, 2), (false, false));
    assert_eq!(valid(!0xfff, 1), (false, true));
    assert_eq!(valid(0, 1 << 52), (false, false));
    // A tag is no part of it, in either half, but a range has one tag.
    let tagged = 0xa5 << 56;
    assert_eq!(valid(tagged, 1), (false, false));
    assert!(lower.with_tags(true).valid(&range(tagged, 1 << 27)));
    assert!(!lower.with_tags(true).valid(&range(tagged, (1 << 27) + 1)));
    assert!(!lower.with_tags(true).valid(&range(tagged | 1 << 55, 1)));
    assert!(upper.with_tags(true).valid(&range(tagged | 0x00ff_ff80_0000_0000, 1 << 27)));
    assert!(!upper.with_tags(true).valid(&range(tagged, 1)));
}

#[test]
fn stage_2() {
    let f = stage2(Granule::Size4K, 40, 44);
    let page = |rights, flags, memory| leaf(0x1234_5000, 12, rights, flags, memory);
    // ARM D8.3.2: MemAttr 5:2, S2AP 7:6, SH, AF, XN 54:53. The guest's memory, then a read-only page.
    both(f, 12, 0x0000_0000_1234_57ff, page(RWX | USER, A, 15));
    both(f, 12, 0x0040_0000_1234_577f, page(R | USER, A, 15));
    both(f, 12, 0x0040_0000_1234_57c7, page(RW | USER, A, 1));
    both(f, 21, 0x0000_0001_2340_07fd, leaf(0x1_2340_0000, 21, RWX | USER, A, 15));
    // Only writable; and nothing, not even execution.
    both(f, 12, 0x0040_0000_1234_5783, page(Rights::WRITE | USER, A, 0));
    decodes(f, 12, 0x0000_0000_1234_5703, page(Rights::empty(), A, 0));
    // XN 1 takes execution from privileged code alone, 3 from unprivileged code alone.
    decodes(f, 12, 0x0020_0000_1234_57ff, page(RWX | USER, A, 15));
    decodes(f, 12, 0x0060_0000_1234_57ff, page(RW | USER, A, 15));
    // Bit 11 is no nG; table attributes do not exist.
    decodes(f, 12, 0x0000_0000_1234_5fff, page(RWX | USER, A, 15));
    decodes(f, 30, 0x7800_0000_0020_3003, table(Granule::Size4K, 0x20_3000, 21, Rights::all()));
    // ARM D8.5.2: DBM without S2AP[1] is writable and clean.
    let dirty = f.with_hardware_dirty(true);
    both(dirty, 12, 0x0008_0000_1234_577f, page(RWX | USER, A, 15));
    both(dirty, 12, 0x0008_0000_1234_57ff, page(RWX | USER, AD, 15));
    decodes(f, 12, 0x0008_0000_1234_577f, page(RX | USER, A, 15));
    let by_hand = f.with_hardware_access(false);
    decodes(by_hand, 12, 0x0000_0000_1234_53ff, page(Rights::empty(), NONE, 15));
}

#[test]
fn stage_2_starts_with_concatenated_tables() {
    use Granule::{Size4K, Size16K, Size64K};
    // ARM D8.2, "Concatenated translation tables": up to 16 in the initial lookup.
    for (granule, ipa, level, entries) in [
        (Size4K, 32, 21, 2048),
        (Size4K, 34, 21, 8192),
        (Size4K, 35, 30, 32),
        (Size4K, 40, 30, 1024),
        (Size4K, 43, 30, 8192),
        (Size4K, 44, 39, 32),
        (Size4K, 48, 39, 512),
        (Size4K, 52, 39, 8192),
        (Size16K, 40, 25, 32768),
        (Size16K, 41, 36, 32),
        (Size16K, 48, 36, 4096),
        (Size16K, 52, 47, 32),
        (Size64K, 40, 29, 2048),
        (Size64K, 45, 29, 65536),
        (Size64K, 48, 42, 64),
    ] {
        let root = stage2(granule, ipa, 44).root(0x4000_0000_0000 >> 4).unwrap();
        assert_eq!((root.shift.raw(), root.entries()), (level, entries), "{granule:?} {ipa}");
    }
    // 16 tables of 8192 entries have more than an index can name.
    let error = FormatError::RootSize { bits: 17, space: 46 };
    assert_eq!(Aarch64Stage2::new(Size64K, 46, 48), Err(error));
    // All of them are aligned together: two tables to 8 KiB.
    let f = stage2(Size4K, 40, 44);
    assert!(f.root(0x0001_0000_8000_2001).is_ok());
    assert!(f.root(0x8000_1000).is_err());
}

#[test]
fn what_vtcr_says() {
    // ARM D24.2, VTCR_EL2: T0SZ, SL0 at 6, TG0 at 14, PS at 16, HA 21, HD 22, DS 32, SL2 33.
    let vtcr = 24 | 1 << 6 | 2 << 16 | 1 << 21 | 1 << 22;
    let want = stage2(Granule::Size4K, 40, 40).with_hardware_dirty(true);
    assert_eq!(Aarch64Stage2::from_vtcr(vtcr, 48).unwrap(), want);
    // The same addresses from a level above: two entries.
    let above = Aarch64Stage2::from_vtcr(24 | 2 << 6 | 2 << 16, 48).unwrap();
    let root = above.root(0x8000_0000).unwrap();
    assert_eq!((root.shift.raw(), root.entries()), (39, 2));
    let level = |vtcr| Aarch64Stage2::from_vtcr(vtcr, 52).map(|f| f.root(0).unwrap().shift.raw());
    // The tables of SL0: 4K starts at 2, 1, 0, 3; the others at 3, 2, 1.
    assert_eq!(level(40), Ok(21));
    assert_eq!(level(48 | 3 << 6), Ok(12));
    assert_eq!(level(40 | 2 << 14), Ok(14));
    assert_eq!(level(30 | 1 << 6 | 2 << 14), Ok(25));
    assert_eq!(level(20 | 2 << 6 | 2 << 14), Ok(36));
    assert_eq!(level(12 | 3 << 6 | 2 << 14 | 1 << 32), Ok(47));
    assert_eq!(level(12 | 1 << 32 | 1 << 33), Ok(48));
    assert_eq!(level(33 | 1 << 14), Ok(16));
    assert_eq!(level(16 | 2 << 6 | 1 << 14), Ok(42));
    for bad in [3 << 14, 3 << 6 | 1 << 14, 3 << 6 | 2 << 14, 1 << 6 | 1 << 32 | 1 << 33] {
        let bad = bad | 24;
        assert_eq!(level(bad), Err(FormatError::Control { raw: bad }));
    }
    // More bits than 16 tables index, or fewer than the tables below the top.
    assert_eq!(level(29), Err(FormatError::RootSize { bits: 14, space: 35 }));
    assert_eq!(level(34 | 1 << 6), Err(FormatError::RootSize { bits: 0, space: 30 }));
}
