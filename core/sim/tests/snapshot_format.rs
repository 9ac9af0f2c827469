//! The snapshot's file: what is written reads back, what is damaged is refused, and the committed
//! capture agrees with itself.

use pinfold_sim::snapshot::{
    FrameClass, FrameRange, FrameRun, Mapping, Mmu, PAGEMAP_PRESENT, PageRun, Region, SectionTag,
    Snapshot, SnapshotError, TablePage, Verdict, Zone,
};

const REAL: &[u8] = include_bytes!("../../tests/snapshots/x86_64-6.12.snap");

fn real() -> Snapshot {
    Snapshot::parse(REAL).expect("the committed snapshot is whole")
}

fn verdict(
    asker: &str,
    (write, whole): (bool, bool),
    start: u64,
    pages: u64,
    errno: u16,
) -> Verdict {
    Verdict { asker: asker.into(), write, whole, start, pages, errno }
}

/// Small, with something of everything.
fn small() -> Snapshot {
    let mut entries = vec![0; 512];
    entries[3..9].copy_from_slice(&[0x1067, 0x2067, 0x3067, 0, 0x9067, 0x8067]);
    entries[511] = u64::MAX;
    let run = |va, pagemap, count| PageRun { va, pagemap, kpageflags: 5, kpagecount: 1, count };
    Snapshot {
        kernel: "6.1".into(),
        command_line: "quiet".into(),
        mmu: Mmu::X86_64 { cr3: 0x1000, levels: 4, phys_bits: 40, no_execute: true },
        base_shift: 12,
        tables: vec![
            TablePage { addr: 0x1000, entries },
            TablePage { addr: 0x2000, entries: vec![7; 512] },
        ],
        mappings: vec![Mapping {
            start: 0x40_0000,
            end: 0x40_8000,
            name: "/init".into(),
            readable: true,
            writable: false,
            executable: true,
            shared: false,
            flags: vec!["rd".into(), "ex".into()],
            fs_type: 0x0102_1994,
            page_size_kib: 4,
            offset: 0x3000,
        }],
        regions: vec![Region { name: "text".into(), start: 0x40_0000, pages: 8, in_guest: true }],
        pages: vec![
            run(0x40_0000, PAGEMAP_PRESENT | 9, 1),
            run(0x40_1000, PAGEMAP_PRESENT | 9, 1),
            run(0x40_2000, PAGEMAP_PRESENT | 9, 1),
            run(0x40_3000, 0, 2),
            run(0x40_6000, PAGEMAP_PRESENT | 20, 2),
        ],
        zones: vec![Zone {
            name: "DMA".into(),
            start_pfn: 1,
            spanned: 40,
            present: 39,
            managed: 38,
            free: 7,
            free_cma: 2,
        }],
        cma: vec![FrameRange { start_pfn: 8, frames: 4, name: "reserved".into() }],
        ram: Vec::new(),
        memory: vec![
            FrameRun { start_pfn: 1, frames: 8, class: FrameClass::Free },
            FrameRun { start_pfn: 9, frames: 1, class: FrameClass::Process },
            FrameRun { start_pfn: 12, frames: 29, class: FrameClass::Kernel },
        ],
        verdicts: vec![
            verdict("io_uring", (true, true), 0x40_0000, 8, 14),
            verdict("vfio", (false, false), 0x40_0000, 2, 0),
            verdict("vfio", (false, false), 0x40_2000, 6, 4095),
            verdict("vfio", (true, false), u64::MAX - 0x1fff, 1, 95),
        ],
    }
}

/// Puts the right checksum at the end, worked out bit by bit and apart from the reader's own.
fn sign(bytes: &mut [u8]) {
    let (body, end) = bytes.split_at_mut(bytes.len() - 4);
    let mut crc = !0u32;
    for bit in body.iter().flat_map(|byte| (0..8).map(move |bit| u32::from(byte >> bit) & 1)) {
        let carry = (crc ^ bit) & 1;
        crc >>= 1;
        if carry == 1 {
            crc ^= 0xedb8_8320;
        }
    }
    end.copy_from_slice(&(!crc).to_le_bytes());
}

/// The small snapshot with one section's payload replaced.
fn with_section(tag: &[u8; 4], payload: &[u8]) -> Vec<u8> {
    let whole = small().to_bytes();
    let mut out = whole[..16].to_vec();
    let mut at = 16;
    while at < whole.len() - 4 {
        let length = u32::from_le_bytes(whole[at + 4..at + 8].try_into().expect("four bytes"));
        let end = at + 8 + usize::try_from(length).expect("small");
        if &whole[at..at + 4] == tag {
            out.extend_from_slice(&section(tag, payload));
        } else {
            out.extend_from_slice(&whole[at..end]);
        }
        at = end;
    }
    out.extend_from_slice(&[0; 4]);
    sign(&mut out);
    out
}

