//! Frames put together to folios, and files told apart.

use std::collections::BTreeMap;

use pinfold::folio::{FolioFlags, FolioKind};
use pinfold::host::MappingKind;
use pinfold::{AnyFormat, Order, PageFormat, PageShift, Pfn};

use super::ReplicaError;
use super::maps::{FileKey, Map};
use super::pages::{Pages, Said, kpf};
use crate::format::TableFormat;

/// The largest folio there is: 2 GiB in base pages of 4 KiB.
pub(super) const LARGEST: Order = match Order::new(19) {
    Some(order) => order,
    None => panic!("19 is an order"),
};

/// A folio of the process.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) head: Pfn,
    pub(super) order: Order,
    pub(super) kind: FolioKind,
    pub(super) flags: FolioFlags,
    /// The file that caches it and the page of the file that it begins with.
    pub(super) cached: Option<(usize, u64)>,
    /// Frames of it that others map, with how often.
    pub(super) hidden: Vec<(u64, u64)>,
    /// Whether the process maps any of it.
    pub(super) shown: bool,
}

/// The folios, and the files.
#[derive(Debug)]
pub(super) struct Folios {
    pub(super) list: Vec<Found>,
    pub(super) files: Vec<FileKey>,
    /// Which file each mapping is of.
    pub(super) file_of: Vec<Option<usize>>,
}

pub(super) fn put_together(
    maps: &[Map],
    pages: &Pages,
    format: &AnyFormat,
) -> Result<Folios, ReplicaError> {
    let huge = format.huge().order(format.base());
    let files = Files::tell_apart(maps, pages)?;
    let mut list = Vec::new();
    let mut behind = 0;
    for (pfn, said) in &pages.frames {
        if *pfn < behind {
            continue;
        }
        let wrong = |what| Err(ReplicaError::Frame { pfn: *pfn, what });
        let (head, order) = match extent(maps, pages, format.base(), (*pfn, said)) {
            Ok(extent) => extent,
            Err(what) => return wrong(what),
        };
        if head < behind || !head.is_multiple_of(order.pages().raw()) {
            return wrong("its folio overlaps another one, or is not aligned");
        }
        behind = head.saturating_add(order.pages().raw());
        let frames: Vec<(u64, Said)> =
            pages.frames.range(head..behind).map(|(pfn, said)| (*pfn, *said)).collect();
        list.push(describe(maps, &files, huge, (head, order), &frames)?);
    }
    let Files { keys, file_of, .. } = files;
    Ok(Folios { list, files: keys, file_of })
}

/// Where the folio begins that holds a frame, the first of it that the process has, and how large it
/// is: as small as a power of two can be that holds what the process has of it.
fn extent(
    maps: &[Map],
    pages: &Pages,
    base: PageShift,
    (pfn, said): (u64, &Said),
) -> Result<(u64, Order), &'static str> {
    let order = |order: u32| {
        let order = u8::try_from(order).ok().and_then(Order::new);
        order.filter(|order| *order <= LARGEST).ok_or("its folio is too large")
    };
    let (head, tail) = (said.flags & kpf::HEAD != 0, said.flags & kpf::TAIL != 0);
    if !head && !tail {
        return Ok((pfn, Order::ZERO));
    }
    let last = last_tail(pages, base, pfn, said);
    if head {
        let pages = (last - pfn + 1).checked_next_power_of_two();
        return Ok((pfn, order(pages.map_or(u32::MAX, u64::trailing_zeros))?));
    }
    // The process maps only the end of it.
    let whole = u32::from(maps[said.map].vma.spec.hugetlb.raw());
    let huge = said.flags & kpf::HUGE != 0;
    let bits = if huge { whole } else { u64::BITS - (pfn ^ last).leading_zeros() };
    let bits = bits.max(pfn.trailing_zeros() + 1);
    let order = order(bits)?;
    Ok((Pfn::new(pfn).align_down(order).raw(), order))
}

/// The last frame that is of the same folio as `pfn`, of those that the process has. Between them some
/// may be missing, because the process has copies there: the others are in step.
fn last_tail(pages: &Pages, base: PageShift, pfn: u64, first: &Said) -> u64 {
    let aligned = 1u64.checked_shl(pfn.trailing_zeros()).unwrap_or(u64::MAX);
    let mut last = pfn;
    for (next, said) in pages.frames.range(pfn.saturating_add(1)..) {
        let apart = next - pfn;
        let in_step = said.map == first.map
            && said.va.raw().checked_sub(first.va.raw()) == apart.checked_mul(base.bytes())
            && (first.flags & kpf::HEAD == 0 || apart < aligned);
        if said.flags & kpf::TAIL == 0 || (*next != last + 1 && !in_step) {
            break;
        }
        last = *next;
    }
    last
}

