//! From a snapshot to the bytes of its file. `FORMAT.md` has the layout; [`super::read`] is the
//! other direction.

use super::bytes::{crc32, put_count, put_difference, put_number, put_text};
use super::{
    FrameRange, FrameRun, MAGIC, Mapping, PAGEMAP_FRAME, PageRun, Region, Snapshot, TablePage,
    VERSION, Verdict, Zone, mmu,
};

pub(super) fn snapshot(from: &Snapshot) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&from.mmu.arch().id().to_le_bytes());
    section(&mut out, *b"KERN", |out| {
        put_text(out, &from.kernel);
        put_text(out, &from.command_line);
    });
    section(&mut out, *b"MMU ", |out| mmu::write(out, &from.mmu, from.base_shift));
    let sizes = from.mmu.arch().table_entries().is_none();
    section(&mut out, *b"TABL", |out| tables(out, &from.tables, sizes));
    section(&mut out, *b"MAPS", |out| mappings(out, &from.mappings));
    section(&mut out, *b"REGN", |out| regions(out, &from.regions));
    section(&mut out, *b"PAGE", |out| pages(out, &from.pages, from.base_shift));
    section(&mut out, *b"ZONE", |out| zones(out, &from.zones));
    section(&mut out, *b"CMA ", |out| ranges(out, &from.cma));
    section(&mut out, *b"RAM ", |out| ranges(out, &from.ram));
    section(&mut out, *b"FRAM", |out| memory(out, &from.memory));
    if !from.verdicts.is_empty() {
        section(&mut out, *b"VERD", |out| verdicts(out, &from.verdicts, from.base_shift));
    }
    let checksum = crc32(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

fn section(out: &mut Vec<u8>, tag: [u8; 4], fill: impl FnOnce(&mut Vec<u8>)) {
    let mut payload = Vec::new();
    fill(&mut payload);
    // A section of 4 GiB would be far above every limit of the format.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&tag);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&payload);
}

/// Tables, with their sizes where these differ.
fn tables(out: &mut Vec<u8>, tables: &[TablePage], sizes: bool) {
    put_count(out, tables.len());
    let mut behind = 0u64;
    for table in tables {
        put_number(out, table.addr.wrapping_sub(behind));
        behind = table.addr.wrapping_add(1);
        if sizes {
            put_count(out, table.entries.len());
        }
        entries(out, &table.entries);
    }
}

/// Entries that are not zero, as runs of equal steps. The first value of a run is written as its
/// difference to where the run before it would have gone on.
fn entries(out: &mut Vec<u8>, entries: &[u64]) {
    let mut body = Vec::new();
    let (mut runs, mut index, mut behind) = (0usize, 0usize, 0usize);
    let (mut expected, mut step) = (0u64, 0u64);
    while let Some(&first) = entries.get(index) {
        if first == 0 {
            index += 1;
            continue;
        }
        let (count, run_step) = run_at(&entries[index..], step);
        put_count(&mut body, index - behind);
        put_count(&mut body, count);
        put_difference(&mut body, first, expected);
        if count > 1 {
            put_difference(&mut body, run_step, step);
            step = run_step;
        }
        expected = first.wrapping_add((count as u64).wrapping_mul(step));
        index += count;
        behind = index;
        runs += 1;
    }
    put_count(out, runs);
    out.extend_from_slice(&body);
}

/// Length and step of the run at the front of `entries`. Two entries with a new step are no run
/// yet: the second one may be the first of a better one.
fn run_at(entries: &[u64], last_step: u64) -> (usize, u64) {
    let [first, second, ..] = *entries else { return (1, last_step) };
    let step = second.wrapping_sub(first);
    let count = 1 + entries
        .windows(2)
        .take_while(|pair| pair[1] != 0 && pair[1].wrapping_sub(pair[0]) == step)
        .count();
    if count >= 3 || (count == 2 && step == last_step) { (count, step) } else { (1, last_step) }
}

fn mappings(out: &mut Vec<u8>, mappings: &[Mapping]) {
    put_count(out, mappings.len());
    let mut behind = 0u64;
    for mapping in mappings {
        put_number(out, mapping.start.wrapping_sub(behind));
        put_number(out, mapping.end.wrapping_sub(mapping.start));
        behind = mapping.end;
        put_text(out, &mapping.name);
        let rights = [mapping.readable, mapping.writable, mapping.executable, mapping.shared];
        out.push(rights.iter().rev().fold(0, |bits, &bit| bits << 1 | u8::from(bit)));
        put_count(out, mapping.flags.len());
        for flag in &mapping.flags {
            put_text(out, flag);
        }
        put_number(out, mapping.fs_type);
        put_number(out, u64::from(mapping.page_size_kib));
        put_number(out, mapping.offset);
    }
}

fn regions(out: &mut Vec<u8>, regions: &[Region]) {
    put_count(out, regions.len());
    for region in regions {
        put_text(out, &region.name);
        put_number(out, region.start);
        put_number(out, region.pages);
        out.push(u8::from(region.in_guest));
    }
}

/// What runs have in common: the bits of pagemap above the frame number, and the two words.
type Kind = (u64, u64, u64);

fn kind_of(run: &PageRun) -> Kind {
    (run.pagemap >> 55, run.kpageflags, run.kpagecount)
}

/// One record; runs that give equal records are written once, with a repeat count.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Record {
    kind: usize,
    gap: u64,
    count: u64,
    frame: u64,
}

