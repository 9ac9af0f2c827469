//! From the bytes of a file to a snapshot. Nothing in them is trusted: a count is held against a
//! limit and against the bytes behind it before memory is taken.

use super::bytes::{Reader, crc32};
use super::{
    FrameClass, FrameRange, FrameRun, MAGIC, Mapping, PAGEMAP_FRAME, PAGEMAP_PRESENT, PageRun,
    Region, SectionTag, Snapshot, SnapshotArch, SnapshotError, TablePage, VERSION, Verdict, Zone,
    mmu,
};

/// Most tables, and most entries of all of them: 32 MiB.
const TABLES: u64 = 1 << 13;
const ENTRIES: u64 = 1 << 22;
/// Most entries of one table.
const TABLE_ENTRIES: u64 = 1 << 13;
/// Most runs of pages, repeated ones counted each.
const PAGE_RUNS: u64 = 1 << 18;
/// Most verdicts.
const VERDICTS: u64 = 1 << 16;
/// One above the largest error number of the kernel.
const ERRNO_END: u16 = 4096;

const HEAD: SectionTag = SectionTag(*b"HEAD");
const HEAD_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;

pub(super) fn snapshot(bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
    let mut head = Reader::new(HEAD, bytes, 0);
    let begin = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(begin) {
        return Err(SnapshotError::BadMagic);
    }
    head.take(MAGIC.len())?;
    let version = word(head.take(4)?);
    // Before the checksum: a later version may have another one.
    if version != VERSION {
        return Err(SnapshotError::UnsupportedVersion { found: version });
    }
    let arch = word(head.take(4)?);
    let sections = Sections::split(bytes)?;
    let arch = SnapshotArch::from_id(arch).ok_or(SnapshotError::UnknownArch { found: arch })?;
    let (kernel, command_line) = sections.read(b"KERN", |r| Ok((r.text()?, r.text()?)))?;
    let (mmu, base_shift) = sections.read(b"MMU ", |r| mmu::read(arch, r))?;
    Ok(Snapshot {
        kernel,
        command_line,
        mmu,
        base_shift,
        tables: sections.read(b"TABL", |r| tables(r, arch.table_entries()))?,
        mappings: sections.read(b"MAPS", mappings)?,
        regions: sections.read(b"REGN", |r| list(r, 4, region))?,
        pages: sections.read(b"PAGE", |r| pages(r, base_shift))?,
        zones: sections.read(b"ZONE", |r| list(r, 7, zone))?,
        cma: sections.read(b"CMA ", |r| list(r, 3, range))?,
        ram: sections.read(b"RAM ", |r| list(r, 3, range))?,
        memory: sections.read(b"FRAM", memory)?,
        verdicts: sections.read_if_there(b"VERD", |r| verdicts(r, base_shift))?,
    })
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
}

/// The file's sections, their bounds and the checksum found right.
struct Sections<'a>(Vec<(SectionTag, usize, &'a [u8])>);

impl<'a> Sections<'a> {
    fn split(bytes: &'a [u8]) -> Result<Self, SnapshotError> {
        let end = bytes.len().saturating_sub(CHECKSUM_BYTES);
        let body = bytes
            .get(HEAD_BYTES..end)
            .ok_or(SnapshotError::Truncated { section: HEAD, at: bytes.len() })?;
        let mut found: Vec<(SectionTag, usize, &[u8])> = Vec::new();
        let mut rest = Reader::new(HEAD, body, HEAD_BYTES);
        while rest.end().is_err() {
            let at = rest.at();
            let tag = <[u8; 4]>::try_from(rest.take(4)?).map_err(|_| rest.bad(at, "tag"))?;
            let section = SectionTag(tag);
            let length = word(rest.take(4)?);
            let cut = SnapshotError::Truncated { section, at: rest.at() };
            let length = usize::try_from(length).map_err(|_| cut)?;
            let base = rest.at();
            found.push((section, base, rest.take(length).map_err(|_| cut)?));
        }
        let (stored, computed) = (word(&bytes[end..]), crc32(&bytes[..end]));
        if stored != computed {
            return Err(SnapshotError::BadChecksum { stored, computed });
        }
        Ok(Self(found))
    }

    /// The one section with this tag, read to its end. Sections nobody asks for are skipped.
    fn read<T>(
        &self,
        tag: &[u8; 4],
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        let section = SectionTag(*tag);
        self.find(section, read)?.ok_or(SnapshotError::MissingSection { section })
    }

    /// [`read`](Self::read) for a section that older files do not have.
    fn read_if_there<T: Default>(
        &self,
        tag: &[u8; 4],
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        Ok(self.find(SectionTag(*tag), read)?.unwrap_or_default())
    }

    fn find<T>(
        &self,
        section: SectionTag,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, SnapshotError>,
    ) -> Result<Option<T>, SnapshotError> {
        let mut same = self.0.iter().filter(|(other, ..)| *other == section);
        let Some(&(_, base, bytes)) = same.next() else { return Ok(None) };
        if let Some(&(_, at, _)) = same.next() {
            return Err(SnapshotError::DuplicateSection { section, at });
        }
        let mut reader = Reader::new(section, bytes, base);
        let value = read(&mut reader)?;
        reader.end()?;
        Ok(Some(value))
    }
}

