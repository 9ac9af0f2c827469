//! Entries worked out by hand from the manuals.
//!
//! SDM is the Intel SDM volume 3, section 5.5; APM is the AMD APM volume 2, section 5.3. Each value
//! was put together from the bit positions in the table named beside it, not by `encode`.

use pinfold_arch::{
    EncodeError, Entry, FormatError, Leaf, LeafFlags, PageFormat, PageShift, PhysAddr, Rights,
    Table, VirtAddr, X86_64,
};

const PML5: u8 = 48;
const PML4: u8 = 39;
const PDPT: u8 = 30;
const PD: u8 = 21;
const PT: u8 = 12;

const R: Rights = Rights::READ;
const RX: Rights = R.union(Rights::EXECUTE);
const RW: Rights = R.union(Rights::WRITE);
const RWX: Rights = RW.union(Rights::EXECUTE);
const USER: Rights = Rights::USER;

const NONE: LeafFlags = LeafFlags::empty();
const A: LeafFlags = LeafFlags::ACCESSED;
const AD: LeafFlags = A.union(LeafFlags::DIRTY);
const ADG: LeafFlags = AD.union(LeafFlags::GLOBAL);

fn x86(levels: u8, phys_bits: u8) -> X86_64 {
    X86_64::new(levels, phys_bits).unwrap()
}

fn shift(raw: u8) -> PageShift {
    PageShift::new(raw).unwrap()
}

fn at(level: u8) -> Table {
    Table { base: PhysAddr::new(0x1000), shift: shift(level), bits: 9, first: 0, last: 511 }
}

fn table(base: u64, level: u8, rights: Rights) -> Entry {
    Entry::Table(Table { base: PhysAddr::new(base), ..at(level) }, rights)
}

fn leaf(addr: u64, level: u8, rights: Rights, flags: LeafFlags, memory: u8) -> Entry {
    Entry::Leaf(Leaf { flags, memory, ..Leaf::new(PhysAddr::new(addr), shift(level), rights) })
}

/// The same page under a protection key and an encryption key.
fn with_keys(entry: Entry, key: u8, encryption: u16) -> Entry {
    let Entry::Leaf(leaf) = entry else { panic!("{entry:?}") };
    Entry::Leaf(Leaf { key, encryption, ..leaf })
}

#[track_caller]
fn decodes(format: X86_64, level: u8, raw: u64, want: Entry) {
    assert_eq!(format.decode(&at(level), raw), want, "{raw:#x} at {level} in {format:?}");
}

/// The same both ways: for values without a bit that is ignored.
#[track_caller]
fn both(format: X86_64, level: u8, raw: u64, want: Entry) {
    decodes(format, level, raw, want);
    assert_eq!(format.encode(&at(level), want), Ok(raw), "{want:?} at {level} in {format:?}");
}

#[test]
fn leaves_of_every_size() {
    let f = x86(4, 46);
    // SDM table 5-20, PTE: P R/W U/S A D, XD.
    both(f, PT, 0x8000_0000_1234_5067, leaf(0x1234_5000, PT, RW | USER, AD, 0));
    // SDM table 5-20: P U/S A; program text.
    both(f, PT, 0x0000_0000_1234_5025, leaf(0x1234_5000, PT, RX | USER, A, 0));
    // SDM table 5-20: P R/W A D G, XD; kernel data.
    both(f, PT, 0x8000_0000_00ab_c163, leaf(0xab_c000, PT, RW, ADG, 0));
    // SDM table 5-20: P alone, at the last frame of 46 bits.
    both(f, PT, 0x0000_3fff_ffff_f001, leaf(0x3fff_ffff_f000, PT, RX, NONE, 0));
    // SDM table 5-18, PDE with PS: P R/W U/S A D PS, XD.
    both(f, PD, 0x8000_0001_2340_00e7, leaf(0x1_2340_0000, PD, RW | USER, AD, 0));
    // SDM table 5-18: P PS G, the last frame of 46 bits.
    both(f, PD, 0x0000_3fff_ffe0_0181, leaf(0x3fff_ffe0_0000, PD, RX, LeafFlags::GLOBAL, 0));
    // SDM table 5-16, PDPTE with PS: P R/W U/S A D PS, XD.
    both(f, PDPT, 0x8000_0012_4000_00e7, leaf(0x12_4000_0000, PDPT, RW | USER, AD, 0));
    // SDM table 5-16: P R/W PS, the last frame of 46 bits.
    both(f, PDPT, 0x0000_3fff_c000_0083, leaf(0x3fff_c000_0000, PDPT, RWX, NONE, 0));
    // The dirty bit without the accessed bit: software may write that (SDM 5.8).
    both(f, PT, 0x0000_0000_0000_1041, leaf(0x1000, PT, RX, LeafFlags::DIRTY, 0));
}

