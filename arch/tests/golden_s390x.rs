//! s390x entries worked out by hand.
//!
//! From z/Architecture Principles of Operation (SA22-7832), chapter 3, "Dynamic Address Translation".
//! Each value was put together from the bit positions there, not by `encode`. The manual counts
//! bits from the most significant one: bit 63 is 1, bit 58 is 0x20, bit 54 is 0x200.

use pinfold_arch::format::s390x::Facilities;
use pinfold_arch::{
    AddrRange, EncodeError, Entry, FormatError, Geometry, Leaf, LeafFlags, PageCount, PageFormat,
    PageShift, PhysAddr, Rights, S390x, Table, VirtAddr,
};

const FIRST: u8 = 53;
const SECOND: u8 = 42;
const THIRD: u8 = 31;
const SEGMENT: u8 = 20;
const PAGE: u8 = 12;

const RX: Rights = Rights::READ.union(Rights::EXECUTE).union(Rights::USER);
const RWX: Rights = RX.union(Rights::WRITE);
const R: Rights = RX.difference(Rights::EXECUTE);
const RW: Rights = R.union(Rights::WRITE);

const ALL: Facilities = Facilities::all();
const NONE: Facilities = Facilities::empty();

fn s390x(facilities: Facilities) -> S390x {
    S390x::new(5, facilities).unwrap()
}

fn part(base: u64, level: u8, first: u16, last: u16) -> Table {
    let shift = PageShift::new(level).unwrap();
    let bits = if level == PAGE { 8 } else { 11 };
    Table { base: PhysAddr::new(base), shift, bits, first, last }
}

fn whole(base: u64, level: u8) -> Table {
    part(base, level, 0, if level == PAGE { 255 } else { 2047 })
}

fn leaf(addr: u64, level: u8, rights: Rights) -> Entry {
    let (addr, shift) = (PhysAddr::new(addr), PageShift::new(level).unwrap());
    Entry::Leaf(Leaf {
        addr,
        shift,
        rights,
        flags: LeafFlags::empty(),
        memory: 0,
        key: 0,
        encryption: 0,
    })
}

#[track_caller]
fn decodes(format: S390x, level: u8, raw: u64, want: Entry) {
    let entry = format.decode(&whole(0x4000, level), raw);
    assert_eq!(entry, want, "{raw:#x} at {level} in {format:?}");
}

/// The same both ways: for values without a bit that is ignored.
#[track_caller]
fn both(format: S390x, level: u8, raw: u64, want: Entry) {
    decodes(format, level, raw, want);
    let encoded = format.encode(&whole(0x4000, level), want);
    assert_eq!(encoded, Ok(raw), "{want:?} at {level} in {format:?}");
}

#[test]
fn page_entries() {
    for facilities in [NONE, ALL] {
        let f = s390x(facilities);
        // Page-Table Entries: frame in bits 0-51, I is bit 53, P bit 54. All zeroes is frame 0.
        both(f, PAGE, 0x0000_0000_0000_0000, leaf(0, PAGE, RWX));
        both(f, PAGE, 0x0000_0000_1234_5000, leaf(0x1234_5000, PAGE, RWX));
        both(f, PAGE, 0x0000_0000_1234_5200, leaf(0x1234_5000, PAGE, RX));
        both(f, PAGE, 0xffff_ffff_ffff_f200, leaf(0xffff_ffff_ffff_f000, PAGE, RX));
        both(f, PAGE, 0x0000_0000_0000_0400, Entry::Absent);
        // What Linux leaves of a page without access, and of one that is swapped out.
        decodes(f, PAGE, 0x0000_0000_1234_560f, Entry::Absent);
        decodes(f, PAGE, 0x0000_0000_0003_1404, Entry::Absent);
        // Bits 56-63 are the program's.
        decodes(f, PAGE, 0x0000_0000_1234_50ff, leaf(0x1234_5000, PAGE, RWX));
        // Bit 52 must be zero where I is.
        decodes(f, PAGE, 0x0000_0000_1234_5800, Entry::Malformed);
        decodes(f, PAGE, 0x0000_0000_1234_5c00, Entry::Absent);
    }
    // Bit 55 is the instruction-execution-protection control, and must be zero without it.
    both(s390x(ALL), PAGE, 0x0000_0000_1234_5100, leaf(0x1234_5000, PAGE, RW));
    both(s390x(ALL), PAGE, 0x0000_0000_1234_5300, leaf(0x1234_5000, PAGE, R));
    decodes(s390x(Facilities::EDAT2), PAGE, 0x0000_0000_1234_5100, Entry::Malformed);
    decodes(s390x(NONE), PAGE, 0x0000_0000_1234_5500, Entry::Absent);
}

