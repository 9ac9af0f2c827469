//! Where a kernel's answer is known not to be pinfold's, and why: one row for each reason, as narrow
//! as the reason is.

use pinfold::host::{Mapping, MappingKind};

use super::{Case, EFAULT, ENOMEM, EOPNOTSUPP};
use crate::snapshot::Verdict;

/// A reason for which the kernel's answer may differ from pinfold's.
#[derive(Debug)]
pub struct Exception {
    /// Who asked, or everybody.
    pub asker: Option<&'static str>,
    /// Only kernels before this version (major, minor), or all.
    pub before: Option<(u32, u32)>,
    /// The reason.
    pub reason: &'static str,
    /// The pins that the reason is about, with what pinfold makes of them.
    about: fn(&Case<'_>) -> bool,
    /// The kernel's answers.
    kernel: &'static [u16],
}

impl Exception {
    pub(super) fn explains(&self, case: &Case<'_>) -> bool {
        let early = |before| case.kernel.is_some_and(|kernel| kernel < before);
        self.asker.is_none_or(|asker| asker == case.verdict.asker)
            && self.before.is_none_or(early)
            && self.kernel.contains(&case.verdict.errno)
            && case.ours.is_some()
            && (self.about)(case)
    }
}

impl Case<'_> {
    /// Whether pinfold pinned the pages.
    fn pinned(&self) -> bool {
        self.ours == Some(0)
    }

    fn on(&self, mapping: impl Fn(&Mapping) -> bool) -> bool {
        self.mappings.iter().any(mapping)
    }

    fn on_a(&self, kind: MappingKind) -> bool {
        self.on(|mapping| mapping.kind == kind)
    }
}

/// All known reasons.
pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        asker: Some("io_uring"),
        before: Some((6, 5)),
        reason: "io_uring itself refused all buffers in ordinary files, private ones too, \
                 after they were pinned",
        about: |case| {
            let tracked = case.on(|mapping| mapping.dirty_tracked);
            case.verdict.write && case.on_a(MappingKind::File) && (case.pinned() || tracked)
        },
        kernel: &[EOPNOTSUPP],
    },
    Exception {
        asker: Some("io_uring"),
        before: None,
        reason: "io_uring says EFAULT when only the first of its pages could be pinned, whatever \
                 stood in the way of the next",
        about: |case| case.later,
        kernel: &[EFAULT],
    },
    Exception {
        asker: Some("vfio"),
        before: None,
        reason: "vfio maps device registers by their frame numbers, without pinning anything",
        about: |case| case.on_a(MappingKind::Device),
        kernel: &[0],
    },
    Exception {
        asker: None,
        before: Some((6, 5)),
        reason: "the kernel still let devices write for long to shared files that track dirty \
                 pages; refused since 8ac268436e6d and a6e79df92e4a",
        about: |case| {
            case.verdict.write && case.on(|mapping| mapping.dirty_tracked && mapping.shared)
        },
        kernel: &[0],
    },
    Exception {
        asker: None,
        before: Some((6, 12)),
        reason: "the kernel refused hugetlb pages in CMA areas and movable zones instead of moving \
                 them; fixed by f442fa614137",
        // Pinfold gets past them; another page may stop it.
        about: |case| case.kept && case.on_a(MappingKind::Hugetlb) && (case.pinned() || case.later),
        kernel: &[ENOMEM, Verdict::UNTOLD],
    },
    Exception {
        asker: None,
        before: None,
        reason: "the process's own copies of pages of fsdax files: the kernel's slow way refuses \
                 them for their mapping, its fast way pins them, and so does pinfold",
        about: |case| {
            let private = |mapping: &Mapping| mapping.kind == MappingKind::FsDax && !mapping.shared;
            case.pinned() && case.on(private)
        },
        kernel: &[EOPNOTSUPP],
    },
];