#[test]
fn tables_at_every_level() {
    for levels in [4, 5] {
        let f = x86(levels, 52);
        // SDM table 5-15, PML4E: P R/W U/S; the address reaches bit 51 and starts at bit 12.
        both(f, PML4, 0x000f_ffff_ffff_f007, table(0xf_ffff_ffff_f000, PDPT, RWX | USER));
        both(f, PML4, 0x0000_0000_0000_1001, table(0x1000, PDPT, RX));
        // SDM table 5-17, PDPTE without PS: P R/W, XD.
        both(f, PDPT, 0x8000_0000_0020_3003, table(0x20_3000, PD, RW));
        // SDM table 5-19, PDE without PS: P U/S.
        both(f, PD, 0x0000_0000_0020_3005, table(0x20_3000, PT, RX | USER));
    }
    // SDM table 5-14, PML5E: P R/W U/S.
    both(x86(5, 52), PML5, 0x0000_0000_0000_2007, table(0x2000, PML4, RWX | USER));
    // PWT, PCD, A and bits 6, 8, 11:9, 62:52 of an entry that points to a table are not ours.
    decodes(x86(5, 52), PML5, 0x7ff0_0000_0000_2f7f, table(0x2000, PML4, RWX | USER));
    decodes(x86(4, 52), PD, 0x7ff0_0000_0000_2f7f, table(0x2000, PT, RWX | USER));
}

#[test]
fn the_memory_type_is_pat_pcd_pwt() {
    let f = x86(4, 46);
    // SDM 5.9.2: the index is 4 * PAT + 2 * PCD + PWT; the PTE has PAT at bit 7 (table 5-20).
    for (low, index) in
        [(0x07, 0), (0x0f, 1), (0x17, 2), (0x1f, 3), (0x87, 4), (0x8f, 5), (0x97, 6), (0x9f, 7)]
    {
        both(f, PT, 0x1234_5000 | low, leaf(0x1234_5000, PT, RWX | USER, NONE, index));
    }
    // Larger leaves have it at bit 12 (tables 5-18 and 5-16), which is no address bit there.
    both(f, PD, 0x0000_0000_0020_1083, leaf(0x20_0000, PD, RWX, NONE, 4));
    both(f, PD, 0x0000_0000_0020_0093, leaf(0x20_0000, PD, RWX, NONE, 2));
    both(f, PD, 0x0000_0000_0020_109b, leaf(0x20_0000, PD, RWX, NONE, 7));
    both(f, PDPT, 0x0000_0000_4000_1083, leaf(0x4000_0000, PDPT, RWX, NONE, 4));
    both(f, PDPT, 0x0000_0000_4000_008b, leaf(0x4000_0000, PDPT, RWX, NONE, 1));
}

#[test]
fn bits_at_and_above_the_physical_width_are_reserved() {
    // SDM tables 5-14 to 5-20: bits 51:M, M being MAXPHYADDR.
    for (width, last, first_reserved) in [
        (36, 0x0000_0008_0000_0000, 0x0000_0010_0000_0000),
        (46, 0x0000_2000_0000_0000, 0x0000_4000_0000_0000),
        (51, 0x0004_0000_0000_0000, 0x0008_0000_0000_0000),
    ] {
        let f = x86(5, width);
        both(f, PT, last | 1, leaf(last, PT, RX, NONE, 0));
        both(f, PD, last | 0x81, leaf(last, PD, RX, NONE, 0));
        both(f, PML5, last | 1, table(last, PML4, RX));
        for bit in (width..52).map(|bit| 1 << bit) {
            assert!(bit >= first_reserved);
            for (level, low) in
                [(PT, 1), (PD, 0x81), (PDPT, 0x81), (PD, 1), (PDPT, 1), (PML4, 1), (PML5, 1)]
            {
                decodes(f, level, bit | low, Entry::Malformed);
            }
        }
    }
    // With the full 52 bits none is left; bit 52 is software's.
    let f = x86(4, 52);
    both(f, PT, 0x0008_0000_0000_0001, leaf(0x8_0000_0000_0000, PT, RX, NONE, 0));
    decodes(f, PT, 0x0010_0000_0000_0001, leaf(0, PT, RX, NONE, 0));
}

