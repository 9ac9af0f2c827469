//! What the kernel says about the process's pages, held against its tables; and the use of every
//! other frame.

use std::collections::{BTreeMap, BTreeSet};

use pinfold::{PageFormat, Pfn, VirtAddr};

use super::ReplicaError;
use super::maps::{self, Map};
use super::tree::Tree;
use crate::layout::{FrameRange, Layout};
use crate::snapshot::{FrameClass, PageRun, Snapshot};

/// Bits of kpageflags.
pub(super) mod kpf {
    pub(crate) const DIRTY: u64 = 1 << 4;
    pub(crate) const ANON: u64 = 1 << 12;
    pub(crate) const HEAD: u64 = 1 << 15;
    pub(crate) const TAIL: u64 = 1 << 16;
    pub(crate) const HUGE: u64 = 1 << 17;
    pub(crate) const KSM: u64 = 1 << 21;
    pub(crate) const ZERO: u64 = 1 << 24;
}

/// Bit of a pagemap word: the page is in a swap area.
const SWAPPED: u64 = 1 << 62;

/// Pages of all runs together, at most: as many as the largest machine has frames.
const PAGES: u64 = 1 << 24;

/// What is said about a frame that the process has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) flags: u64,
    /// How often it is mapped, by whomever.
    pub(super) count: u64,
    /// Pages of the process that its tables show there.
    pub(super) shown: u64,
    /// Where the process has it first, and in which mapping.
    pub(super) va: VirtAddr,
    pub(super) map: usize,
}

/// Frames of the process, and what all others are used for.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) frames: BTreeMap<u64, Said>,
    pub(super) first: u64,
    /// By frame, from `first` on.
    pub(super) classes: Vec<FrameClass>,
}

impl Pages {
    pub(super) fn class(&self, pfn: u64) -> FrameClass {
        let at = pfn.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.classes.get(at)).copied().unwrap_or(FrameClass::Absent)
    }
}

pub(super) fn read(
    snapshot: &Snapshot,
    layout: &Layout,
    maps: &[Map],
    tree: &Tree,
) -> Result<Pages, ReplicaError> {
    let (memory, base) = (layout.frames(), layout.base);
    let mut pages =
        Pages { frames: BTreeMap::new(), first: memory.start.raw(), classes: Vec::new() };
    // How much of every leaf the kernel has named, and what it has named beside.
    let mut named = vec![0; tree.leaves.len()];
    let (mut swapped, mut direct) = (0, BTreeSet::new());
    let (mut next, mut total) = (0, 0u64);
    for run in &snapshot.pages {
        let at = VirtAddr::new(run.va);
        let wrong = |what| ReplicaError::Page { at, what };
        let bytes = run.count.checked_mul(base.bytes()).filter(|bytes| *bytes > 0);
        let end = bytes.and_then(|bytes| run.va.checked_add(bytes));
        let end = end.ok_or(wrong("not a range of pages"))?;
        if run.va < next || run.va & base.mask() != 0 {
            return Err(wrong("said twice, or not in order"));
        }
        next = end;
        if run.va >> (u64::BITS - 1) != 0 {
            continue; // the kernel's half
        }
        let map = maps::find(maps, at).ok_or(wrong("it is in no mapping"))?;
        if !maps[map].vma.range.contains(VirtAddr::new(end - 1)) {
            return Err(wrong("it is in no mapping"));
        }
        let away = run.frame().is_none();
        if away && (run.pagemap & SWAPPED == 0 || maps[map].no_access()) {
            continue;
        }
        if maps[map].device() {
            return Err(wrong("a frame where the mapping is of device registers"));
        }
        total = total.saturating_add(run.count);
        if total > PAGES {
            return Err(wrong("more pages than a machine has"));
        }
        if away {
            let before = |limit: u64| tree.away.partition_point(|va| va.raw() < limit);
            let there = before(end) - before(run.va);
            if there as u64 != run.count {
                return Err(wrong("swapped out, but the tables do not say so"));
            }
            swapped += there;
            continue;
        }
        let first = run.frame().unwrap_or_default();
        let last = first.checked_add(run.count - 1);
        if maps[map].dax() && run.kpageflags & kpf::ANON == 0 {
            let last = last.ok_or(wrong("not a range of frames"))?;
            for (pfn, i) in (first..=last).zip(0..) {
                if memory.contains(Pfn::new(pfn)) {
                    return Err(wrong("persistent memory inside a zone, which is not supported"));
                }
                shown_at(tree, VirtAddr::new(run.va + (i << base.raw())), pfn, &mut named)?;
                direct.insert(pfn);
            }
            continue;
        }
        if !memory.contains(Pfn::new(first)) || last.is_none_or(|l| !memory.contains(Pfn::new(l))) {
            return Err(wrong("its frame lies in no zone"));
        }
        for i in 0..run.count {
            pages.add(run, i, map, maps, tree, &mut named)?;
        }
    }
    for (mapped, named) in tree.leaves.iter().zip(named) {
        if !maps[mapped.map].device() && named != tree.pages_of(&mapped.leaf) {
            let what = "the tables have a page there that the kernel does not name";
            return Err(ReplicaError::Page { at: mapped.va, what });
        }
    }
    if let Some(&at) = tree.away.first().filter(|_| swapped != tree.away.len()) {
        let what = "an entry from there on is not present, and not swapped out either";
        return Err(ReplicaError::Page { at, what });
    }
    pages.classes = classes(snapshot, &memory, &direct)?;
    Ok(pages)
}