/// A counted list of items that take at least `bytes` bytes each.
fn list<T>(
    reader: &mut Reader<'_>,
    bytes: usize,
    item: impl Fn(&mut Reader<'_>) -> Result<T, SnapshotError>,
) -> Result<Vec<T>, SnapshotError> {
    let count = reader.count(bytes, u64::MAX)?;
    (0..count).map(|_| item(reader)).collect()
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, SnapshotError> {
    let at = reader.at();
    match reader.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.bad(at, "flag")),
    }
}

/// A number that is added to `to` without wrapping round.
fn onward(reader: &mut Reader<'_>, to: u64, what: &'static str) -> Result<u64, SnapshotError> {
    let at = reader.at();
    to.checked_add(reader.number()?).ok_or(reader.bad(at, what))
}

/// Tables of `fixed` entries each, or of as many as each says.
fn tables(reader: &mut Reader<'_>, fixed: Option<usize>) -> Result<Vec<TablePage>, SnapshotError> {
    // A table takes an address and a count of runs.
    let count = reader.count(2, TABLES)?;
    let (mut behind, mut left) = (0u64, ENTRIES);
    let mut tables = Vec::new();
    for _ in 0..count {
        let at = reader.at();
        let addr = onward(reader, behind, "table address")?;
        behind = addr.checked_add(1).ok_or(reader.bad(at, "table address"))?;
        let size = match fixed {
            Some(size) => size,
            None => table_size(reader, left)?,
        };
        left = left.saturating_sub(size as u64);
        tables.push(TablePage { addr, entries: table_entries(reader, size)? });
    }
    Ok(tables)
}

/// How many entries the next table has, of those that all tables may have together.
fn table_size(reader: &mut Reader<'_>, left: u64) -> Result<usize, SnapshotError> {
    let at = reader.at();
    let size = reader.number()?;
    reader.at_most(at, size, TABLE_ENTRIES.min(left))?;
    let whole = usize::try_from(size).ok().filter(|size| *size > 0);
    whole.ok_or(reader.bad(at, "size of a table"))
}

fn table_entries(reader: &mut Reader<'_>, entries: usize) -> Result<Vec<u64>, SnapshotError> {
    let mut values = Vec::with_capacity(entries);
    let (mut expected, mut step) = (0u64, 0u64);
    for _ in 0..reader.count(3, entries as u64)? {
        skip(reader, &mut values, entries)?;
        let at = reader.at();
        let count = reader.number()?;
        reader.at_most(at, count, (entries - values.len()) as u64)?;
        if count == 0 {
            return Err(reader.bad(at, "run length"));
        }
        let mut value = expected.wrapping_add(reader.difference()?);
        if count > 1 {
            step = step.wrapping_add(reader.difference()?);
        }
        for _ in 0..count {
            values.push(value);
            value = value.wrapping_add(step);
        }
        expected = value;
    }
    values.resize(entries, 0);
    Ok(values)
}

/// Entries that are zero in front of a run.
fn skip(r: &mut Reader<'_>, values: &mut Vec<u64>, entries: usize) -> Result<(), SnapshotError> {
    let at = r.at();
    let count = r.number()?;
    r.at_most(at, count, (entries - values.len()) as u64)?;
    (0..count).for_each(|_| values.push(0));
    Ok(())
}

fn mappings(reader: &mut Reader<'_>) -> Result<Vec<Mapping>, SnapshotError> {
    let count = reader.count(8, u64::MAX)?;
    let mut behind = 0u64;
    let mut mappings = Vec::new();
    for _ in 0..count {
        let start = onward(reader, behind, "address")?;
        let end = onward(reader, start, "length")?;
        behind = end;
        let name = reader.text()?;
        let at = reader.at();
        let rights = reader.byte()?;
        if rights > 0xf {
            return Err(reader.bad(at, "rights"));
        }
        mappings.push(Mapping {
            start,
            end,
            name,
            readable: rights & 1 != 0,
            writable: rights & 2 != 0,
            executable: rights & 4 != 0,
            shared: rights & 8 != 0,
            flags: list(reader, 1, |reader| reader.text())?,
            fs_type: reader.number()?,
            page_size_kib: page_size(reader)?,
            offset: reader.number()?,
        });
    }
    Ok(mappings)
}

fn page_size(reader: &mut Reader<'_>) -> Result<u32, SnapshotError> {
    let at = reader.at();
    u32::try_from(reader.number()?).map_err(|_| reader.bad(at, "page size"))
}

fn region(reader: &mut Reader<'_>) -> Result<Region, SnapshotError> {
    Ok(Region {
        name: reader.text()?,
        start: reader.number()?,
        pages: reader.number()?,
        in_guest: flag(reader)?,
    })
}

