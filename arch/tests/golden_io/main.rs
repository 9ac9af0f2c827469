//! Entries of IOMMU tables, and of what points devices at them, worked out by hand: each value was put
//! together from the places that the manual or the device's code gives, not by `encode`.

use pinfold_arch::{Access, IoEntry, IoFlags, IoFormat, IoLeaf, IoTable, PageShift, PhysAddr};

mod amdvi;
mod smmu;
mod tce;
mod vtd;
mod zpci;

const R: Access = Access::READ;
const W: Access = Access::WRITE;
const RW: Access = Access::all();
const NONE: IoFlags = IoFlags::empty();

fn shift(raw: u8) -> PageShift {
    PageShift::new(raw).unwrap()
}

/// A table whose entries map so much, with so many index bits.
fn at(entry: u8, bits: u8) -> IoTable {
    IoTable { base: PhysAddr::new(0x1000), shift: shift(entry), bits }
}

fn table(base: u64, entry: u8, bits: u8, access: Access) -> IoEntry {
    IoEntry::Table(IoTable { base: PhysAddr::new(base), ..at(entry, bits) }, access)
}

fn leaf(addr: u64, size: u8, access: Access, flags: IoFlags) -> IoEntry {
    let leaf = IoLeaf::new(PhysAddr::new(addr), shift(size), access);
    IoEntry::Leaf(IoLeaf { flags, ..leaf })
}

/// The same both ways: for values without a bit that is ignored.
#[track_caller]
fn both(format: impl IoFormat, at: &IoTable, raw: u64, want: IoEntry) {
    assert_eq!(format.decode(at, raw), want, "{raw:#x}");
    assert_eq!(format.encode(at, 0, want), Ok(raw), "{want:?}");
}

/// A leaf that was written, as it is once that has been noted: it still may be.
#[track_caller]
fn cleaned(format: impl IoFormat, at: &IoTable, dirty: u64, clean: u64) {
    let IoEntry::Leaf(leaf) = format.decode(at, dirty) else { panic!("{dirty:#x}") };
    assert!(leaf.flags.contains(IoFlags::DIRTY) && leaf.access.contains(W), "{leaf:?}");
    let leaf = IoLeaf { flags: leaf.flags.difference(IoFlags::DIRTY), ..leaf };
    both(format, at, clean, IoEntry::Leaf(leaf));
}
