//! AMD-Vi entries worked out by hand, by the bits of the specification's section 2.2.3.

use pinfold_arch::{AmdVi, EncodeError, FormatError, IoEntry, IoFlags, IoFormat, Iova, PhysAddr};

use super::{NONE, R, RW, W, at, both, cleaned, leaf, table};

fn amd(levels: u8) -> AmdVi {
    AmdVi::new(levels).unwrap()
}

#[test]
fn pages_of_the_level_and_tables() {
    let f = amd(6);
    // PR, IR, IW.
    both(f, &at(12, 9), 0x6000_0001_2345_6001, leaf(0x1_2345_6000, 12, RW, NONE));
    both(f, &at(12, 9), 0x2000_0001_2345_6001, leaf(0x1_2345_6000, 12, R, NONE));
    both(f, &at(12, 9), 0x4000_0001_2345_6001, leaf(0x1_2345_6000, 12, W, NONE));
    // With FC (bit 60), as Linux writes them: read-only 4 KiB, and 2 MiB.
    both(f, &at(12, 9), 0x3000_0000_0123_4001, leaf(0x123_4000, 12, R, IoFlags::SNOOP));
    both(f, &at(21, 9), 0x7000_0000_0140_0001, leaf(0x140_0000, 21, RW, IoFlags::SNOOP));
    both(f, &at(30, 9), 0x6000_0012_4000_0001, leaf(0x12_4000_0000, 30, RW, NONE));
    both(f, &at(39, 9), 0x6000_8000_0000_0001, leaf(0x8000_0000_0000, 39, RW, NONE));
    // The level of the next table in 11:9.
    for (shift, next) in [(21, 1_u64), (30, 2), (39, 3), (48, 4), (57, 5)] {
        let raw = 0x6000_0000_0020_3001 | next << 9;
        both(f, &at(shift, 9), raw, table(0x20_3000, shift - 9, 9, RW));
        // Bits that are not looked at: 4:1, 8:5, 60:52, 63.
        let ignored = 0x9ff0_0000_0000_01fe;
        assert_eq!(f.decode(&at(shift, 9), raw | ignored), table(0x20_3000, shift - 9, 9, RW));
    }
    both(f, &at(21, 9), 0x2000_0000_0020_3201, table(0x20_3000, 12, 9, R));
}

#[test]
fn pages_that_say_their_size() {
    let f = amd(3);
    // 16 KiB: bit 12 set, 13 clear; 32 KiB: 13:12 set, 14 clear. 8 KiB: 12 clear.
    both(f, &at(12, 9), 0x6000_0000_1234_1e01, leaf(0x1234_0000, 14, RW, NONE));
    both(f, &at(12, 9), 0x6000_0000_1234_3e01, leaf(0x1234_0000, 15, RW, NONE));
    both(f, &at(12, 9), 0x6000_0000_1234_2e01, leaf(0x1234_2000, 13, RW, NONE));
    // 1 MiB, the largest of the last level: 18:12 set.
    both(f, &at(12, 9), 0x6000_0000_1237_fe01, leaf(0x1230_0000, 20, RW, NONE));
    // 4 MiB on the second level, with FC: 20:12 set, 21 clear.
    both(f, &at(21, 9), 0x7000_0000_12df_fe01, leaf(0x12c0_0000, 22, RW, IoFlags::SNOOP));
    // A size that is the level's own can be said both ways.
    assert_eq!(f.decode(&at(21, 9), 0x6000_0000_12ef_fe01), leaf(0x12e0_0000, 21, RW, NONE));
    // As large as the table, and smaller than its entries.
    assert_eq!(
        f.decode(&at(12, 9), 0x6000_0000_122f_fe01 & !0x10_0000 | 0xf_f000),
        IoEntry::Malformed
    );
    assert_eq!(f.decode(&at(21, 9), 0x6000_0000_1234_1e01), IoEntry::Malformed);
    assert_eq!(f.decode(&at(12, 9), 0x600f_ffff_ffff_fe01), IoEntry::Malformed);
    // 2 PiB is the largest.
    both(f, &at(48, 9), 0x600b_ffff_ffff_fe01, leaf(1 << 51, 51, RW, NONE));
    assert_eq!(f.decode(&at(48, 9), 0x6007_ffff_ffff_fe01), IoEntry::Malformed);
    // A page of 16 KiB takes four entries, all alike.
    let IoEntry::Leaf(page) = leaf(0x1234_0000, 14, RW, NONE) else { unreachable!() };
    assert_eq!(page.entries(&at(12, 9)), 4);
    let each = (0..4).map(|index| f.encode(&at(12, 9), index, IoEntry::Leaf(page)));
    assert!(each.eq([Ok(0x6000_0000_1234_1e01); 4]));
}