fn section(tag: &[u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small");
    [tag, &length.to_le_bytes()[..], payload].concat()
}

/// The small snapshot with one more section at its end.
fn with_more(extra: &[u8]) -> Vec<u8> {
    let mut bytes = small().to_bytes();
    bytes.truncate(bytes.len() - 4);
    bytes.extend_from_slice(extra);
    bytes.extend_from_slice(&[0; 4]);
    sign(&mut bytes);
    bytes
}

#[test]
fn what_is_written_reads_back() {
    assert_eq!(Snapshot::parse(&small().to_bytes()), Ok(small()));
    assert_eq!(real().to_bytes(), REAL);
}

#[test]
fn tables_of_any_entries_read_back() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..200 {
        // Few values, so that zeros, repeats and steps all come up.
        let spread = 1 << (next() % 5);
        let entries = (0..512).map(|_| (next() % spread).wrapping_mul(0x8000_0000_0000_1000));
        let entries: Vec<u64> = entries.collect();
        let snapshot = Snapshot { tables: vec![TablePage { addr: 0, entries }], ..small() };
        assert_eq!(Snapshot::parse(&snapshot.to_bytes()), Ok(snapshot));
    }
}

#[test]
fn every_prefix_is_an_error() {
    for length in 0..REAL.len() {
        assert!(Snapshot::parse(&REAL[..length]).is_err(), "the first {length} bytes");
    }
}

#[test]
fn every_flipped_bit_is_an_error() {
    let whole = small().to_bytes();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Snapshot::parse(&bytes).is_err(), "bit {bit}");
    }
    for at in 0..REAL.len() {
        let mut bytes = REAL.to_vec();
        bytes[at] ^= 1 << (at % 8);
        assert!(Snapshot::parse(&bytes).is_err(), "byte {at}");
    }
}

/// Any byte with another value, under a right checksum: an error, or a snapshot that reads back.
#[test]
fn wild_values_are_refused_or_harmless() {
    let whole = small().to_bytes();
    for at in 0..whole.len() - 4 {
        for value in [0, 1, 2, 7, 0x7f, 0x80, 0xff, whole[at] ^ 1, whole[at] ^ 0x80] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            sign(&mut bytes);
            harmless(&bytes);
        }
    }
    for at in (16..REAL.len() - 4).step_by(3) {
        let mut bytes = REAL.to_vec();
        bytes[at] = 0xff;
        sign(&mut bytes);
        harmless(&bytes);
    }
}

fn harmless(bytes: &[u8]) {
    if let Ok(snapshot) = Snapshot::parse(bytes) {
        assert_eq!(Snapshot::parse(&snapshot.to_bytes()), Ok(snapshot));
    }
}

#[test]
fn what_is_no_snapshot_is_told_apart() {
    let mut later = REAL.to_vec();
    later[8] = 2;
    let error = SnapshotError::UnsupportedVersion { found: 2 };
    assert_eq!(Snapshot::parse(&later), Err(error));
    // Before anything that a later version might have changed.
    assert_eq!(Snapshot::parse(&later[..12]), Err(error));

    let mut other = REAL.to_vec();
    other[0] = b'p';
    assert_eq!(Snapshot::parse(&other), Err(SnapshotError::BadMagic));
    let head = SectionTag(*b"HEAD");
    let truncated = Err(SnapshotError::Truncated { section: head, at: 0 });
    assert_eq!(Snapshot::parse(b""), truncated);

    let mut unknown = REAL.to_vec();
    unknown[12] = 0xfe;
    sign(&mut unknown);
    assert_eq!(Snapshot::parse(&unknown), Err(SnapshotError::UnknownArch { found: 0xfe }));

    let mut damaged = REAL.to_vec();
    damaged[30] ^= 1;
    assert!(matches!(Snapshot::parse(&damaged), Err(SnapshotError::BadChecksum { .. })));
}

#[test]
fn sections_are_needed_once_and_others_skipped() {
    assert_eq!(Snapshot::parse(&with_more(&section(b"NEW ", b"anything"))), Ok(small()));

    let again = Snapshot::parse(&with_more(&section(b"CMA ", &[0])));
    let tag = SectionTag(*b"CMA ");
    assert!(
        matches!(again, Err(SnapshotError::DuplicateSection { section, .. }) if section == tag)
    );

    let mut renamed = small().to_bytes();
    let at = renamed.windows(4).position(|bytes| bytes == b"ZONE").expect("written");
    renamed[at..at + 4].copy_from_slice(b"zone");
    sign(&mut renamed);
    let missing = SnapshotError::MissingSection { section: SectionTag(*b"ZONE") };
    assert_eq!(Snapshot::parse(&renamed), Err(missing));

    let longer = Snapshot::parse(&with_section(b"CMA ", &[0, 0]));
    assert!(matches!(longer, Err(SnapshotError::TrailingBytes { section, .. }) if section == tag));
}

