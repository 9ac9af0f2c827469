//! Takes what a snapshot needs out of files of `/proc` and out of the kernel's log.

use std::collections::BTreeMap;

use pinfold_sim::snapshot::{FrameRange, Mapping, Zone};

use super::report::MappedFile;

/// Stands among the kernel's own flags, which have two letters.
const DAX: &str = "dax";

/// `/proc/self/smaps`, without the kernel's own page above the user half.
pub(super) fn mappings(
    smaps: &str,
    files: &BTreeMap<u64, MappedFile>,
) -> Result<Vec<Mapping>, String> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = heading(line, files) {
            mappings.push(mapping);
        } else if let Some(last) = mappings.last_mut() {
            if let Some(size) = line.strip_prefix("KernelPageSize:") {
                last.page_size_kib = leading(size).ok_or(format!("smaps: {line}"))?;
            } else if let Some(flags) = line.strip_prefix("VmFlags:") {
                last.flags = flags.split_whitespace().map(str::to_owned).collect();
            }
        }
    }
    for mapping in &mut mappings {
        if files.get(&mapping.start).is_some_and(|file| file.dax) {
            mapping.flags.push(DAX.to_owned());
        }
    }
    mappings.retain(|mapping| mapping.start >> 63 == 0);
    if mappings.iter().any(|mapping| mapping.page_size_kib == 0 || mapping.flags.is_empty()) {
        return Err("smaps has a mapping without VmFlags or KernelPageSize".into());
    }
    Ok(mappings)
}

/// `start-end rwxp offset device inode name`
fn heading(line: &str, files: &BTreeMap<u64, MappedFile>) -> Option<Mapping> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let rights = words.next()?;
    let offset = hex(words.next()?)?;
    let (_device, _inode) = (words.next()?, words.next()?);
    Some(Mapping {
        start,
        end,
        name: words.collect::<Vec<_>>().join(" "),
        readable: rights.contains('r'),
        writable: rights.contains('w'),
        executable: rights.contains('x'),
        shared: rights.contains('s'),
        flags: Vec::new(),
        fs_type: files.get(&start).map_or(0, |file| file.fs_type),
        page_size_kib: 0,
        offset,
    })
}

/// `/proc/zoneinfo`
pub(super) fn zones(text: &str) -> Result<Vec<Zone>, String> {
    let mut zones: Vec<Zone> = Vec::new();
    for line in text.lines() {
        if let Some((_node, name)) = line.split_once(", zone ") {
            let name = name.trim().to_owned();
            let [start_pfn, spanned, present, managed, free, free_cma] = [0; 6];
            zones.push(Zone { name, start_pfn, spanned, present, managed, free, free_cma });
            continue;
        }
        let line = line.trim_start();
        let Some((key, value)) = line.rsplit_once(char::is_whitespace) else { continue };
        let (Some(zone), Ok(value)) = (zones.last_mut(), value.parse()) else { continue };
        match key.trim_end() {
            "pages free" => zone.free = value,
            "spanned" => zone.spanned = value,
            "present" => zone.present = value,
            "managed" => zone.managed = value,
            "nr_free_cma" => zone.free_cma = value,
            "start_pfn:" => zone.start_pfn = value,
            _ => {}
        }
    }
    if zones.is_empty() { Err("zoneinfo has no zones".into()) } else { Ok(zones) }
}

/// `cma: Reserved 64 MiB at 0x0000000004000000` in the kernel's log.
pub(super) fn cma(log: &str, base_shift: u8) -> Result<Vec<FrameRange>, String> {
    if log.contains("could not be activated") {
        return Err("the kernel gave up its CMA area; please choose another --cma".into());
    }
    let area = |text: &str| {
        let (size, place) = text.split_once(" MiB at 0x")?;
        let (size, place) = (leading::<u64>(size)?, hex(place.split_whitespace().next()?)?);
        let (start_pfn, frames) = (place >> base_shift, size << 20 >> base_shift);
        Some(FrameRange { start_pfn, frames, name: "reserved".into() })
    };
    let texts = log.lines().filter_map(|line| line.split_once("cma: Reserved "));
    texts.map(|(_, text)| area(text).ok_or(format!("kernel log: {text}"))).collect()
}

