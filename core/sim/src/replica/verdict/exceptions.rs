//! Where a kernel's answer is known not to be pinfold's, and why: one row for each reason, as narrow
//! as the reason is.

use pinfold::host::{Mapping, MappingKind};

use super::{Case, EFAULT, EOPNOTSUPP};

/// A reason for which the kernel's answer may differ from pinfold's.
#[derive(Debug)]
pub struct Exception {
    /// Who asked, or everybody.
    pub asker: Option<&'static str>,
    /// Only kernels before this version (major, minor), or all.
    pub before: Option<(u32, u32)>,
    /// The reason.
    pub reason: &'static str,
    /// Whether it was for reading or for writing that was asked, if that matters.
    write: Option<bool>,
    /// The mapping that the reason is about.
    about: fn(&Mapping) -> bool,
    /// The kernel's answer.
    kernel: u16,
    /// What pinfold answers instead.
    ours: &'static [u16],
}

impl Exception {
    pub(super) fn explains(&self, case: &Case<'_>) -> bool {
        let early = |before| case.kernel.is_some_and(|kernel| kernel < before);
        self.asker.is_none_or(|asker| asker == case.verdict.asker)
            && self.before.is_none_or(early)
            && self.write.is_none_or(|write| write == case.verdict.write)
            && self.kernel == case.verdict.errno
            && case.ours.is_some_and(|ours| self.ours.contains(&ours))
            && case.mappings.iter().any(self.about)
    }
}

/// All known reasons.
pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        asker: Some("io_uring"),
        before: Some((6, 5)),
        reason: "io_uring itself refused all buffers in ordinary files, private ones too, \
                 after they were pinned",
        write: Some(true),
        about: |mapping| mapping.kind == MappingKind::File,
        kernel: EOPNOTSUPP,
        ours: &[0, EFAULT],
    },
    Exception {
        asker: None,
        before: Some((6, 5)),
        reason: "the kernel still let devices write for long to shared files that track dirty \
                 pages; refused since 8ac268436e6d and a6e79df92e4a",
        write: Some(true),
        about: |mapping| mapping.dirty_tracked && mapping.shared,
        kernel: 0,
        ours: &[EFAULT],
    },
    Exception {
        asker: Some("vfio"),
        before: None,
        reason: "vfio maps device registers by their frame numbers, without pinning anything",
        write: None,
        about: |mapping| mapping.kind == MappingKind::Device,
        kernel: 0,
        ours: &[EFAULT],
    },
];
