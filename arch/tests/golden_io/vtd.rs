//! VT-d entries worked out by hand. Tables and bits are those of the specification, revision 4.1, section 9.

use pinfold_arch::{
    Access, EncodeError, FormatError, IoEntry, IoFlags, IoFormat, Iova, PhysAddr, Vtd,
};

use super::{NONE, R, RW, W, at, both, cleaned, leaf, table};

const PT: u8 = 12;
const PD: u8 = 21;
const PDP: u8 = 30;
const TOP: u8 = 39;

fn vtd(levels: u8, host_bits: u8) -> Vtd {
    Vtd::new(levels, host_bits).unwrap()
}

#[test]
fn leaves_and_tables_of_every_level() {
    let f = vtd(5, 46);
    both(f, &at(PT, 9), 0x0000_0001_2345_6003, leaf(0x1_2345_6000, PT, RW, NONE));
    both(f, &at(PT, 9), 0x0000_0001_2345_6001, leaf(0x1_2345_6000, PT, R, NONE));
    both(f, &at(PT, 9), 0x0000_0001_2345_6002, leaf(0x1_2345_6000, PT, W, NONE));
    // Bit 7 says that it is a page.
    both(f, &at(PD, 9), 0x0000_0001_2340_0083, leaf(0x1_2340_0000, PD, RW, NONE));
    both(f, &at(PDP, 9), 0x0000_0012_4000_0083, leaf(0x12_4000_0000, PDP, RW, NONE));
    for (level, below) in [(PD, PT), (PDP, PD), (TOP, PDP), (48, TOP)] {
        both(f, &at(level, 9), 0x0000_0000_0020_3003, table(0x20_3000, below, 9, RW));
        both(f, &at(level, 9), 0x0000_0000_0020_3001, table(0x20_3000, below, 9, R));
    }
    // Bits that hardware does not look at: 2, 6:3, 10, 61:52, 63.
    let ignored = 0xbff0_0000_0000_047c;
    let page = leaf(0x1_2345_6000, PT, RW, NONE);
    assert_eq!(f.decode(&at(PT, 9), 0x1_2345_6003 | ignored), page);
    let next = table(0x20_3000, PT, 9, RW);
    assert_eq!(f.decode(&at(PD, 9), 0x20_3003 | ignored | 0xb00), next);
}

#[test]
fn without_a_right_it_is_nothing() {
    let f = vtd(4, 46);
    for level in [PT, PD, PDP, TOP] {
        for raw in [0, 0xffff_ffff_ffff_fffc, 0x80, 0x1_2345_6080] {
            assert_eq!(f.decode(&at(level, 9), raw), IoEntry::Absent, "{raw:#x}");
        }
        assert_eq!(f.encode(&at(level, 9), 0, IoEntry::Absent), Ok(0));
    }
    let nothing = f.encode(&at(PT, 9), 0, leaf(0x1000, PT, Access::empty(), NONE));
    assert_eq!(nothing, Err(EncodeError::Access { access: Access::empty() }));
}

#[test]
fn what_is_reserved() {
    let f = vtd(4, 39);
    for raw in [
        // Above the host's 39 bits; the hint of old.
        0x0000_0080_0000_1003,
        0x0008_0000_0000_1003,
        0x4000_0000_0000_1003,
    ] {
        assert_eq!(f.decode(&at(PT, 9), raw), IoEntry::Malformed, "{raw:#x}");
        assert_eq!(f.decode(&at(PD, 9), raw), IoEntry::Malformed, "{raw:#x}");
    }
    // Inside a large page; a page on a level without one; snooping without snoop control.
    assert_eq!(f.decode(&at(PD, 9), 0x1083), IoEntry::Malformed);
    assert_eq!(f.decode(&at(PDP, 9), 0x20_0083), IoEntry::Malformed);
    assert_eq!(f.decode(&at(TOP, 9), 0x83), IoEntry::Malformed);
    assert_eq!(f.decode(&at(PT, 9), 0x1803), IoEntry::Malformed);
    let small = f.with_leaves(false, false);
    assert_eq!(small.decode(&at(PD, 9), 0x20_0083), IoEntry::Malformed);
    assert_eq!(small.decode(&at(PDP, 9), 0x4000_0083), IoEntry::Malformed);
}

#[test]
fn marks_and_snooping_where_the_unit_has_them() {
    let marks = IoFlags::ACCESSED | IoFlags::DIRTY;
    let f = vtd(4, 46).with_marks(true).unwrap().with_snoop_control(true);
    both(f, &at(PT, 9), 0x1303, leaf(0x1000, PT, RW, marks));
    both(f, &at(PT, 9), 0x1103, leaf(0x1000, PT, RW, IoFlags::ACCESSED));
    both(f, &at(PD, 9), 0x20_0883, leaf(0x20_0000, PD, RW, IoFlags::SNOOP));
    cleaned(f, &at(PT, 9), 0x1303, 0x1103);
    cleaned(f, &at(PD, 9), 0x20_0a83, 0x20_0883);
    let plain = vtd(4, 46);
    assert_eq!(plain.decode(&at(PT, 9), 0x1303), leaf(0x1000, PT, RW, NONE));
    let said = plain.encode(&at(PT, 9), 0, leaf(0x1000, PT, RW, IoFlags::SNOOP));
    assert_eq!(said, Err(EncodeError::Attributes));
}

#[test]
fn no_marks_without_coherent_walks() {
    let past = vtd(4, 46).with_coherent_walks(false);
    assert_eq!(past.with_marks(true), Err(FormatError::IncoherentMarks));
    assert_eq!(past.with_marks(false), Ok(past));
    let marked = vtd(4, 46).with_marks(true).unwrap();
    assert_eq!(marked.with_coherent_walks(false), past);
    assert_eq!(past.with_coherent_walks(true), vtd(4, 46));
}

#[test]
fn roots_and_contexts() {
    let f = vtd(4, 46);
    let at = |addr| PhysAddr::new(addr);
    assert_eq!(f.root_entry(at(0x12_3000)), Ok([0x12_3001, 0]));
    // Domain 23:8, width 2:0 (1, 2, 3 for 3, 4, 5 levels), type 3:2 (1 with device TLBs).
    assert_eq!(f.context_entry(at(0x12_3000), 7, false), Ok([0x12_3001, 0x702]));
    assert_eq!(vtd(3, 46).context_entry(at(0x12_3000), 0xffff, true), Ok([0x12_3005, 0xff_ff01]));
    assert_eq!(vtd(5, 46).context_entry(at(0x12_3000), 1, true), Ok([0x12_3005, 0x103]));
    for addr in [at(0x800), at(1 << 46)] {
        assert_eq!(f.root_entry(addr), Err(EncodeError::Address { addr }));
        assert_eq!(f.context_entry(addr, 0, false), Err(EncodeError::Address { addr }));
    }
}

#[test]
fn widths() {
    for (levels, bits) in [(3, 39), (4, 48), (5, 57)] {
        assert_eq!(vtd(levels, 46).last(), Iova::new((1 << bits) - 1));
    }
    assert_eq!(Vtd::new(2, 46), Err(FormatError::Levels { levels: 2 }));
    assert_eq!(Vtd::new(6, 46), Err(FormatError::Levels { levels: 6 }));
    assert_eq!(Vtd::new(4, 31), Err(FormatError::PhysBits { bits: 31 }));
    assert_eq!(Vtd::new(4, 53), Err(FormatError::PhysBits { bits: 53 }));
}