#[test]
fn tables_at_every_level() {
    let f = s390x(ALL);
    // Region-Table Entries: origin in bits 0-51, P bit 54, TF bits 56-57, I bit 58, TT bits 60-61
    // (3 first, 2 second, 1 third), TL bits 62-63.
    both(f, FIRST, 0x0000_0001_2345_400f, Entry::Table(whole(0x1_2345_4000, SECOND), RWX));
    both(f, SECOND, 0x0000_0000_1234_400b, Entry::Table(whole(0x1234_4000, THIRD), RWX));
    both(f, THIRD, 0x0000_0000_1234_4007, Entry::Table(whole(0x1234_4000, SEGMENT), RWX));
    both(f, FIRST, 0xffff_ffff_ffff_f20f, Entry::Table(whole(!0xfff, SECOND), RX));
    both(f, SECOND, 0x0000_0000_1234_420b, Entry::Table(whole(0x1234_4000, THIRD), RX));
    both(f, THIRD, 0x0000_0000_1234_4207, Entry::Table(whole(0x1234_4000, SEGMENT), RX));
    // Segment-Table Entries, FC zero: origin in bits 0-52, two page tables to 4 KiB; TT is 0.
    both(f, SEGMENT, 0x0000_0000_1234_4000, Entry::Table(whole(0x1234_4000, PAGE), RWX));
    both(f, SEGMENT, 0x0000_0000_1234_4800, Entry::Table(whole(0x1234_4800, PAGE), RWX));
    both(f, SEGMENT, 0xffff_ffff_ffff_fa00, Entry::Table(whole(!0x7ff, PAGE), RX));
    // Protection in segment entries is older than the facilities; in region entries it is not.
    both(s390x(NONE), SEGMENT, 0x1234_4a00, Entry::Table(whole(0x1234_4800, PAGE), RX));
    for (level, raw) in [(FIRST, 0x420f), (SECOND, 0x420b), (THIRD, 0x4207)] {
        decodes(s390x(NONE), level, raw, Entry::Malformed);
        decodes(s390x(Facilities::NO_EXECUTE), level, raw, Entry::Malformed);
        decodes(s390x(Facilities::EDAT1), level, raw, f.decode(&whole(0, level), raw));
    }
}

#[test]
fn offset_and_length_are_in_quarters() {
    let f = s390x(ALL);
    // A quarter is 512 entries of 8 bytes: TL 0 is entries 0 to 511, and TF 1 begins at 512.
    for (low, first, last) in [
        (0x00, 0, 511),
        (0x01, 0, 1023),
        (0x02, 0, 1535),
        (0x03, 0, 2047),
        (0x41, 512, 1023),
        (0x83, 1024, 2047),
        (0xc3, 1536, 2047),
        // Nothing is left of this one.
        (0xc0, 1536, 511),
    ] {
        for (level, kind) in [(FIRST, 0xc), (SECOND, 0x8), (THIRD, 0x4)] {
            let next = part(0x1234_4000, level - 11, first, last);
            both(f, level, 0x1234_4000 | kind | low, Entry::Table(next, RWX));
            assert_eq!((next.has(first), next.has(last)), (first <= last, first <= last));
        }
    }
    // Segment entries have no such fields: their bits there are ignored.
    decodes(f, SEGMENT, 0x0000_0000_1234_48c3, Entry::Table(whole(0x1234_4800, PAGE), RWX));
    // What falls between the quarters, or is more than a table can be.
    for (first, last) in [(1, 2047), (0, 2046), (0, 510), (511, 1023), (2048, 2047), (0, 2559)] {
        let next = part(0x4000, SEGMENT, first, last);
        let size = Err(EncodeError::Size { shift: next.shift });
        assert_eq!(f.encode(&whole(0, THIRD), Entry::Table(next, RWX)), size, "{first}..={last}");
    }
}