#[test]
fn wild_counts_are_refused_before_memory_is_taken() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let all = "KERNTABLMAPSREGNPAGEZONECMA RAM FRAMVERD".as_bytes();
    for tag in all.chunks_exact(4) {
        let tag = tag.try_into().expect("four bytes");
        let error = Snapshot::parse(&with_section(tag, &huge));
        assert!(matches!(error, Err(SnapshotError::BadCount { count: u64::MAX, .. })), "{error:?}");
    }
    // A million runs from one record; then one record that claims to stand for more than all.
    let (kinds, million, few) = ([1, 0, 0, 0], [0xc0, 0x84, 0x3d], [4]);
    for total in [&million[..], &few] {
        let pages = [&kinds[..], total, &[1, 1], &million, &[0, 1, 0]].concat();
        let error = Snapshot::parse(&with_section(b"PAGE", &pages));
        let refused = matches!(error, Err(SnapshotError::BadCount { count: 1_000_000, .. }));
        assert!(refused, "{error:?}");
    }
    // A run that leaves its table.
    let table = [1, 0, 1, 0, 0x81, 0x04, 2, 2];
    let error = Snapshot::parse(&with_section(b"TABL", &table));
    assert!(matches!(error, Err(SnapshotError::BadCount { count: 513, limit: 512, .. })));
}

#[test]
fn offsets_that_leave_the_address_space_are_refused() {
    let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let table = [&[1][..], &max, &[0]].concat();
    let wrapped = Snapshot::parse(&with_section(b"TABL", &table));
    assert!(matches!(wrapped, Err(SnapshotError::BadValue { what: "table address", .. })));
    let pages = [&[1, 0, 0, 0, 1, 1, 0][..], &max, &[1, 0]].concat();
    let wrapped = Snapshot::parse(&with_section(b"PAGE", &pages));
    assert!(matches!(wrapped, Err(SnapshotError::BadValue { what: "range of pages", .. })));
    let memory = [&[1, 8][..], &max].concat();
    let wrapped = Snapshot::parse(&with_section(b"FRAM", &memory));
    assert!(matches!(wrapped, Err(SnapshotError::BadValue { what: "number of frames", .. })));
}

/// Files of before there were verdicts have none, and stay as they are.
#[test]
fn verdicts_may_be_missing() {
    let none = Snapshot { verdicts: Vec::new(), ..small() };
    let bytes = none.to_bytes();
    assert_eq!(bytes.windows(4).position(|tag| tag == b"VERD"), None);
    assert_eq!(Snapshot::parse(&bytes), Ok(none));
    let twice = Snapshot::parse(&with_more(&section(b"VERD", &[0])));
    let tag = SectionTag(*b"VERD");
    assert!(
        matches!(twice, Err(SnapshotError::DuplicateSection { section, .. }) if section == tag)
    );
}

#[test]
fn verdicts_that_mean_nothing_are_refused() {
    // Asker, how, start, pages, error number.
    let [x, how, start, pages] = [b'x', 3, 2, 1];
    let read = |verdict: &[u8]| {
        let list = [&[1, 1], verdict].concat();
        Snapshot::parse(&with_section(b"VERD", &list)).map(|snapshot| snapshot.verdicts)
    };
    assert_eq!(read(&[x, how, start, pages, 0]), Ok(vec![verdict("x", (true, true), 1, 1, 0)]));
    let bad = |verdict: &[u8], name| match read(verdict) {
        Err(SnapshotError::BadValue { what, .. }) => assert_eq!(what, name),
        other => panic!("{other:?}"),
    };
    bad(&[x, 4, start, pages, 0], "way of asking");
    bad(&[x, how, start, 0, 0], "range of pages");
    // Its end lies behind the last address.
    bad(&[x, how, 1, pages, 0], "range of pages");
    bad(&[x, how, start, pages, 0x80, 0x20], "error number");
    bad(&[x, how, start, pages, 0x80, 0x80, 0x04], "error number");
    bad(&[0xff, how, start, pages, 0], "text");
    // More of them than the format allows, with bytes enough for all.
    let many = [&[0x81, 0x80, 0x04][..], &[0; 5 << 17]].concat();
    let error = Snapshot::parse(&with_section(b"VERD", &many));
    assert!(matches!(error, Err(SnapshotError::BadCount { count: 65_537, limit: 65_536, .. })));
}

