//! POWER radix entries worked out by hand from the manual.
//!
//! Power ISA 3.0B, Book III, section 5.7.10 for entries and 5.7.6 for roots. Each value was put
//! together from the bit positions given there, not by `encode`. The manual's bit n is 63 - n here.

use pinfold_arch::format::power_radix::{RootTable, Scope};
use pinfold_arch::{
    AddrRange, EncodeError, Entry, FormatError, Geometry, Leaf, LeafFlags, PageCount, PageFormat,
    PageShift, PhysAddr, PowerRadix, Rights, Table, VirtAddr,
};

const R: Rights = Rights::READ;
const RW: Rights = R.union(Rights::WRITE);
const RX: Rights = R.union(Rights::EXECUTE);
const USER: Rights = Rights::USER;

const NONE: LeafFlags = LeafFlags::empty();
const A: LeafFlags = LeafFlags::ACCESSED;
const AD: LeafFlags = A.union(LeafFlags::DIRTY);

fn shift(raw: u8) -> PageShift {
    PageShift::new(raw).unwrap()
}

fn pages_of(raw: u8) -> PowerRadix {
    PowerRadix::new(shift(raw)).unwrap()
}

/// The table of `bits` bits whose entries map `1 << level` bytes.
fn table(base: u64, level: u8, bits: u8) -> Table {
    let last = u16::try_from((1_u32 << bits) - 1).unwrap();
    Table { base: PhysAddr::new(base), shift: shift(level), bits, first: 0, last }
}

fn next(base: u64, level: u8, bits: u8) -> Entry {
    Entry::Table(table(base, level, bits), Rights::all())
}

fn leaf(addr: u64, level: u8, rights: Rights, flags: LeafFlags, memory: u8) -> Entry {
    Entry::Leaf(Leaf { flags, memory, ..Leaf::new(PhysAddr::new(addr), shift(level), rights) })
}

/// In a table of 9 bits: what an entry says does not depend on the width of its own table.
#[track_caller]
fn decodes(format: PowerRadix, level: u8, raw: u64, want: Entry) {
    assert_eq!(format.decode(&table(0, level, 9), raw), want, "{raw:#x} at {level} in {format:?}");
}

/// The same both ways: for values without a bit that is ignored.
#[track_caller]
fn both(format: PowerRadix, level: u8, raw: u64, want: Entry) {
    decodes(format, level, raw, want);
    let encoded = format.encode(&table(0, level, 9), want);
    assert_eq!(encoded, Ok(raw), "{want:?} at {level} in {format:?}");
}

#[test]
fn leaves_of_every_size() {
    let (small, large) = (pages_of(12), pages_of(16));
    // Bits 0 and 1: valid, leaf. 55 and 56: reference, change. 61 and 62: read, read/write.
    both(small, 12, 0xc000_0000_1234_5186, leaf(0x1234_5000, 12, RW | USER, AD, 0));
    // Bits 61 and 63: read, execute.
    both(small, 12, 0xc000_0000_1234_5105, leaf(0x1234_5000, 12, RX | USER, A, 0));
    // Bits 7 to 51 are the page number: the last page.
    both(small, 12, 0xc1ff_ffff_ffff_f004, leaf(0x1ff_ffff_ffff_f000, 12, R | USER, NONE, 0));
    both(large, 16, 0xc000_0000_1235_0186, leaf(0x1235_0000, 16, RW | USER, AD, 0));
    // 64 KiB pages in a tree of 4 KiB ones: a last table of 5 bits says so.
    both(small, 16, 0xc000_0000_1235_0186, leaf(0x1235_0000, 16, RW | USER, AD, 0));
    for format in [small, large] {
        both(format, 21, 0xc000_0001_2340_0104, leaf(0x1_2340_0000, 21, R | USER, A, 0));
        both(format, 30, 0xc000_0012_4000_0186, leaf(0x12_4000_0000, 30, RW | USER, AD, 0));
    }
    // Change without reference, and execution without reading.
    both(small, 12, 0xc000_0000_0000_1084, leaf(0x1000, 12, R | USER, LeafFlags::DIRTY, 0));
    both(small, 12, 0xc000_0000_0000_1001, leaf(0x1000, 12, Rights::EXECUTE | USER, NONE, 0));
}