fn pages(reader: &mut Reader<'_>, base_shift: u8) -> Result<Vec<PageRun>, SnapshotError> {
    let kinds = list(reader, 3, |reader| {
        let at = reader.at();
        let high = reader.number()?;
        if high >> 9 != 0 {
            return Err(reader.bad(at, "pagemap bits"));
        }
        Ok((high << 55, reader.number()?, reader.number()?))
    })?;
    let at = reader.at();
    let total = reader.number()?;
    reader.at_most(at, total, PAGE_RUNS)?;
    let records = reader.count(4, total)?;
    let mut runs: Vec<PageRun> = Vec::new();
    let (mut behind, mut expected) = (0u64, 0u64);
    for _ in 0..records {
        let at = reader.at();
        let head = reader.number()?;
        let kind = usize::try_from(head >> 1).ok().and_then(|kind| kinds.get(kind));
        let &(high, kpageflags, kpagecount) = kind.ok_or(reader.bad(at, "kind of page"))?;
        let at = reader.at();
        let repeats = if head & 1 == 0 { 1 } else { reader.number()? };
        reader.at_most(at, repeats, total - runs.len() as u64)?;
        let at = reader.at();
        let (gap, count, difference) = (reader.number()?, reader.number()?, reader.difference()?);
        for _ in 0..repeats {
            let (va, end) =
                place(behind, gap, count, base_shift).ok_or(reader.bad(at, "range of pages"))?;
            behind = end;
            let present = high & PAGEMAP_PRESENT != 0;
            let frame = if present { expected.wrapping_add(difference) } else { difference };
            let last = if present { frame.checked_add(count - 1) } else { Some(frame) };
            if last.is_none_or(|last| last > PAGEMAP_FRAME) {
                return Err(reader.bad(at, "frame number"));
            }
            if present {
                expected = frame + count;
            }
            runs.push(PageRun { va, pagemap: high | frame, kpageflags, kpagecount, count });
        }
    }
    if runs.len() as u64 != total {
        return Err(reader.bad(reader.at(), "number of runs"));
    }
    Ok(runs)
}

/// First address of a run of pages, and the one behind it. It is not empty.
fn place(behind: u64, gap: u64, count: u64, base_shift: u8) -> Option<(u64, u64)> {
    let va = behind.checked_add(gap)?;
    let bytes = count.checked_mul(1 << base_shift).filter(|&bytes| bytes > 0)?;
    Some((va, va.checked_add(bytes)?))
}

fn zone(reader: &mut Reader<'_>) -> Result<Zone, SnapshotError> {
    Ok(Zone {
        name: reader.text()?,
        start_pfn: reader.number()?,
        spanned: reader.number()?,
        present: reader.number()?,
        managed: reader.number()?,
        free: reader.number()?,
        free_cma: reader.number()?,
    })
}

fn range(reader: &mut Reader<'_>) -> Result<FrameRange, SnapshotError> {
    Ok(FrameRange { name: reader.text()?, start_pfn: reader.number()?, frames: reader.number()? })
}

fn memory(reader: &mut Reader<'_>) -> Result<Vec<FrameRun>, SnapshotError> {
    let count = reader.count(2, u64::MAX)?;
    let mut behind = 0u64;
    let mut runs = Vec::new();
    for _ in 0..count {
        let at = reader.at();
        let head = reader.number()?;
        let class = FrameClass::from_id(head & 7).ok_or(reader.bad(at, "class of frames"))?;
        let start_pfn = behind.checked_add(head >> 3).ok_or(reader.bad(at, "frame number"))?;
        let frames = reader.number()?;
        behind = start_pfn.checked_add(frames).ok_or(reader.bad(at, "number of frames"))?;
        runs.push(FrameRun { start_pfn, frames, class });
    }
    Ok(runs)
}

fn verdicts(reader: &mut Reader<'_>, base_shift: u8) -> Result<Vec<Verdict>, SnapshotError> {
    // A verdict takes a text, a byte and three numbers.
    let count = reader.count(5, VERDICTS)?;
    let mut behind = 0u64;
    let mut verdicts = Vec::new();
    for _ in 0..count {
        let asker = reader.text()?;
        let at = reader.at();
        let bits = reader.byte()?;
        if bits > 3 {
            return Err(reader.bad(at, "way of asking"));
        }
        let at = reader.at();
        let (start, pages) = (behind.wrapping_add(reader.difference()?), reader.number()?);
        let (_, end) =
            place(start, 0, pages, base_shift).ok_or(reader.bad(at, "range of pages"))?;
        behind = end;
        let at = reader.at();
        let errno = u16::try_from(reader.number()?).ok().filter(|&errno| errno < ERRNO_END);
        let errno = errno.ok_or(reader.bad(at, "error number"))?;
        let (write, whole) = (bits & 1 != 0, bits & 2 != 0);
        verdicts.push(Verdict { asker, write, whole, start, pages, errno });
    }
    Ok(verdicts)
}