fn pages(out: &mut Vec<u8>, runs: &[PageRun], base_shift: u8) {
    let mut kinds: Vec<Kind> = runs.iter().map(kind_of).collect();
    kinds.sort_unstable();
    kinds.dedup();
    put_count(out, kinds.len());
    for &(high, flags, count) in &kinds {
        put_number(out, high);
        put_number(out, flags);
        put_number(out, count);
    }
    let mut records: Vec<(Record, usize)> = Vec::new();
    let (mut behind, mut expected) = (0u64, 0u64);
    for run in runs {
        let frame = run.pagemap & PAGEMAP_FRAME;
        let record = Record {
            kind: kinds.binary_search(&kind_of(run)).unwrap_or_default(),
            gap: run.va.wrapping_sub(behind),
            count: run.count,
            // A run without frames does not move what the next one expects.
            frame: if run.frame().is_some() { frame.wrapping_sub(expected) } else { frame },
        };
        if run.frame().is_some() {
            expected = frame.wrapping_add(run.count);
        }
        let page = 1u64.wrapping_shl(u32::from(base_shift));
        behind = run.va.wrapping_add(run.count.wrapping_mul(page));
        match records.last_mut() {
            Some((last, repeats)) if *last == record => *repeats += 1,
            _ => records.push((record, 1)),
        }
    }
    put_count(out, runs.len());
    put_count(out, records.len());
    for (record, repeats) in records {
        put_number(out, (record.kind as u64) << 1 | u64::from(repeats > 1));
        if repeats > 1 {
            put_count(out, repeats);
        }
        put_number(out, record.gap);
        put_number(out, record.count);
        put_difference(out, record.frame, 0);
    }
}

fn zones(out: &mut Vec<u8>, zones: &[Zone]) {
    put_count(out, zones.len());
    for zone in zones {
        put_text(out, &zone.name);
        for number in
            [zone.start_pfn, zone.spanned, zone.present, zone.managed, zone.free, zone.free_cma]
        {
            put_number(out, number);
        }
    }
}

fn ranges(out: &mut Vec<u8>, ranges: &[FrameRange]) {
    put_count(out, ranges.len());
    for range in ranges {
        put_text(out, &range.name);
        put_number(out, range.start_pfn);
        put_number(out, range.frames);
    }
}

fn memory(out: &mut Vec<u8>, runs: &[FrameRun]) {
    put_count(out, runs.len());
    let mut behind = 0u64;
    for run in runs {
        put_number(out, run.start_pfn.wrapping_sub(behind) << 3 | run.class.id());
        put_number(out, run.frames);
        behind = run.start_pfn.wrapping_add(run.frames);
    }
}

fn verdicts(out: &mut Vec<u8>, verdicts: &[Verdict], base_shift: u8) {
    put_count(out, verdicts.len());
    let page = 1u64.wrapping_shl(u32::from(base_shift));
    let mut behind = 0u64;
    for verdict in verdicts {
        put_text(out, &verdict.asker);
        out.push(u8::from(verdict.write) | u8::from(verdict.whole) << 1);
        put_difference(out, verdict.start, behind);
        put_number(out, verdict.pages);
        put_number(out, u64::from(verdict.errno));
        behind = verdict.start.wrapping_add(verdict.pages.wrapping_mul(page));
    }
}