#[test]
fn directory_entries_say_how_large_the_next_table_is() {
    // Bit 0: valid. 4 to 55: address of the next table. 59 to 63: its size.
    let f = pages_of(12);
    both(f, 39, 0x8000_0000_0fee_1009, next(0xfee_1000, 30, 9));
    both(f, 30, 0x8000_0000_0fee_2009, next(0xfee_2000, 21, 9));
    both(f, 21, 0x8000_0000_0fee_3009, next(0xfee_3000, 12, 9));
    // The last table of a tree of 64 KiB pages has 32 entries, 256 bytes; one fits a 4 KiB page 16
    // times.
    both(f, 21, 0x8000_0000_0fee_3105, next(0xfee_3100, 16, 5));
    both(pages_of(16), 21, 0x8000_0000_0fee_3f05, next(0xfee_3f00, 16, 5));
    // The largest table, the last address, and widths that no Linux uses.
    both(f, 28, 0x8000_0000_0008_0010, next(0x8_0000, 12, 16));
    both(f, 21, 0x8fff_ffff_ffff_ff05, next(0xfff_ffff_ffff_ff00, 16, 5));
    both(f, 57, 0x8000_0000_0000_2407, next(0x2400, 50, 7));
}

#[test]
fn next_tables_that_do_not_fit_are_malformed() {
    let f = pages_of(12);
    for size in (0..5).chain(17..32) {
        decodes(f, 45, 0x8000_0000_0010_0000 | size, Entry::Malformed);
    }
    for size in 5..=16_u8 {
        let raw = 0x8000_0000_0010_0000 | u64::from(size);
        decodes(f, 45, raw, next(0x10_0000, 45 - size, size));
        // The smallest page is 4 KiB, or what the kernel counts in.
        decodes(f, 12 + size, raw, next(0x10_0000, 12, size));
        decodes(f, 11 + size, raw, Entry::Malformed);
        decodes(pages_of(16), 16 + size, raw, next(0x10_0000, 16, size));
        decodes(pages_of(16), 15 + size, raw, Entry::Malformed);
        // A table is aligned to its size, 8 bytes an entry.
        decodes(f, 45, raw | 8 << size, next(0x10_0000 | 8 << size, 45 - size, size));
        decodes(f, 45, raw | 4 << size, Entry::Malformed);
    }
    // Where a last table is, an entry that leads on leads nowhere.
    for level in [0, 12, 16] {
        decodes(f, level, 0x8000_0000_0010_0005, Entry::Malformed);
    }
}

#[test]
fn reserved_bits_are_malformed() {
    let f = pages_of(12);
    // Directory entry: bits 2, 3 and 56 to 58.
    for bit in [61, 60, 7, 6, 5] {
        decodes(f, 30, 0x8000_0000_0fee_2009 | 1 << bit, Entry::Malformed);
    }
    // Leaf: bits 3 to 6 and 57.
    for bit in [60, 59, 58, 57, 6] {
        decodes(f, 12, 0xc000_0000_1234_5186 | 1 << bit, Entry::Malformed);
    }
    // The page number of a large page is one of its first 4 KiB.
    for (level, raw) in
        [(16, 0xc000_0000_1235_0004_u64), (21, 0xc000_0001_2340_0004), (30, 0xc000_0012_4000_0004)]
    {
        for bit in 12..level {
            decodes(f, level, raw | 1 << bit, Entry::Malformed);
        }
        let moved = leaf((raw & 0xff_ffff_f000) | 1 << level, level, R | USER, NONE, 0);
        // The bit above is one of the address. It is clear in two of the three.
        decodes(f, level, raw | 1 << level, moved);
    }
}

#[test]
fn software_bits_of_a_leaf_are_ignored() {
    // Bits 2 and 52 to 54. Linux marks its zero page with bit 53.
    let f = pages_of(12);
    decodes(f, 12, 0xe000_0000_1234_5f86, leaf(0x1234_5000, 12, RW | USER, AD, 0));
    decodes(f, 12, 0xc000_0000_0200_0504, leaf(0x200_0000, 12, R | USER, A, 0));
    decodes(f, 21, 0xe000_0000_1220_0e86, leaf(0x1220_0000, 21, RW | USER, LeafFlags::DIRTY, 0));
}

#[test]
fn the_memory_type_is_the_attribute_field() {
    // Bits 58 and 59: ordinary, strong access order, non-idempotent and tolerant I/O. Linux 6.1 maps
    // a device's registers with 0x526.
    let f = pages_of(16);
    both(f, 16, 0xc000_0000_0001_0004, leaf(0x1_0000, 16, R | USER, NONE, 0));
    both(f, 16, 0xc000_0000_0001_0014, leaf(0x1_0000, 16, R | USER, NONE, 1));
    both(f, 16, 0xc000_0000_0001_0024, leaf(0x1_0000, 16, R | USER, NONE, 2));
    both(f, 16, 0xc000_0000_0001_0034, leaf(0x1_0000, 16, R | USER, NONE, 3));
    decodes(f, 16, 0xc000_2000_8000_0526, leaf(0x2000_8000_0000, 16, RW | USER, A, 2));
}

