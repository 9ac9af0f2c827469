//! What differs between the machines that kernels are captured on: one value each, in a file of its
//! own below. Adding one is such a file, its line here, and its header in `xtask/capture`.

mod aarch64;
mod powerpc64le;
mod s390x;
mod x86_64;

pub(crate) use aarch64::ARCH as AARCH64;
pub(crate) use powerpc64le::ARCH as POWERPC64LE;
pub(crate) use s390x::ARCH as S390X;
pub(crate) use x86_64::ARCH as X86_64;

use pinfold_arch::PageShift;
use pinfold_sim::snapshot::Mmu;

use super::gdb::{ByteOrder, Gdb};
use super::report::Report;

pub(crate) const ALL: [&Arch; 4] = [&X86_64, &AARCH64, &S390X, &POWERPC64LE];

/// A kind of machine.
#[derive(Debug)]
pub(crate) struct Arch {
    /// As `--arch` and the names of snapshots have it.
    pub(crate) name: &'static str,
    /// The emulator, and Debian's package of it.
    pub(crate) qemu: (&'static str, &'static str),
    /// The compiler for init where this is another machine, and Debian's package of it.
    pub(crate) cross: (&'static str, &'static str),
    /// What that compiler is told beyond what each is told.
    pub(super) flags: &'static [&'static str],
    /// What QEMU is told, for tables of so many levels or of as many as is usual; `None` where there
    /// are no such tables.
    pub(super) machine: fn(levels: Option<u8>) -> Option<&'static [&'static str]>,
    /// Whether the disks can be memory of the machine, as DAX wants them.
    pub(super) persistent: bool,
    /// What the kernel calls its console.
    pub(super) console: &'static str,
    /// More words for every kernel's command line.
    pub(super) words: &'static str,
    /// How much memory it has, if nothing else is said.
    pub(super) memory: &'static str,
    /// Size and place of the contiguous allocator's area.
    pub(super) cma: &'static str,
    pub(super) debian: Debian,
    pub(super) registers: ByteOrder,
    /// Whether the stopped processor runs a process, and not the kernel.
    pub(super) in_user_mode: fn(&mut Gdb) -> Result<bool, String>,
    /// What the processor was told about the tables of that process.
    pub(super) mmu: fn(&mut Gdb, &Report) -> Result<Mmu, String>,
    pub(super) unhide: Unhide,
}

/// The absent entry of a page without access, as a present one: the frame is in it, in whatever way
/// kernels for this machine hide it. Also given the size of that page.
pub(super) type Unhide = fn(u64, PageShift) -> u64;

/// What Debian calls such a machine.
#[derive(Debug)]
pub(super) struct Debian {
    pub(super) architecture: &'static str,
    /// The last part of the names of its kernels, of those that suit best.
    pub(super) flavour: &'static str,
}

impl Arch {
    pub(crate) fn named(name: &str) -> Result<&'static Self, String> {
        let names = || ALL.map(|arch| arch.name).join(", ");
        let found = ALL.into_iter().find(|arch| arch.name == name);
        found.ok_or_else(|| format!("capture: --arch {name}: there are {}", names()))
    }

    /// The compiler for init, and Debian's package of it.
    pub(crate) fn compiler(&self) -> (&'static str, &'static str) {
        if std::env::consts::ARCH == self.name { ("gcc", "gcc") } else { self.cross }
    }
}