#[test]
fn large_frames() {
    let f = s390x(ALL);
    // Segment entry, FC (bit 53) one: frame in bits 0-43, P bit 54, IEP bit 55.
    both(f, SEGMENT, 0x0000_0000_1230_0400, leaf(0x1230_0000, SEGMENT, RWX));
    both(f, SEGMENT, 0x0000_0000_1230_0500, leaf(0x1230_0000, SEGMENT, RW));
    both(f, SEGMENT, 0x0000_0000_1230_0600, leaf(0x1230_0000, SEGMENT, RX));
    both(f, SEGMENT, 0xffff_ffff_fff0_0700, leaf(!0xf_ffff, SEGMENT, R));
    // Region-third entry, FC one: frame in bits 0-32, TT still 1.
    both(f, THIRD, 0x0000_0012_0000_0404, leaf(0x12_0000_0000, THIRD, RWX));
    both(f, THIRD, 0x0000_0012_8000_0504, leaf(0x12_8000_0000, THIRD, RW));
    both(f, THIRD, 0xffff_ffff_8000_0704, leaf(!0x7fff_ffff, THIRD, R));
    // Bit 47 makes ACC (48-51) and F (52) the storage key; without it they are the program's.
    decodes(f, SEGMENT, 0x0000_0000_1231_fc00, leaf(0x1230_0000, SEGMENT, RWX));
    decodes(f, SEGMENT, 0x0000_0000_1230_7c03, leaf(0x1230_0000, SEGMENT, RWX));
    decodes(f, THIRD, 0x0000_0012_0001_fc04, leaf(0x12_0000_0000, THIRD, RWX));
    // Bit 59: the segment or region is common. Bits 44-46 and 33-46 are unassigned.
    decodes(f, SEGMENT, 0x0000_0000_123e_0410, leaf(0x1230_0000, SEGMENT, RWX));
    decodes(f, THIRD, 0x0000_0012_7ffe_0414, leaf(0x12_0000_0000, THIRD, RWX));
    // Each needs its facility, and 2 GiB frames have the other one with them.
    for (facilities, segment, third) in
        [(NONE, false, false), (Facilities::EDAT1, true, false), (Facilities::EDAT2, true, true)]
    {
        let f = s390x(facilities);
        for (level, kind, works) in [(SEGMENT, 0, segment), (THIRD, 4, third)] {
            let want = if works { leaf(0, level, RWX) } else { Entry::Malformed };
            decodes(f, level, 0x400 | kind, want);
            decodes(f, level, 0x500 | kind, Entry::Malformed);
            assert_eq!(f.leaf_at(&whole(0, level)), works);
            assert_eq!(f.encode(&whole(0, level), leaf(0, level, RWX)).is_ok(), works);
        }
    }
    // Nothing larger.
    for raw in [0x40b, 0x8000_0000_0000_040b] {
        decodes(f, SECOND, raw, Entry::Malformed);
        decodes(f, FIRST, raw | 0xc, Entry::Malformed);
    }
}

#[test]
fn a_valid_entry_has_the_type_of_its_table() {
    let f = s390x(ALL);
    for (level, kind) in [(FIRST, 3), (SECOND, 2), (THIRD, 1), (SEGMENT, 0)] {
        for other in 0..4 {
            let valid = f.decode(&whole(0, level), 0x1234_4003 | other << 2);
            assert_eq!(valid == Entry::Malformed, other != kind, "{other} at {level}");
            // With I one nothing else counts.
            decodes(f, level, 0x1234_4023 | other << 2, Entry::Absent);
            decodes(f, level, 0xffff_ffff_ffff_fff3 | other << 2, Entry::Absent);
        }
        both(f, level, 0x20 | kind << 2, Entry::Absent);
    }
    // A zero, which is frame 0 in a page table, is a page table at 0 here, or wrong.
    decodes(f, SEGMENT, 0, Entry::Table(whole(0, PAGE), RWX));
    decodes(f, THIRD, 0, Entry::Malformed);
}

