//! s390x with 3 levels, and a fourth for high addresses.

use pinfold_arch::PageShift;
use pinfold_arch::format::s390x::Facilities;
use pinfold_sim::snapshot::Mmu;

use super::{Arch, Debian};
use crate::capture::gdb::{ByteOrder, Gdb};
use crate::capture::procfs;
use crate::capture::report::Report;

pub(crate) const ARCH: Arch = Arch {
    name: "s390x",
    qemu: ("qemu-system-s390x", "qemu-system-misc"),
    cross: ("s390x-linux-gnu-gcc", "gcc-s390x-linux-gnu"),
    flags: &[],
    machine,
    persistent: false,
    console: "ttysclp0",
    memory: "448M",
    words: "",
    cma: "160M@80M",
    debian: Debian { architecture: "s390x", flavour: "s390x" },
    registers: ByteOrder::Big,
    in_user_mode,
    mmu,
    unhide,
};

/// A process begins with 3 levels and gets more when it maps an address that needs them.
fn machine(levels: Option<u8>) -> Option<&'static [&'static str]> {
    const CCW: &[&str] = &["-M", "s390-ccw-virtio", "-cpu", "max"];
    levels.is_none().then_some(CCW)
}

/// Bit 15 of the program-status word: problem state.
fn in_user_mode(gdb: &mut Gdb) -> Result<bool, String> {
    Ok(gdb.register("pswm")? & 1 << (63 - 15) != 0)
}

/// In problem state the primary address space is the process's own. The kernel tells which
/// facilities are installed, control register 0 which of those are in use.
fn mmu(gdb: &mut Gdb, report: &Report) -> Result<Mmu, String> {
    let installed = procfs::facilities(report.file("cpuinfo")?)?;
    let facilities = Facilities::in_use(&installed, gdb.register("cr0")?);
    Ok(Mmu::S390x { asce: gdb.register("cr1")?, facilities })
}

/// The invalid bit was added, and nothing else was changed.
fn unhide(raw: u64, _: PageShift) -> u64 {
    raw & !0x400
}