/// Whole frames of `System RAM` in `/proc/iomem`.
pub(super) fn ram(iomem: &str, base_shift: u8) -> Result<Vec<FrameRange>, String> {
    let frame = 1 << base_shift;
    let range = |range: &str, name: &str| {
        let (first, last) = range.split_once('-')?;
        let (first, behind) = (hex(first)?.div_ceil(frame), (hex(last)? + 1) / frame);
        Some(FrameRange {
            start_pfn: first,
            frames: behind.saturating_sub(first),
            name: name.to_owned(),
        })
    };
    iomem
        .lines()
        .filter_map(|line| line.split_once(" : "))
        .filter(|(addresses, name)| !addresses.starts_with(' ') && *name == "System RAM")
        .map(|(addresses, name)| range(addresses, name).ok_or(format!("iomem: {addresses}")))
        .collect()
}

/// `address sizes : 40 bits physical, 48 bits virtual` in `/proc/cpuinfo`
pub(super) fn phys_bits(cpuinfo: &str) -> Result<u8, String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("address sizes"));
    line.and_then(|line| leading(line.split_once(':')?.1)).ok_or("cpuinfo: no address sizes".into())
}

/// `facilities : 0 1 2 8` in `/proc/cpuinfo` of s390x, as words in which the most significant bit comes
/// first.
pub(super) fn facilities(cpuinfo: &str) -> Result<Vec<u64>, String> {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("facilities"));
    let numbers = line.and_then(|line| line.split_once(':')).ok_or("cpuinfo: no facilities")?.1;
    let mut words = Vec::new();
    for number in numbers.split_whitespace() {
        let bit = number.parse::<u16>().map_err(|_| format!("cpuinfo: facility {number}"))?;
        let (word, bit) = (usize::from(bit / 64), bit % 64);
        words.resize(words.len().max(word + 1), 0);
        words[word] |= 1 << (63 - bit);
    }
    Ok(words)
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// The number that a text begins with.
fn leading<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaps_without_the_kernels_page() {
        let text = "\
            00400000-00401000 r-xp 00001000 00:02 7    /a file (deleted)\n\
            Size:                  4 kB\n\
            KernelPageSize:     2048 kB\n\
            VmFlags: rd ex mr \n\
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]\n\
            KernelPageSize:        4 kB\n\
            VmFlags: ex \n";
        let file = MappedFile { fs_type: 0x1234, dax: true };
        let found = mappings(text, &BTreeMap::from([(0x40_0000, file)])).expect("well formed");
        let [mapping] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x40_0000, 0x40_1000, 0x1000));
        assert_eq!((mapping.name.as_str(), mapping.fs_type), ("/a file (deleted)", 0x1234));
        assert_eq!((mapping.page_size_kib, mapping.flags.join(" ")), (2048, "rd ex mr dax".into()));
        assert!(mapping.readable && mapping.executable && !mapping.writable && !mapping.shared);
    }

    #[test]
    fn zones_with_and_without_memory() {
        let text = "\
            Node 0, zone    DMA32\n  pages free     9\n        spanned  40\n        present  39\n\
            \x20       managed  38\n        cma      16\n      nr_free_pages 9\n\
            \x20     nr_free_cma  3\n  start_pfn:           4096\n\
            Node 0, zone   Normal\n  pages free     0\n        spanned  0\n";
        let zones = zones(text).expect("well formed");
        let first = &zones[0];
        assert_eq!((first.name.as_str(), first.start_pfn, first.spanned), ("DMA32", 4096, 40));
        assert_eq!((first.present, first.managed, first.free, first.free_cma), (39, 38, 9, 3));
        assert_eq!((zones[1].name.as_str(), zones[1].start_pfn), ("Normal", 0));
    }

    #[test]
    fn areas_of_the_contiguous_allocator() {
        let log = "<6>[    0.02] cma: Reserved 160 MiB at 0x0000000005000000 on node -1\n";
        let area = FrameRange { start_pfn: 0x5000, frames: 40_960, name: "reserved".into() };
        assert_eq!(cma(log, 12), Ok(vec![area]));
        assert_eq!(cma("<6>nothing of the kind", 12), Ok(Vec::new()));
        assert!(cma("cma: CMA area reserved could not be activated", 12).is_err());
    }

    #[test]
    fn ram_in_whole_frames_and_what_processors_have() {
        let text = "00001000-0009fbff : System RAM\n  00002000-00002fff : System RAM\n";
        let range = FrameRange { start_pfn: 1, frames: 0x9e, name: "System RAM".into() };
        assert_eq!(ram(text, 12), Ok(vec![range]));
        let said = "processors : 1\nfacilities      : 0 1 63 130\n";
        assert_eq!(facilities(said), Ok(vec![0xc000_0000_0000_0001, 0, 0x2000_0000_0000_0000]));
        assert!(facilities("features : edat").is_err());
        assert_eq!(phys_bits("address sizes\t: 40 bits physical, 48 bits virtual"), Ok(40));
    }
}