#[test]
fn a_private_space_has_nothing_common() {
    let shared = s390x(ALL);
    // ASCE bit 55 is the private-space control; DT 3, TL 3.
    let (private, _) = S390x::from_asce(0x0000_0000_0010_010f, ALL).unwrap();
    for (level, raw) in [(SEGMENT, 0x1234_4010), (SEGMENT, 0x1230_0410), (THIRD, 0x414)] {
        assert_ne!(shared.decode(&whole(0, level), raw), Entry::Malformed);
        decodes(private, level, raw, Entry::Malformed);
        decodes(private, level, raw & !0x10, shared.decode(&whole(0, level), raw));
    }
    // In an entry that points to a region or segment table the bit means nothing.
    for (level, raw) in [(FIRST, 0x401f), (SECOND, 0x401b), (THIRD, 0x4017)] {
        decodes(private, level, raw, Entry::Table(whole(0x4000, level - 11), RWX));
    }
}

#[test]
fn the_root_comes_from_the_asce() {
    let from = |asce| S390x::from_asce(asce, ALL);
    // Origin in bits 0-51, DT in bits 60-61, TL in bits 62-63.
    for (asce, levels, root) in [
        (0x0000_0000_1234_400f, 5, whole(0x1234_4000, FIRST)),
        (0x0000_0000_1234_400b, 4, whole(0x1234_4000, SECOND)),
        (0x0000_0000_1234_4007, 3, whole(0x1234_4000, THIRD)),
        (0x0000_0000_1234_4003, 2, whole(0x1234_4000, SEGMENT)),
        (0xffff_ffff_ffff_f004, 3, part(!0xfff, THIRD, 0, 511)),
        (0x0000_0000_1234_4001, 2, part(0x1234_4000, SEGMENT, 0, 1023)),
        (0x0000_0000_1234_400a, 4, part(0x1234_4000, SECOND, 0, 1535)),
        // G, S and X, and bits 52, 53 and 59, which are unassigned.
        (0x0000_0000_1234_4edf, 5, whole(0x1234_4000, FIRST)),
    ] {
        assert_eq!(from(asce), Ok((S390x::new(levels, ALL).unwrap(), root)), "{asce:#x}");
    }
    // R, bit 58: a real space has no tables, whatever else the element says.
    for asce in [0x0000_0000_0000_0020, 0x0000_0000_1234_4fff] {
        assert_eq!(from(asce), Err(FormatError::RealSpace { asce }));
    }
    for levels in [0, 1, 6, 255] {
        assert_eq!(S390x::new(levels, ALL), Err(FormatError::Levels { levels }));
    }
}

#[test]
fn an_address_beyond_the_top_table_is_not_translated() {
    for (levels, bits) in [(2, 31), (3, 42), (4, 53)] {
        let f = S390x::new(levels, ALL).unwrap();
        let valid = |start: u64, pages| {
            let range = AddrRange::new(VirtAddr::new(start), PageCount::new(pages), f.base());
            f.valid(&range.unwrap())
        };
        let end = 1_u64 << bits;
        assert!(valid(0, end >> 12) && valid(end - 0x1000, 1));
        assert!(!valid(0, (end >> 12) + 1) && !valid(end - 0x1000, 2));
        assert!(!valid(end, 1) && !valid(0xffff_ffff_ffff_f000, 1) && !valid(1 << 63, 1));
    }
    let all = AddrRange::new(VirtAddr::new(0), PageCount::new(1 << 52), PageShift::SIZE_4K);
    assert!(s390x(NONE).valid(&all.unwrap()));
}

#[test]
fn an_address_is_cut_into_indices() {
    // RFX 0-10, RSX 11-21, RTX 22-32, SX 33-43, PX 44-51: 1, 2, 3, 4, 5, and the last of each.
    let tables = [FIRST, SECOND, THIRD, SEGMENT, PAGE].map(|level| whole(0, level));
    for (va, want) in [
        (0x0020_0801_8040_5fff, [1, 2, 3, 4, 5]),
        (0xffff_ffff_ffff_ffff, [2047, 2047, 2047, 2047, 255]),
    ] {
        assert_eq!(tables.map(|table| table.index(VirtAddr::new(va))), want, "{va:#x}");
    }
    let mut at = s390x(ALL).top(PhysAddr::new(0));
    for table in tables {
        assert_eq!(at, table);
        at = s390x(ALL).below(&at, PhysAddr::new(0)).unwrap_or(at);
    }
    assert_eq!(s390x(ALL).below(&tables[4], PhysAddr::new(0)), None);
}