#[test]
fn what_is_nothing_and_what_is_wrong() {
    let f = amd(4);
    for shift in [12, 21, 30, 39] {
        assert_eq!(f.decode(&at(shift, 9), 0), IoEntry::Absent);
        assert_eq!(f.decode(&at(shift, 9), !1), IoEntry::Absent);
        assert_eq!(f.encode(&at(shift, 9), 0, IoEntry::Absent), Ok(0));
        // Present and without rights: nothing comes through.
        assert_eq!(f.decode(&at(shift, 9), 0x0000_0000_4000_0001), IoEntry::Absent);
    }
    // A table of the wrong level: one's own, a higher one, one that skips.
    for next in [2_u64, 3, 6] {
        let raw = 0x6000_0000_0020_3001 | next << 9;
        assert_eq!(f.decode(&at(21, 9), raw), IoEntry::Malformed, "{next}");
    }
    assert_eq!(f.decode(&at(30, 9), 0x6000_0000_0020_3201), IoEntry::Malformed);
    // Address bits inside a page.
    assert_eq!(f.decode(&at(21, 9), 0x6000_0000_0020_3001), IoEntry::Malformed);
    // A table that no level has.
    assert_eq!(f.decode(&at(13, 9), 0x6000_0000_0020_3001), IoEntry::Malformed);
}

#[test]
fn marks_where_the_unit_has_them() {
    let f = amd(3).with_marks(true);
    let marks = IoFlags::ACCESSED | IoFlags::DIRTY;
    both(f, &at(12, 9), 0x6000_0000_0000_1061, leaf(0x1000, 12, RW, marks));
    both(f, &at(12, 9), 0x6000_0000_0000_1041, leaf(0x1000, 12, RW, IoFlags::DIRTY));
    cleaned(f, &at(12, 9), 0x6000_0000_0000_1061, 0x6000_0000_0000_1021);
    cleaned(f, &at(12, 9), 0x7000_0000_1234_1e41, 0x7000_0000_1234_1e01);
    assert_eq!(amd(3).decode(&at(12, 9), 0x6000_0000_0000_1061), leaf(0x1000, 12, RW, NONE));
    let said = amd(3).encode(&at(12, 9), 0, leaf(0x1000, 12, RW, IoFlags::DIRTY));
    assert_eq!(said, Err(EncodeError::Attributes));
}

#[test]
fn device_table_entries() {
    let addr = PhysAddr::new(0x12_3000);
    // V, TV, mode 11:9, IR, IW; the domain and, in bit 32, ATS.
    let plain = amd(3).device_table_entry(addr, 7, false);
    assert_eq!(plain, Ok([0x6000_0000_0012_3603, 7, 0, 0]));
    let all = amd(6).with_marks(true).device_table_entry(addr, 0xffff, true);
    assert_eq!(all, Ok([0x6000_0000_0012_3d83, 0x1_0000_ffff, 0, 0]));
    // Valid, and nothing to translate with; interrupts are looked at (IV) and ended (IntCtl 0).
    assert_eq!(AmdVi::BLOCKED, [1, 0, 1, 0]);
    let addr = PhysAddr::new(0x12_3800);
    assert_eq!(amd(3).device_table_entry(addr, 7, false), Err(EncodeError::Address { addr }));
}

#[test]
fn widths() {
    for (levels, last) in [(1, 0x1f_ffff), (3, 0x7f_ffff_ffff), (6, u64::MAX)] {
        assert_eq!(amd(levels).last(), Iova::new(last));
    }
    assert_eq!(AmdVi::new(0), Err(FormatError::Levels { levels: 0 }));
    assert_eq!(AmdVi::new(7), Err(FormatError::Levels { levels: 7 }));
}
