//! TCEs worked out by hand: an address, and a bit each for reading (1) and writing (2).

use pinfold_arch::{
    Access, EncodeError, FormatError, IoEntry, IoFormat, IoTable, Iova, PhysAddr, Tce,
};

use super::{NONE, R, RW, W, both, leaf, shift};

fn tce(page: u8, window: u8, levels: u8) -> Tce {
    Tce::new(shift(page), shift(window), levels).unwrap()
}

#[test]
fn pages_of_every_kind_of_window() {
    let top = |format: &Tce| format.top(PhysAddr::new(0x1_0000));
    let small = tce(12, 31, 1);
    both(small, &top(&small), 0x0000_0001_2345_6003, leaf(0x1_2345_6000, 12, RW, NONE));
    both(small, &top(&small), 0x0000_0001_2345_6001, leaf(0x1_2345_6000, 12, R, NONE));
    both(small, &top(&small), 0x0000_0001_2345_6002, leaf(0x1_2345_6000, 12, W, NONE));
    let large = tce(16, 40, 1);
    both(large, &top(&large), 0x0000_0001_2345_0003, leaf(0x1_2345_0000, 16, RW, NONE));
    // Bits below the page size are not looked at.
    assert_eq!(large.decode(&top(&large), 0x1_2345_fff3), leaf(0x1_2345_0000, 16, RW, NONE));
    let huge = tce(30, 45, 1);
    both(huge, &top(&huge), 0x0000_0040_4000_0003, leaf(0x40_4000_0000, 30, RW, NONE));
}

#[test]
fn without_a_right_it_is_nothing_whatever_else_it_says() {
    let format = tce(12, 31, 1);
    let at = format.top(PhysAddr::new(0));
    for raw in [0, 0xdead_beef_dead_bee0, 0x4, !3] {
        assert_eq!(format.decode(&at, raw), IoEntry::Absent);
    }
    assert_eq!(format.encode(&at, 0, IoEntry::Absent), Ok(0));
    let nothing = format.encode(&at, 0, leaf(0x1000, 12, Access::empty(), NONE));
    assert_eq!(nothing, Err(EncodeError::Access { access: Access::empty() }));
}

/// What hardware cannot say is refused, not widened.
#[test]
fn where_writing_implies_reading_nobody_can_write_only() {
    let format = tce(12, 31, 1).with_write_implies_read(true);
    let at = format.top(PhysAddr::new(0));
    assert_eq!(format.decode(&at, 0x1002), leaf(0x1000, 12, RW, NONE));
    assert_eq!(
        format.encode(&at, 0, leaf(0x1000, 12, W, NONE)),
        Err(EncodeError::Access { access: W })
    );
    both(format, &at, 0x1003, leaf(0x1000, 12, RW, NONE));
    both(format, &at, 0x1001, leaf(0x1000, 12, R, NONE));
}

#[test]
fn levels_share_the_windows_bits() {
    // 2 GiB of 4 KiB pages are 2^19 entries: one table of 4 MiB, or two levels of 2^10.
    let flat = tce(12, 31, 1);
    let top = flat.top(PhysAddr::new(0x40_0000));
    assert_eq!((top.shift.raw(), top.bits, top.bytes()), (12, 19, 4 << 20));
    assert_eq!(flat.below(&top, PhysAddr::new(0)), None);
    assert_eq!(top.index(Iova::new(0x7fff_f123)), 0x7_ffff);

    let two = tce(12, 31, 2);
    let top = two.top(PhysAddr::new(0x40_0000));
    assert_eq!((top.shift.raw(), top.bits, top.bytes()), (22, 10, 8 << 10));
    let below = IoTable { base: PhysAddr::new(0x12_3000), shift: shift(12), bits: 10 };
    // The next table's address, with both rights.
    both(two, &top, 0x0000_0000_0012_3003, IoEntry::Table(below, RW));
    assert_eq!(two.decode(&top, 0x12_3001), IoEntry::Malformed);
    assert_eq!(two.decode(&top, 0x12_3002), IoEntry::Malformed);
    assert_eq!(two.decode(&top, 0x12_3000), IoEntry::Absent);
    both(two, &below, 0x0000_0001_2345_6003, leaf(0x1_2345_6000, 12, RW, NONE));
    assert_eq!(two.last(), Iova::new(0x7fff_ffff));

    // The smallest table has 4 KiB, however small the window is.
    assert_eq!(tce(16, 17, 1).top(PhysAddr::new(0)).bits, 9);
    // 2^48 bytes of 64 KiB pages in four levels: 32 bits, eight each, but nine at least.
    let four = tce(16, 48, 4);
    assert_eq!((four.top(PhysAddr::new(0)).shift.raw(), four.levels()), (16 + 3 * 9, 4));
}

#[test]
fn windows_that_do_not_exist() {
    let new = |page, window, levels| Tce::new(shift(page), shift(window), levels).err();
    assert_eq!(new(11, 31, 1), Some(FormatError::BasePage { shift: shift(11) }));
    assert_eq!(new(35, 40, 1), Some(FormatError::BasePage { shift: shift(35) }));
    assert_eq!(new(12, 31, 0), Some(FormatError::Levels { levels: 0 }));
    assert_eq!(new(12, 31, 6), Some(FormatError::Levels { levels: 6 }));
    for (page, window, levels, bits) in
        [(16, 16, 1, 9), (16, 12, 1, 9), (12, 42, 1, 30), (12, 60, 5, 10)]
    {
        let error = FormatError::RootSize { bits, space: window };
        assert_eq!(new(page, window, levels), Some(error), "{page} {window} {levels}");
    }
    // As large as hardware can index: 12 + 5 * 8 would be 52, but a level has nine bits at least.
    assert!(Tce::new(shift(12), shift(48), 4).is_ok());
    assert!(Tce::new(shift(12), shift(41), 1).is_ok());
}

#[test]
fn the_window_entry_of_a_host_bridge() {
    // IBM's bits: address >> 12 in 0:47, levels - 1 in 48:50, log2(table) - 11 in 51:55, log2(page) - 11
    // in 59:63.
    let entry = |format: Tce, table| format.window_entry(PhysAddr::new(table));
    assert_eq!(entry(tce(12, 31, 1), 0x4000_0000), Ok(0x0000_0004_0000_0b01));
    assert_eq!(entry(tce(16, 31, 1), 0x4000_0000), Ok(0x0000_0004_0000_0705));
    assert_eq!(entry(tce(21, 40, 2), 0x1_2345_6000), Ok(0x0000_0012_3456_220a));
    assert_eq!(entry(tce(30, 47, 2), 0x1000), Ok(0x0000_0000_0001_2113));
    let other = entry(tce(24, 40, 1), 0x1000);
    assert_eq!(other, Err(EncodeError::Size { shift: shift(24) }));
    for table in [0x800, 1 << 60] {
        let addr = PhysAddr::new(table);
        assert_eq!(entry(tce(12, 31, 1), table), Err(EncodeError::Address { addr }));
    }
}