#[test]
fn what_no_entry_can_say() {
    let f = s390x(ALL);
    let refused = |level, entry| f.encode(&whole(0, level), entry).unwrap_err();
    // Everything valid can be read by everybody, and a table says nothing about execution.
    for rights in [RWX.difference(Rights::READ), RWX.difference(Rights::USER), Rights::empty()] {
        assert_eq!(refused(PAGE, leaf(0, PAGE, rights)), EncodeError::Rights { rights });
        let next = Entry::Table(whole(0, PAGE), rights);
        assert_eq!(refused(SEGMENT, next), EncodeError::Rights { rights });
    }
    let next = Entry::Table(whole(0, PAGE), RW);
    assert_eq!(refused(SEGMENT, next), EncodeError::Rights { rights: RW });
    // Frames and tables at their own alignment.
    for (level, addr) in [(PAGE, 0x800), (SEGMENT, 0x8_0000), (THIRD, 0x4000_0000)] {
        let addr = PhysAddr::new(addr);
        assert_eq!(refused(level, leaf(addr.raw(), level, RWX)), EncodeError::Address { addr });
    }
    for (level, base, next) in [(THIRD, 0x800, SEGMENT), (SEGMENT, 0x400, PAGE)] {
        let addr = PhysAddr::new(base);
        let entry = Entry::Table(whole(base, next), RWX);
        assert_eq!(refused(level, entry), EncodeError::Address { addr });
    }
    // No marks, memory types or keys.
    let Entry::Leaf(plain) = leaf(0, PAGE, RWX) else { unreachable!() };
    for leaf in [
        Leaf { flags: LeafFlags::ACCESSED, ..plain },
        Leaf { flags: LeafFlags::GLOBAL, ..plain },
        Leaf { memory: 1, ..plain },
        Leaf { key: 1, ..plain },
        Leaf { encryption: 1, ..plain },
    ] {
        assert_eq!(refused(PAGE, Entry::Leaf(leaf)), EncodeError::Attributes);
    }
    assert_eq!((f.flags(), f.volatile_bits()), (LeafFlags::empty(), 0));
    // Without the facilities, what they are for.
    let old = s390x(NONE);
    let read_only = Entry::Table(whole(0, SEGMENT), RX);
    let no_execute = leaf(0, PAGE, RW);
    let rights = EncodeError::Rights { rights: RX };
    assert_eq!(old.encode(&whole(0, THIRD), read_only), Err(rights));
    let rights = EncodeError::Rights { rights: RW };
    assert_eq!(old.encode(&whole(0, PAGE), no_execute), Err(rights));
}

#[test]
fn facilities_are_installed_and_enabled() {
    // Facility bits 8 (enhanced DAT 1), 78 (2) and 130; control register 0 bits 40 and 43.
    let (edat1, edat2, iep) = (1 << 55, 1 << 49, 1 << 61);
    let (edat_on, iep_on) = (0x0000_0000_0080_0000, 0x0000_0000_0010_0000);
    let in_use = Facilities::in_use;
    assert_eq!(in_use(&[edat1, edat2, iep], edat_on | iep_on), ALL);
    assert_eq!(in_use(&[edat1, edat2, iep], edat_on), Facilities::EDAT2);
    assert_eq!(
        in_use(&[edat1, 0, iep], edat_on | iep_on),
        Facilities::EDAT1 | Facilities::NO_EXECUTE
    );
    assert_eq!(in_use(&[edat1], edat_on | iep_on), Facilities::EDAT1);
    assert_eq!(in_use(&[!0; 3], !(edat_on | iep_on)), NONE);
    assert_eq!(in_use(&[!edat1, !edat2, !iep], !0), NONE);
    assert_eq!(in_use(&[], !0), NONE);
    assert!(Facilities::EDAT2.contains(Facilities::EDAT1));
}