#[test]
fn access_authority() {
    let f = pages_of(12);
    let leaf_of = |rights| leaf(0x1000, 12, rights, NONE, 0);
    // Bit 60: privileged. Linux maps itself so.
    both(f, 12, 0xc000_0000_0000_100e, leaf_of(RW));
    both(f, 12, 0xc000_0000_0000_100d, leaf_of(RX));
    // Bit 62 is for loads and stores, whatever bit 61 says.
    decodes(f, 12, 0xc000_0000_0000_1002, leaf_of(RW | USER));
    // A mapping without any rights keeps its frame: privileged in Linux 6.1, not in 6.12.
    both(f, 12, 0xc000_0000_0000_1008, leaf_of(Rights::empty()));
    both(f, 12, 0xc000_0000_0000_1000, leaf_of(USER));
    for access in 1..=3 {
        let access = pinfold_arch::Access::from_bits_retain(access);
        assert!(!Rights::empty().allow(access));
        assert!(!USER.allow(access));
    }
    // For a guest's real memory there is no privilege.
    let guest = f.with_scope(Scope::Partition);
    decodes(guest, 12, 0xc000_0000_0000_100e, leaf_of(RW | USER));
    both(guest, 12, 0xc000_0000_0000_1006, leaf_of(RW | USER));
    let at = table(0, 12, 9);
    for (format, rights) in [(guest, RW), (f, Rights::WRITE | USER), (f, Rights::WRITE)] {
        let refused = format.encode(&at, leaf_of(rights));
        assert_eq!(refused, Err(EncodeError::Rights { rights }));
    }
}

#[test]
fn no_leaf_where_there_can_be_none() {
    let raw = 0xc000_0000_0000_0186;
    for level in (0..64).filter(|level| ![12, 16, 21, 30].contains(level)) {
        decodes(pages_of(12), level, raw, Entry::Malformed);
        assert!(!pages_of(12).leaf_at(&table(0, level, 9)));
    }
    // A kernel that counts in 64 KiB has no smaller page.
    decodes(pages_of(16), 12, raw, Entry::Malformed);
    assert!(!pages_of(16).leaf_at(&table(0, 12, 9)));
    let small = leaf(0, 12, RW | USER, AD, 0);
    let refused = pages_of(16).encode(&table(0, 12, 9), small);
    assert_eq!(refused, Err(EncodeError::Size { shift: shift(12) }));
}

#[test]
fn whatever_is_not_valid_is_absent() {
    for format in [pages_of(12), pages_of(16), pages_of(12).with_scope(Scope::Partition)] {
        for level in [12, 16, 21, 30, 39, 57] {
            for raw in [0, 0x4000_0000_0000_2000, 0x7fff_ffff_ffff_ffff] {
                decodes(format, level, raw, Entry::Absent);
            }
        }
        assert_eq!(format.encode(&table(0, 12, 9), Entry::Absent), Ok(0));
    }
}

#[test]
fn what_the_format_cannot_say_is_refused() {
    let f = pages_of(12);
    let at = table(0, 21, 9);
    let encode = |entry| f.encode(&at, entry);
    let addr = |raw| Err(EncodeError::Address { addr: PhysAddr::new(raw) });
    // Outside the page number, or not aligned.
    assert_eq!(encode(leaf(1 << 57, 21, R, NONE, 0)), addr(1 << 57));
    assert_eq!(encode(leaf(0x1000, 21, R, NONE, 0)), addr(0x1000));
    assert_eq!(encode(leaf(0, 21, R, NONE, 4)), Err(EncodeError::Attributes));
    assert_eq!(encode(leaf(0, 21, R, LeafFlags::GLOBAL, 0)), Err(EncodeError::Attributes));
    for foreign in [
        Leaf { key: 1, ..Leaf::new(PhysAddr::new(0), shift(21), R) },
        Leaf { encryption: 1, ..Leaf::new(PhysAddr::new(0), shift(21), R) },
    ] {
        assert_eq!(encode(Entry::Leaf(foreign)), Err(EncodeError::Attributes));
    }
    assert_eq!(encode(next(1 << 60, 12, 9)), addr(1 << 60));
    assert_eq!(encode(next(0x800, 12, 9)), addr(0x800));
    // A table that does not map what the entry does; one that is not whole; 37 is 5 in five bits.
    let size = |level| Err(EncodeError::Size { shift: shift(level) });
    assert_eq!(encode(next(0, 12, 8)), size(12));
    assert_eq!(encode(next(0, 16, 4)), size(16));
    let whole = table(0, 16, 5);
    for wrong in [
        Table { bits: 37, ..whole },
        Table { first: 1, ..whole },
        Table { last: 30, ..whole },
        Table { shift: shift(17), ..whole },
    ] {
        let refused = encode(Entry::Table(wrong, Rights::all()));
        assert_eq!(refused, size(wrong.shift.raw()));
    }
    // Directory entries have no rights to take away.
    assert_eq!(
        encode(Entry::Table(whole, RW | USER)),
        Err(EncodeError::Rights { rights: RW | USER })
    );
    assert_eq!(encode(Entry::Malformed), Err(EncodeError::Malformed));
}