#[test]
fn low_bits_of_large_leaves_are_reserved() {
    let f = x86(4, 46);
    // SDM table 5-18: bits 20:13; bit 21 is the lowest of the address.
    for bit in 13..21 {
        decodes(f, PD, 1 << bit | 0x81, Entry::Malformed);
    }
    both(f, PD, 0x0000_0000_0020_0081, leaf(0x20_0000, PD, RX, NONE, 0));
    // SDM table 5-16: bits 29:13.
    for bit in 13..30 {
        decodes(f, PDPT, 1 << bit | 0x81, Entry::Malformed);
    }
    both(f, PDPT, 0x0000_0000_4000_0081, leaf(0x4000_0000, PDPT, RX, NONE, 0));
}

#[test]
fn no_leaf_where_there_can_be_none() {
    // SDM tables 5-14 and 5-15: bit 7 is reserved, with and without an address.
    for raw in [0x0000_0000_0000_0087, 0x0000_0000_0000_2087] {
        decodes(x86(4, 46), PML4, raw, Entry::Malformed);
        decodes(x86(5, 46), PML4, raw, Entry::Malformed);
        decodes(x86(5, 46), PML5, raw, Entry::Malformed);
    }
    // SDM 5.1.4, Page1GB: without it PS of a PDPTE is reserved; 2 MiB leaves stay.
    let f = x86(4, 46).with_gib_pages(false);
    decodes(f, PDPT, 0x0000_0000_4000_0087, Entry::Malformed);
    both(f, PDPT, 0x0000_0000_4000_0007, table(0x4000_0000, PD, RWX | USER));
    both(f, PD, 0x0000_0000_4000_0087, leaf(0x4000_0000, PD, RWX | USER, NONE, 0));
}

#[test]
fn without_nxe_bit_63_is_reserved() {
    // SDM tables 5-14 to 5-20, bit 63.
    let f = x86(5, 46).with_no_execute(false);
    for (level, low) in
        [(PT, 7), (PD, 0x87), (PD, 7), (PDPT, 0x87), (PDPT, 7), (PML4, 7), (PML5, 7)]
    {
        decodes(f, level, 0x8000_0000_4000_0000 | low, Entry::Malformed);
    }
    both(f, PT, 0x0000_0000_4000_0007, leaf(0x4000_0000, PT, RWX | USER, NONE, 0));
}

#[test]
fn whatever_is_not_present_is_absent() {
    // SDM 5.5.4: with P = 0 no other bit counts.
    for format in [x86(4, 36), x86(5, 52), x86(4, 46).with_no_execute(false)] {
        for level in [PT, PD, PDPT, PML4, PML5] {
            // Linux PROT_NONE on frame 0x12345: its number inverted in 51:12, bit 8 set.
            decodes(format, level, 0x800f_ffff_edcb_a160, Entry::Absent);
            // A Linux swap entry: the type in 63:59, the offset inverted.
            decodes(format, level, 0x0fff_ffff_ffed_be00, Entry::Absent);
            decodes(format, level, 0xffff_ffff_ffff_fffe, Entry::Absent);
            decodes(format, level, 0, Entry::Absent);
        }
        assert_eq!(format.encode(&at(PT), Entry::Absent), Ok(0));
    }
}

#[test]
fn software_bits_and_protection_keys_that_are_off_are_ignored() {
    // SDM table 5-20: bits 11:9 and 58:52, protection key 15 in 62:59. The same in 5-18, 5-16.
    let f = x86(4, 46);
    decodes(f, PT, 0x7ff0_0000_1234_5e67, leaf(0x1234_5000, PT, RWX | USER, AD, 0));
    decodes(f, PD, 0xfff0_0000_0020_0ee7, leaf(0x20_0000, PD, RW | USER, AD, 0));
    decodes(f, PDPT, 0x7810_0000_4000_0ee7, leaf(0x4000_0000, PDPT, RWX | USER, AD, 0));
}