/// Whether the tables show a page, which must be in this frame.
fn shown_at(tree: &Tree, va: VirtAddr, pfn: u64, named: &mut [u64]) -> Result<bool, ReplicaError> {
    let Some((at, mapped)) = tree.leaf(va) else { return Ok(false) };
    let base = tree.format.base();
    let found = mapped.leaf.addr.pfn(base).raw() + (va.offset(mapped.leaf.shift) >> base.raw());
    if found != pfn {
        let what = "the tables have another frame there";
        return Err(ReplicaError::Page { at: va, what });
    }
    named[at] += 1;
    Ok(true)
}

impl Pages {
    fn add(
        &mut self,
        run: &PageRun,
        i: u64,
        map: usize,
        maps: &[Map],
        tree: &Tree,
        named: &mut [u64],
    ) -> Result<(), ReplicaError> {
        let va = VirtAddr::new(run.va + (i << tree.format.base().raw()));
        let pfn = run.frame().unwrap_or_default() + i;
        let wrong = |what| Err(ReplicaError::Page { at: va, what });
        let (flags, count) = (run.kpageflags, run.kpagecount);
        let zero = flags & kpf::ZERO != 0;
        let shown = shown_at(tree, va, pfn, named)?;
        if !shown && !maps[map].no_access() {
            return wrong("the tables have nothing there");
        }
        let said = self.frames.entry(pfn).or_insert(Said { flags, count, shown: 0, va, map });
        if (said.flags, said.count) != (flags, count) {
            return wrong("its frame is something else at another address");
        }
        said.shown += u64::from(shown);
        if !zero && (said.count == 0 || said.shown > said.count) {
            return wrong("it is mapped more often than the kernel counts");
        }
        Ok(())
    }
}

/// The use of every frame of the zones; absent where nothing is said. What the process has outside
/// of them is `direct`, memory that it maps of files.
fn classes(
    snapshot: &Snapshot,
    memory: &FrameRange,
    direct: &BTreeSet<u64>,
) -> Result<Vec<FrameClass>, ReplicaError> {
    let frames = usize::try_from(memory.pages.raw()).unwrap_or(0);
    let mut classes = vec![FrameClass::Absent; frames];
    let mut next = 0;
    for run in &snapshot.memory {
        let wrong = |what| Err(ReplicaError::Frame { pfn: run.start_pfn, what });
        let Some(end) = run.start_pfn.checked_add(run.frames) else {
            return wrong("more frames than there are");
        };
        if run.start_pfn < next {
            return wrong("its use is said twice, or not in order");
        }
        next = end;
        let used =
            matches!(run.class, FrameClass::Free | FrameClass::Process | FrameClass::Movable);
        let (start, stop) = (memory.start.raw(), memory.end().raw());
        let outside = run.frames > 0 && (run.start_pfn < start || end > stop);
        let direct = run.class == FrameClass::Process
            && direct.range(run.start_pfn..end).count() as u64 == run.frames;
        if used && outside && !direct {
            return wrong("it is in use and lies in no zone");
        }
        // Reserved frames may stand beside the zones.
        for pfn in run.start_pfn.max(start)..end.min(stop) {
            let at = usize::try_from(pfn - start).unwrap_or(usize::MAX);
            classes[at] = run.class;
        }
    }
    Ok(classes)
}
