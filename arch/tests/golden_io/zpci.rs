//! zPCI entries worked out by hand: the same places as in a CPU's tables.

use pinfold_arch::{EncodeError, FormatError, IoEntry, IoFlags, IoFormat, Iova, PhysAddr, Zpci};

use super::{NONE, R, RW, W, at, both, leaf, table};

const PAGE: u8 = 12;
const SEGMENT: u8 = 20;

fn zpci(levels: u8) -> Zpci {
    Zpci::new(levels).unwrap()
}

#[test]
fn pages() {
    let (f, at) = (zpci(3), at(PAGE, 8));
    both(f, &at, 0x0000_0001_2345_6000, leaf(0x1_2345_6000, PAGE, RW, NONE));
    // Protected: the device may not write.
    both(f, &at, 0x0000_0001_2345_6200, leaf(0x1_2345_6000, PAGE, R, NONE));
    // Zeroes are the first frame, and what is empty has a bit for it.
    both(f, &at, 0, leaf(0, PAGE, RW, NONE));
    both(f, &at, 0x400, IoEntry::Absent);
    assert_eq!(f.decode(&at, 0xffff_ffff_ffff_ffff), IoEntry::Absent);
    assert_eq!(f.decode(&at, 0x1800), IoEntry::Malformed);
    assert_eq!(f.decode(&at, 0x11ff), leaf(0x1000, PAGE, RW, NONE));
    let said = f.encode(&at, 0, leaf(0x1000, PAGE, W, NONE));
    assert_eq!(said, Err(EncodeError::Access { access: W }));
    let said = f.encode(&at, 0, leaf(0x1000, PAGE, R, IoFlags::DIRTY));
    assert_eq!(said, Err(EncodeError::Attributes));
}

#[test]
fn tables() {
    let f = zpci(5);
    // Type 3:2 of the table that the entry stands in; a full length behind region entries.
    both(f, &at(SEGMENT, 11), 0x0000_0001_2345_6800, table(0x1_2345_6800, PAGE, 8, RW));
    both(f, &at(SEGMENT, 11), 0x0000_0001_2345_6a00, table(0x1_2345_6800, PAGE, 8, R));
    both(f, &at(31, 11), 0x0000_0001_2345_4007, table(0x1_2345_4000, SEGMENT, 11, RW));
    both(f, &at(42, 11), 0x0000_0001_2345_400b, table(0x1_2345_4000, 31, 11, RW));
    both(f, &at(53, 11), 0x0000_0001_2345_420f, table(0x1_2345_4000, 42, 11, R));
    for (shift, empty) in [(SEGMENT, 0x20), (31, 0x24), (42, 0x28), (53, 0x2c)] {
        both(f, &at(shift, 11), empty, IoEntry::Absent);
        // Linux writes no type there.
        assert_eq!(f.decode(&at(shift, 11), 0x20), IoEntry::Absent);
    }
    for (shift, raw) in [
        // Of another level; with an offset; shortened; a frame for a segment.
        (31, 0x1_2345_4003),
        (31, 0x1_2345_4047),
        (31, 0x1_2345_4005),
        (SEGMENT, 0x1_2345_6c00),
        (SEGMENT, 0x1_2345_6804),
        (21, 0x1_2345_4007),
    ] {
        assert_eq!(f.decode(&at(shift, 11), raw), IoEntry::Malformed, "{raw:#x}");
    }
    let misaligned = f.encode(&at(31, 11), 0, table(0x1_2345_6000, SEGMENT, 11, RW));
    assert_eq!(misaligned, Err(EncodeError::Address { addr: PhysAddr::new(0x1_2345_6000) }));
}

#[test]
fn anchors_and_widths() {
    let top = PhysAddr::new(0x1234_4000);
    for (levels, anchor, last) in [
        (2, 0x1234_4800, 0x7fff_ffff),
        (3, 0x1234_4804, 0x3ff_ffff_ffff),
        (4, 0x1234_4808, 0x1f_ffff_ffff_ffff),
        (5, 0x1234_480c, u64::MAX),
    ] {
        assert_eq!(zpci(levels).anchor(top), Ok(anchor));
        assert_eq!(zpci(levels).last(), Iova::new(last));
    }
    let addr = PhysAddr::new(0x1234_5000);
    assert_eq!(zpci(3).anchor(addr), Err(EncodeError::Address { addr }));
    assert_eq!(Zpci::new(1), Err(FormatError::Levels { levels: 1 }));
    assert_eq!(Zpci::new(6), Err(FormatError::Levels { levels: 6 }));
}