#[test]
fn protection_keys_are_passed_through() {
    // SDM 5.6.2: bits 62:59 of the leaf, whatever its size; of no entry above it.
    let f = x86(4, 46).with_protection_keys(true);
    let page = leaf(0x1234_5000, PT, RWX | USER, AD, 0);
    both(f, PT, 0x7800_0000_1234_5067, with_keys(page, 15, 0));
    both(f, PT, 0x0800_0000_1234_5067, with_keys(page, 1, 0));
    both(f, PD, 0xa800_0000_0020_00e7, with_keys(leaf(0x20_0000, PD, RW | USER, AD, 0), 5, 0));
    let large = leaf(0x4000_0000, PDPT, RW | USER, AD, 0);
    both(f, PDPT, 0xc000_0000_4000_00e7, with_keys(large, 8, 0));
    decodes(f, PD, 0x7800_0000_0020_3005, table(0x20_3000, PT, RX | USER));
    // No bit is left for a sixteenth one, and none at all where keys are off.
    for (format, key) in [(f, 16), (x86(4, 46), 1)] {
        let said = format.encode(&at(PT), with_keys(page, key, 0));
        assert_eq!(said, Err(EncodeError::Attributes));
    }
}

#[test]
fn a_shadow_stack_is_dirty_and_cannot_be_written() {
    // SDM volume 1, 17.2.2: R/W clear and D set in the leaf.
    let f = x86(4, 46).with_shadow_stacks(true);
    let stack = AD | LeafFlags::SHADOW_STACK;
    both(f, PT, 0x8000_0000_1234_5065, leaf(0x1234_5000, PT, R | USER, stack, 0));
    both(f, PD, 0x8000_0000_0020_00e5, leaf(0x20_0000, PD, R | USER, stack, 0));
    both(f, PT, 0x8000_0000_1234_5067, leaf(0x1234_5000, PT, RW | USER, AD, 0));
    both(f, PT, 0x8000_0000_1234_5025, leaf(0x1234_5000, PT, R | USER, A, 0));
    // Without CET it is a page like any other.
    both(x86(4, 46), PT, 0x8000_0000_1234_5065, leaf(0x1234_5000, PT, R | USER, AD, 0));
    // What would be read back as something else has no encoding.
    for (format, rights, flags) in
        [(f, R, AD), (f, RW, stack), (f, R, A | LeafFlags::SHADOW_STACK), (x86(4, 46), R, stack)]
    {
        let said = format.encode(&at(PT), leaf(0x1000, PT, rights, flags, 0));
        assert_eq!(said, Err(EncodeError::Attributes), "{rights:?} {flags:?}");
    }
}

#[test]
fn the_encryption_bit_is_no_address_bit() {
    // APM 7.10: SME takes the C-bit's place out of the address; widths shrink to 43 and 48 bits.
    for (width, c_bit) in [(43, 0x0000_8000_0000_0000), (48, 0x0008_0000_0000_0000)] {
        let f = x86(4, width).with_encryption(c_bit).unwrap();
        let small = leaf(0x1234_5000, PT, RWX | USER, NONE, 0);
        both(f, PT, c_bit | 0x1234_5007, with_keys(small, 0, 1));
        both(f, PT, 0x1234_5007, small);
        both(f, PD, c_bit | 0x20_0083, with_keys(leaf(0x20_0000, PD, RWX, NONE, 0), 0, 1));
        let large = leaf(0x4000_0000, PDPT, RWX, NONE, 4);
        both(f, PDPT, c_bit | 0x4000_1083, with_keys(large, 0, 1));
        decodes(f, PML4, c_bit | 0x2007, table(0x2000, PDPT, RWX | USER));
        assert_eq!(f.root(c_bit | 0x1000).map(|root| root.base), Ok(PhysAddr::new(0x1000)));
        // Not configured, it is reserved like every bit above the width.
        decodes(x86(4, width), PT, c_bit | 0x1234_5007, Entry::Malformed);
        assert_eq!(x86(4, width).root(c_bit), Err(FormatError::Root { raw: c_bit }));
        // The other bits above the width stay reserved.
        decodes(f, PT, c_bit >> 1 | c_bit | 0x1234_5007, Entry::Malformed);
    }
    // Inside the width the bit is missing from the address, and its neighbours are not.
    let f = x86(4, 48).with_encryption(0x0000_8000_0000_0000).unwrap();
    let want = with_keys(leaf(0x7fff_ffff_f000, PT, RX, NONE, 0), 0, 1);
    both(f, PT, 0x0000_ffff_ffff_f001, want);
}