#[test]
fn the_root_of_a_process() {
    let root = |base, raw| PowerRadix::from_process_entry(shift(base), raw);
    // Size of the address space, 31 more than the field: bits 1, 2 and 56 to 58; 21 is 10 and 101.
    // Bits 4 to 55: address of the root. 59 to 63: its size.
    for base in [12, 16] {
        assert_eq!(
            root(base, 0x4000_0000_0123_00ad),
            Ok((pages_of(base), table(0x123_0000, 39, 13)))
        );
    }
    // The smallest and the largest address space, with all sizes of a root that fit.
    for (raw, space) in [(0, 31), (0x6000_0000_0000_00e0, 62), (0x2000_0000_0000_0060, 42)] {
        for size in 5..=16_u8 {
            let raw = raw | 0x8_0000 | u64::from(size);
            let (format, table) = root(12, raw).unwrap();
            assert_eq!((table.shift.raw(), table.bits), (space - size, size));
            assert_eq!(table, format.top(table.base));
        }
    }
    // An entry without a process; sizes that do not exist; pages of 64 KiB need 16 bits below.
    let refused = |bits, space| Err(FormatError::RootSize { bits, space });
    assert_eq!(root(12, 0), refused(0, 31));
    assert_eq!(root(12, 0x4000_0000_0123_00a4), refused(4, 52));
    assert_eq!(root(12, 0x4000_0000_0123_00b1), refused(17, 52));
    assert_eq!(root(12, 0x4000_0000_0123_00bf), refused(31, 52));
    assert_eq!(root(16, 0x8_0010), refused(16, 31));
    assert!(root(16, 0x4_000f).is_ok());
    // Bits 0 and 3; a root that is not aligned to its size.
    for raw in [0xc000_0000_0123_00ad, 0x5000_0000_0123_00ad, 0x4000_0000_0123_80ad] {
        assert_eq!(root(16, raw), Err(FormatError::Root { raw }));
    }
    assert_eq!(PowerRadix::new(shift(14)), Err(FormatError::BasePage { shift: shift(14) }));
    assert_eq!(root(21, 0), Err(FormatError::BasePage { shift: shift(21) }));
}

#[test]
fn the_root_of_a_partition() {
    let root = |raw| PowerRadix::from_partition_entry(shift(12), raw);
    // As that of a process, and bit 0 says that it is a tree.
    let guest = pages_of(12).with_scope(Scope::Partition);
    assert_eq!(root(0xc000_0000_0123_00ad), Ok((guest, table(0x123_0000, 39, 13))));
    let raw = 0x4000_0000_0123_00ad;
    assert_eq!(root(raw), Err(FormatError::NotRadix { raw }));
    assert_eq!(root(0), Err(FormatError::NotRadix { raw: 0 }));
    assert_eq!(root(1 << 63), Err(FormatError::RootSize { bits: 0, space: 31 }));
    let raw = 0xd000_0000_0123_00ad;
    assert_eq!(root(raw), Err(FormatError::Root { raw }));
}

