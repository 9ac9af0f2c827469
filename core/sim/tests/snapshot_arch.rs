//! Snapshots of every architecture: their registers and tables of any size are written and read
//! back, byte for byte as `FORMAT.md` says.

use pinfold_arch::format::FormatError;
use pinfold_arch::format::s390x::Facilities;
use pinfold_arch::{PageFormat, PageShift};
use pinfold_sim::snapshot::{Mmu, MmuError, Snapshot, SnapshotError, TablePage};

const X86_64: &[u8] = include_bytes!("plain.snap");

/// Registers as numbers that take two bytes each in the file, so that every field shows.
const MMUS: [(u32, Mmu, &[u8]); 4] = [
    (
        1,
        Mmu::X86_64 { cr3: 0x1000, levels: 4, phys_bits: 40, no_execute: true },
        &[0x80, 0x20, 4, 40, 1, 12],
    ),
    (2, Mmu::Aarch64 { ttbr0: 0x1001, tcr: 0x519, pa_bits: 48 }, &[0x81, 0x20, 0x99, 0x0a, 48, 12]),
    (3, Mmu::S390x { asce: 0x1007, facilities: Facilities::all() }, &[0x87, 0x20, 7, 12]),
    (4, Mmu::PowerRadix { process: 0x10ad }, &[0xad, 0x21, 12]),
];

/// A real snapshot with other registers and these tables.
fn with(mmu: Mmu, tables: Vec<TablePage>) -> Snapshot {
    Snapshot { mmu, tables, ..Snapshot::parse(X86_64).unwrap() }
}

fn section<'a>(bytes: &'a [u8], tag: &[u8; 4]) -> &'a [u8] {
    let at = bytes.windows(4).position(|window| window == tag).unwrap() + 4;
    let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    &bytes[at + 4..][..usize::try_from(length).unwrap()]
}

#[test]
fn registers_are_written_as_described_and_read_back() {
    for (id, mmu, payload) in MMUS {
        let snapshot = with(mmu, Vec::new());
        let bytes = snapshot.to_bytes();
        assert_eq!(mmu.arch().id(), id);
        assert_eq!(bytes[12..16], id.to_le_bytes());
        assert_eq!(section(&bytes, b"MMU "), payload, "{mmu:?}");
        assert_eq!(Snapshot::parse(&bytes), Ok(snapshot));
    }
}

#[test]
fn tables_of_every_size_read_back() {
    for (_, mmu, _) in &MMUS[1..] {
        let of = |entries: usize| (0..entries as u64).map(|i| i % 5 * 0x1000).collect();
        let tables = [(0x1000, 512), (0x2800, 256), (0x3c00, 32), (0x10000, 8192), (0x20000, 1)];
        let tables = tables.map(|(addr, size)| TablePage { addr, entries: of(size) });
        let snapshot = with(*mmu, tables.into());
        assert_eq!(Snapshot::parse(&snapshot.to_bytes()), Ok(snapshot));
    }
    // One entry, 7: the address, the size, one run of one entry after none.
    let one = with(MMUS[3].1, vec![TablePage { addr: 0x40, entries: vec![7] }]);
    assert_eq!(section(&one.to_bytes(), b"TABL"), [1, 0x40, 1, 1, 0, 1, 14]);
}

#[test]
fn sizes_beyond_the_limits_are_refused() {
    let read = |sizes: &[usize]| {
        let table = |(addr, size): (u64, &usize)| TablePage { addr, entries: vec![0; *size] };
        let tables = (0..).map(|i| i * 0x10000).zip(sizes).map(table).collect();
        Snapshot::parse(&with(MMUS[1].1, tables).to_bytes())
    };
    let zero = read(&[0]);
    assert!(matches!(zero, Err(SnapshotError::BadValue { what: "size of a table", .. })));
    let large = read(&[8193]);
    assert!(matches!(large, Err(SnapshotError::BadCount { count: 8193, limit: 8192, .. })));
    // All of them together: 4 Mi entries, and not one more.
    assert!(read(&[8192; 512]).is_ok());
    let many = read(&[&[8192; 512][..], &[1]].concat());
    assert!(matches!(many, Err(SnapshotError::BadCount { count: 1, limit: 0, .. })));
}

#[test]
fn the_page_size_must_be_the_tables() {
    let mut snapshot = Snapshot::parse(X86_64).unwrap();
    assert!(snapshot.format().is_ok());
    snapshot.base_shift = 16;
    let error = MmuError::BasePages { said: 65536, tables: 4096 };
    assert_eq!(snapshot.format(), Err(error));
}

/// No register of POWER says what the base pages are: the kernel does.
#[test]
fn on_power_the_page_size_is_what_was_said() {
    let format = |base_shift, process| {
        let mmu = Mmu::PowerRadix { process };
        Snapshot { base_shift, ..with(mmu, Vec::new()) }.format()
    };
    for base_shift in [12, 16] {
        let (format, root) = format(base_shift, 0x4000_0000_0123_00ad).unwrap();
        assert_eq!(format.base().raw(), base_shift);
        assert_eq!((root.base.raw(), root.shift.raw(), root.bits), (0x123_0000, 39, 13));
    }
    let shift = PageShift::new(14).unwrap();
    let refused = FormatError::BasePage { shift };
    assert_eq!(format(14, 0x4000_0000_0123_00ad), Err(MmuError::Format(refused)));
    let refused = FormatError::RootSize { bits: 0, space: 31 };
    assert_eq!(format(16, 0), Err(MmuError::Format(refused)));
    let error = MmuError::BasePages { said: 0, tables: 4096 };
    assert_eq!(format(64, 0x4000_0000_0123_00ad), Err(error));
}