fn describe(
    maps: &[Map],
    files: &Files,
    huge_zero: Order,
    (head, order): (u64, Order),
    frames: &[(u64, Said)],
) -> Result<Found, ReplicaError> {
    let wrong = |what| Err(ReplicaError::Frame { pfn: head, what });
    let Some((first, said)) = frames.first() else { return wrong("a folio without frames") };
    let mut flags = FolioFlags::empty();
    for (pfn, other) in frames {
        let tail = other.flags & kpf::TAIL != 0;
        if order > Order::ZERO && tail == (*pfn == head) {
            return wrong("its folio overlaps another one");
        }
        if (other.flags ^ said.flags) & (kpf::HUGE | kpf::ZERO) != 0 {
            return wrong("the frames of its folio are of different kinds");
        }
        if other.flags & kpf::DIRTY != 0 {
            flags |= FolioFlags::DIRTY;
        }
    }
    let mut found = Found {
        head: Pfn::new(head),
        order,
        kind: FolioKind::Anonymous,
        flags,
        cached: None,
        hidden: Vec::new(),
        shown: frames.iter().any(|(_, said)| said.shown > 0),
    };
    if said.flags & kpf::ZERO != 0 {
        if ![Order::ZERO, huge_zero].contains(&order) {
            return wrong("a shared zero page of that size");
        }
        found.flags = FolioFlags::ZERO;
        return Ok(found);
    }
    let anonymous = frames.iter().any(|(_, said)| said.flags & kpf::ANON != 0);
    let spec = &maps[said.map].vma.spec;
    let huge = said.flags & kpf::HUGE != 0;
    if huge != (spec.kind == MappingKind::Hugetlb) || huge && order != spec.hugetlb {
        return wrong("a huge page that is not of its mapping's size");
    }
    found.kind = match spec.kind {
        MappingKind::Hugetlb => FolioKind::Hugetlb,
        _ if anonymous => FolioKind::Anonymous,
        MappingKind::Shmem => FolioKind::Shmem,
        MappingKind::Secret => FolioKind::Secret,
        MappingKind::File => FolioKind::File,
        // Neither anonymous nor of a file: something that the kernel put there.
        _ => FolioKind::Kernel,
    };
    if anonymous {
        let once = frames.iter().all(|(_, said)| said.count == 1);
        let merged = said.flags & kpf::KSM != 0 && maps[said.map].mergeable;
        found.flags.set(FolioFlags::EXCLUSIVE, once && !merged);
    } else if let Some((file, page)) = files.of_frame.get(first) {
        let Some(start) = page.checked_sub(*first - head) else {
            return wrong("its folio begins before its file");
        };
        let in_step = |(pfn, said): &(u64, Said)| {
            files.of_frame.get(pfn).is_none_or(|found| *found == (*file, start + (*pfn - head)))
                && said.flags & kpf::ANON == 0
        };
        if !frames.iter().all(in_step) {
            return wrong("the frames of its folio are of different files");
        }
        found.cached = Some((*file, start));
    }
    let hidden = frames.iter().map(|(pfn, said)| (*pfn, said.count.saturating_sub(said.shown)));
    found.hidden = hidden.filter(|(_, times)| *times > 0).collect();
    Ok(found)
}

/// Which file each mapping and each frame is of.
struct Files {
    keys: Vec<FileKey>,
    file_of: Vec<Option<usize>>,
    of_frame: BTreeMap<u64, (usize, u64)>,
}

impl Files {
    /// Mappings are of one file if name, file system and kind are equal and their pages agree.
    fn tell_apart(maps: &[Map], pages: &Pages) -> Result<Self, ReplicaError> {
        let mut by_map = BTreeMap::<usize, Vec<(u64, u64)>>::new();
        for (pfn, said) in &pages.frames {
            let map = &maps[said.map];
            if map.file.is_some() && said.flags & (kpf::ANON | kpf::ZERO) == 0 {
                by_map.entry(said.map).or_default().push((map.vma.file_page(said.va), *pfn));
            }
        }
        let mut files = Self { keys: Vec::new(), file_of: Vec::new(), of_frame: BTreeMap::new() };
        let mut of_page = BTreeMap::<(usize, u64), u64>::new();
        for (at, map) in maps.iter().enumerate() {
            let Some(key) = &map.file else {
                files.file_of.push(None);
                continue;
            };
            let own = by_map.remove(&at).unwrap_or_default();
            let agrees = |file: &usize| {
                own.iter().all(|(page, pfn)| {
                    of_page.get(&(*file, *page)).is_none_or(|other| other == pfn)
                        && files.of_frame.get(pfn).is_none_or(|other| *other == (*file, *page))
                })
            };
            let mut known = (0..files.keys.len()).filter(|file| files.keys[*file] == *key);
            let file = known.find(agrees).unwrap_or(files.keys.len());
            if file == files.keys.len() {
                files.keys.push(key.clone());
            }
            for (page, pfn) in own {
                of_page.insert((file, page), pfn);
                if files.of_frame.insert(pfn, (file, page)).is_some_and(|old| old != (file, page)) {
                    let what = "it is of two files, or twice of one";
                    return Err(ReplicaError::Frame { pfn, what });
                }
            }
            files.file_of.push(Some(file));
        }
        Ok(files)
    }
}