#[test]
fn where_roots_stand() {
    let at = |table: RootTable, number| table.entry(number).map(PhysAddr::raw);
    // PTCR: bits 4 to 51 address, 59 to 63 size, 64 KiB here: 4096 entries of 16 bytes.
    let partitions = RootTable::partitions(0x0000_0000_0004_0004).unwrap();
    assert_eq!(at(partitions, 0), Some(0x4_0000));
    assert_eq!(at(partitions, 4095), Some(0x4_fff0));
    assert_eq!(at(partitions, 4096), None);
    // The second doubleword of a partition's entry: the same, and bit 0.
    let processes = RootTable::processes(0x8000_0000_fe00_000c).unwrap();
    assert_eq!(at(processes, 1), Some(0xfe00_0010));
    assert_eq!(at(processes, 0xf_ffff), Some(0xfeff_fff0));
    assert_eq!(at(processes, 0x10_0000), None);
    assert_eq!(at(RootTable::processes(1 << 63 | 24).unwrap(), u32::MAX), Some(0xf_ffff_fff0));
    assert_eq!(RootTable::processes(0xfe00_000c), Err(FormatError::NotRadix { raw: 0xfe00_000c }));
    // Bits 0 to 3 of PTCR, 1 to 3 of the entry, 52 to 58; sizes above 24.
    for raw in [1 << 63, 1 << 60, 0x1_0020, 0x1_0800, 25, 31] {
        assert_eq!(RootTable::partitions(raw), Err(FormatError::Root { raw }));
        let raw = raw | 1 << 63;
        if raw != 1 << 63 {
            assert_eq!(RootTable::processes(raw), Err(FormatError::Root { raw }));
        }
    }
}

#[test]
fn quadrants() {
    let valid = |format: PowerRadix, start, pages| {
        let range = AddrRange::new(VirtAddr::new(start), PageCount::new(pages), format.base());
        format.valid(&range.unwrap())
    };
    for base in [12, 16] {
        let process = pages_of(base);
        let all = 1 << (52 - base);
        let last = (1 << 52) - (1 << base);
        for format in [process, process.with_scope(Scope::Partition)] {
            assert!(valid(format, 0, all));
            assert!(!valid(format, 0, all + 1));
            assert!(valid(format, last, 1));
            assert!(!valid(format, last, 2));
            assert!(!valid(format, 1 << 52, 1));
            // Quadrants 1, 2 and 3.
            for quadrant in 1..4 {
                assert!(!valid(format, quadrant << 62, 1));
            }
        }
        let kernel = process.with_scope(Scope::Kernel);
        assert!(valid(kernel, 0xc000_0000_0000_0000, all));
        assert!(!valid(kernel, 0xc000_0000_0000_0000, all + 1));
        assert!(!valid(kernel, 0xc010_0000_0000_0000, 1));
        for start in [0, 1 << 62, 2 << 62, u64::MAX << base] {
            assert!(!valid(kernel, start, 1));
        }
    }
    // 62 bits fill a quadrant.
    let (whole, _) = PowerRadix::from_process_entry(shift(16), 0x6000_0000_0008_00f0).unwrap();
    assert!(valid(whole, 0, 1 << 46));
    assert!(!valid(whole, 0, (1 << 46) + 1));
    assert!(valid(whole.with_scope(Scope::Kernel), u64::MAX << 16, 1));
    assert!(!valid(whole.with_scope(Scope::Kernel), 0xbfff_ffff_ffff_0000, 1));
}

/// The widths of the tables that a builder makes, from the top down.
fn widths(format: PowerRadix) -> Vec<u8> {
    let top = format.top(PhysAddr::new(0));
    let below = |at: &Table| format.below(at, PhysAddr::new(0));
    std::iter::successors(Some(top), below).map(|table| table.bits).collect()
}

#[test]
fn builders_make_the_tables_of_linux() {
    assert_eq!(widths(pages_of(12)), [13, 9, 9, 9]);
    assert_eq!(widths(pages_of(16)), [13, 9, 9, 5]);
    // Other roots: what is left is cut where large pages begin, if a table can be that wide.
    let from = |raw| PowerRadix::from_process_entry(shift(12), raw).unwrap().0;
    assert_eq!(widths(from(0x4000_0000_0001_00ac)), [12, 10, 9, 9]);
    assert_eq!(widths(from(0x6000_0000_0000_01e5)), [5, 16, 11, 9, 9]);
    assert_eq!(widths(from(0x0000_0000_0008_0010)), [16]);
}

#[test]
fn what_hardware_sets_and_what_is_an_address() {
    // Bits 55 and 56; bits 7 to 51, less those inside a large page.
    assert_eq!(pages_of(12).volatile_bits(), 0x180);
    for (level, bits) in [
        (12, 0x01ff_ffff_ffff_f000),
        (16, 0x01ff_ffff_ffff_0000),
        (21, 0x01ff_ffff_ffe0_0000),
        (30, 0x01ff_ffff_c000_0000),
    ] {
        assert_eq!(pages_of(12).address_bits(&table(0, level, 9)), bits);
    }
}
