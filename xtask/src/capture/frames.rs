//! What each frame is used for, from /proc/kpageflags and from the process's own pages.

use pinfold_sim::snapshot::{FrameClass, FrameRun, PageRun};

/// Bits of /proc/kpageflags, as the kernel documents them; the last one is its own numbering.
mod bit {
    pub(super) const LRU: u64 = 1 << 5;
    pub(super) const BUDDY: u64 = 1 << 10;
    pub(super) const MMAP: u64 = 1 << 11;
    pub(super) const ANON: u64 = 1 << 12;
    pub(super) const HWPOISON: u64 = 1 << 19;
    pub(super) const NOPAGE: u64 = 1 << 20;
    pub(super) const KSM: u64 = 1 << 21;
    pub(super) const OFFLINE: u64 = 1 << 23;
    pub(super) const ZERO_PAGE: u64 = 1 << 24;
    pub(super) const RESERVED: u64 = 1 << 32;
}

fn class(flags: u64) -> FrameClass {
    let any = |bits| flags & bits != 0;
    if any(bit::NOPAGE) {
        FrameClass::Absent
    } else if any(bit::ZERO_PAGE) {
        FrameClass::Kernel
    } else if any(bit::RESERVED | bit::HWPOISON | bit::OFFLINE) {
        FrameClass::Reserved
    } else if any(bit::BUDDY) {
        FrameClass::Free
    } else if any(bit::LRU | bit::MMAP | bit::ANON | bit::KSM) {
        FrameClass::Movable
    } else {
        FrameClass::Kernel
    }
}

/// Runs of all frames in equal use. `reported` has first frame, count and flags.
pub(super) fn classes(reported: &[[u64; 3]], pages: &[PageRun]) -> Vec<FrameRun> {
    let mut own: Vec<(u64, u64)> = pages
        .iter()
        .filter(|run| run.kpageflags & bit::ZERO_PAGE == 0)
        .filter_map(|run| run.frame().map(|frame| (frame, frame + run.count)))
        .collect();
    own.sort_unstable();
    let mut runs = Vec::new();
    let mut next = 0;
    for &[start, count, flags] in reported {
        let (mut at, end) = (start, start + count);
        while at < end {
            while own.get(next).is_some_and(|&(_, behind)| behind <= at) {
                next += 1;
            }
            let (until, class) = match own.get(next) {
                Some(&(from, behind)) if from <= at => (behind.min(end), FrameClass::Process),
                Some(&(from, _)) => (from.min(end), class(flags)),
                None => (end, class(flags)),
            };
            push(&mut runs, FrameRun { start_pfn: at, frames: until - at, class });
            at = until;
        }
    }
    runs
}

fn push(runs: &mut Vec<FrameRun>, run: FrameRun) {
    match runs.last_mut() {
        Some(last) if last.class == run.class && last.start_pfn + last.frames == run.start_pfn => {
            last.frames += run.frames;
        }
        _ => runs.push(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinfold_sim::snapshot::PAGEMAP_PRESENT;

    #[test]
    fn own_pages_come_before_flags() {
        let page = |frame, kpageflags, count| PageRun {
            va: 0,
            pagemap: PAGEMAP_PRESENT | frame,
            kpageflags,
            kpagecount: 1,
            count,
        };
        // Mapped twice, across two reports; a zero page stays the kernel's.
        let pages = [page(6, bit::ANON, 6), page(8, bit::ANON, 1), page(3, bit::ZERO_PAGE, 1)];
        let reported = [
            [0, 3, bit::BUDDY],
            [3, 1, bit::ZERO_PAGE | bit::RESERVED],
            [4, 4, bit::LRU],
            [8, 8, 0],
        ];
        let run = |start_pfn, frames, class| FrameRun { start_pfn, frames, class };
        let expected = [
            run(0, 3, FrameClass::Free),
            run(3, 1, FrameClass::Kernel),
            run(4, 2, FrameClass::Movable),
            run(6, 6, FrameClass::Process),
            run(12, 4, FrameClass::Kernel),
        ];
        assert_eq!(classes(&reported, &pages), expected);
    }
}