#[test]
fn key_ids_are_no_address_bits() {
    // MKTME: six KeyID bits at the top of 46 physical ones, 45:40.
    let f = x86(4, 46).with_encryption(0x0000_3f00_0000_0000).unwrap();
    let small = leaf(0xff_1234_5000, PT, RWX | USER, NONE, 0);
    both(f, PT, 0x0000_00ff_1234_5007, small);
    both(f, PT, 0x0000_01ff_1234_5007, with_keys(small, 0, 1));
    both(f, PT, 0x0000_2aff_1234_5007, with_keys(small, 0, 42));
    both(f, PT, 0x0000_3fff_1234_5007, with_keys(small, 0, 63));
    decodes(f, PD, 0x0000_2a00_0020_3005, table(0x20_3000, PT, RX | USER));
    decodes(f, PT, 0x0000_4000_1234_5007, Entry::Malformed);
    assert_eq!(f.encode(&at(PT), with_keys(small, 0, 64)), Err(EncodeError::Attributes));
    let beyond = leaf(0x100_0000_0000, PT, RWX, NONE, 0);
    let addr = PhysAddr::new(0x100_0000_0000);
    assert_eq!(f.encode(&at(PT), beyond), Err(EncodeError::Address { addr }));
}

#[test]
fn the_encryption_mask_is_one_field_of_high_bits() {
    let f = x86(4, 46);
    assert_eq!(f.with_encryption(0), Ok(f));
    for mask in [1 << 32, 3 << 47, 0x7fff << 37] {
        assert!(f.with_encryption(mask).is_ok());
    }
    // Two fields; 16 bits; the PAT bit; inside a 1 GiB page; above 51; below 12.
    for mask in
        [5 << 47, 0xffff << 36, 1 << 12, 1 << 29, 1 << 31, 1 << 52, 1 << 63, 1, 1 << 11, u64::MAX]
    {
        assert_eq!(f.with_encryption(mask), Err(FormatError::EncryptionMask { mask }));
    }
}

#[test]
fn the_root_comes_from_cr3() {
    let root = |levels, cr3| x86(levels, 46).root(cr3);
    let table = |base, level| Ok(Table { base: PhysAddr::new(base), ..at(level) });
    assert_eq!(root(4, 0x0000_0001_0000_1000), table(0x1_0000_1000, PML4));
    assert_eq!(root(5, 0x0000_0001_0000_1000), table(0x1_0000_1000, PML5));
    // SDM table 5-12: PWT and PCD. SDM table 5-13: PCID in 11:0; bit 63 asks for no flush.
    assert_eq!(root(4, 0x0000_0000_0000_1018), table(0x1000, PML4));
    assert_eq!(root(4, 0x8000_0000_0000_1fff), table(0x1000, PML4));
    // SDM tables 5-12 and 5-13: bit 62 LAM_U48, bit 61 LAM_U57.
    assert_eq!(root(4, 0x4000_0000_0000_1000), table(0x1000, PML4));
    assert_eq!(root(5, 0x2000_0000_0000_1000), table(0x1000, PML5));
    // Above the width, and the reserved bits 60:52.
    assert_eq!(root(4, 0x0000_3fff_ffff_f000), table(0x3fff_ffff_f000, PML4));
    for raw in [0x0000_4000_0000_0000, 0x0010_0000_0000_0000, 0x1000_0000_0000_0000] {
        assert_eq!(root(4, raw), Err(FormatError::Root { raw }));
    }
}

#[test]
fn configurations_that_do_not_exist() {
    assert_eq!(X86_64::new(3, 46), Err(FormatError::Levels { levels: 3 }));
    assert_eq!(X86_64::new(6, 46), Err(FormatError::Levels { levels: 6 }));
    assert_eq!(X86_64::new(4, 31), Err(FormatError::PhysBits { bits: 31 }));
    assert_eq!(X86_64::new(4, 53), Err(FormatError::PhysBits { bits: 53 }));
}

#[test]
fn an_address_is_cut_into_nine_bit_indices() {
    // SDM 5.5.4: bits 56:48, 47:39, 38:30, 29:21, 20:12. Indices 1, 2, 3, 4, 5 and 511 throughout.
    for (va, want) in [
        (0x0001_0100_c080_5fff, [1, 2, 3, 4, 5]),
        (0xffff_ffff_ffff_f000, [511; 5]),
        (0xffff_8000_0000_0000, [511, 256, 0, 0, 0]),
    ] {
        let indices = [PML5, PML4, PDPT, PD, PT].map(|level| at(level).index(VirtAddr::new(va)));
        assert_eq!(indices, want, "{va:#x}");
    }
}