#[test]
fn guest_memory_is_one_range() {
    let part = |start, pages, in_guest| Region { name: "part".into(), start, pages, in_guest };
    let guest = |regions| Snapshot { regions, ..small() }.guest();
    assert_eq!(guest(vec![]), None);
    assert_eq!(guest(vec![part(0x1000, 1, false)]), None);
    assert_eq!(guest(vec![part(0x3000, 4, true), part(0x1000, 2, true)]), Some((0x1000, 6)));
    assert_eq!(guest(vec![part(0x1000, 2, true), part(0x4000, 4, true)]), None);
    assert_eq!(guest(vec![part(0x1000, u64::MAX, true), part(0x4000, 4, true)]), None);
}

/// What a walk of the raw tables ends at.
#[derive(Debug, PartialEq)]
enum End {
    Nothing,
    NotPresent(u64),
    Frame(u64),
}

fn walk(snapshot: &Snapshot, va: u64) -> End {
    let address = |entry: u64| entry & 0x000f_ffff_ffff_f000;
    let Mmu::X86_64 { cr3, levels, .. } = snapshot.mmu else { panic!("an x86_64 snapshot") };
    let mut at = address(cr3);
    let mut shift = 12 + 9 * (u32::from(levels) - 1);
    loop {
        let table = snapshot.tables.binary_search_by_key(&at, |table| table.addr);
        let table = &snapshot.tables[table.unwrap_or_else(|_| panic!("no table at {at:#x}"))];
        let entry = table.entries[usize::try_from(va >> shift & 511).expect("nine bits")];
        let inside = va >> 12 & ((1 << (shift - 12)) - 1);
        let frame = |entry| (address(entry) >> shift << (shift - 12)) + inside;
        match (entry, entry & 1, shift == 12 || (shift <= 30 && entry & 0x80 != 0)) {
            (0, ..) => return End::Nothing,
            (_, 0, _) => return End::NotPresent(frame(!entry)),
            (_, _, true) => return End::Frame(frame(entry)),
            _ => (at, shift) = (address(entry), shift - 9),
        }
    }
}

#[test]
fn the_committed_tables_agree_with_pagemap() {
    /// Bit of a pagemap word.
    const SWAPPED: u64 = 1 << 62;
    let snapshot = real();
    let (mut compared, mut swapped) = (0, 0);
    for run in &snapshot.pages {
        let mapping = snapshot.mappings.iter().find(|m| m.start <= run.va && run.va < m.end);
        let mapping = mapping.expect("every page is in a mapping");
        for page in 0..run.count {
            let va = run.va + page * 4096;
            let expected = match run.frame() {
                Some(frame) if mapping.readable => End::Frame(frame + page),
                // Linux inverts the address bits of pages without access.
                Some(frame) => End::NotPresent(frame + page),
                None if mapping.flags.iter().any(|flag| flag == "pf") => continue,
                None if run.pagemap & SWAPPED != 0 => {
                    assert!(matches!(walk(&snapshot, va), End::NotPresent(_)), "{va:#x} swapped");
                    swapped += 1;
                    continue;
                }
                None => End::Nothing,
            };
            assert_eq!(walk(&snapshot, va), expected, "{va:#x} in {}", mapping.name);
            compared += 1;
        }
    }
    assert!(compared > 24_000, "{compared} pages");
    assert!(swapped > 0, "no page is swapped out");
}

#[test]
fn the_committed_snapshot_shows_what_it_is_for() {
    let snapshot = real();
    assert!(snapshot.kernel.starts_with("6.12."));
    assert!(matches!(snapshot.mmu, Mmu::X86_64 { levels: 5, .. }));
    let (start, pages) = snapshot.guest().expect("the guest is one range");
    assert_eq!(pages, 24_576);
    assert!(start >> 39 != (start + pages * 4096 - 1) >> 39, "two entries of the root");
    let movable = snapshot.zones.iter().find(|zone| zone.name == "Movable").expect("booted so");
    let compound_head = 1 << 15;
    let heads = |in_movable: bool| {
        let runs = snapshot.pages.iter().filter(|run| run.kpageflags & compound_head != 0);
        let guest = runs.filter(|run| run.va >= start);
        guest.filter_map(PageRun::frame).filter(|&f| (f >= movable.start_pfn) == in_movable).count()
    };
    assert!(heads(true) >= 8 && heads(false) >= 8, "large pages in both kinds of zones");
    assert!(REAL.len() <= 16 << 10);
}
