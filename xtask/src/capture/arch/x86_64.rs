//! x86_64 with 4 or 5 levels.

use pinfold_arch::PageShift;
use pinfold_sim::snapshot::Mmu;

use super::{Arch, Debian};
use crate::capture::gdb::{ByteOrder, Gdb};
use crate::capture::procfs;
use crate::capture::report::Report;

pub(crate) const ARCH: Arch = Arch {
    name: "x86_64",
    qemu: ("qemu-system-x86_64", "qemu-system-x86"),
    cross: ("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu"),
    flags: &[],
    machine,
    persistent: true,
    console: "ttyS0",
    // No check that timer interrupts come in time: it fails when the host is busy.
    memory: "448M",
    words: "no_timer_check intel_iommu=on",
    cma: "160M@80M",
    debian: Debian { architecture: "amd64", flavour: "cloud-amd64" },
    registers: ByteOrder::Little,
    in_user_mode,
    mmu,
    unhide,
};

/// One device with memory for the process, one behind the IOMMU to ask through.
fn machine(levels: Option<u8>) -> Option<&'static [&'static str]> {
    const FOUR: &[&str] = &[
        "-M",
        "q35",
        "-cpu",
        "max,la57=off",
        "-device",
        "intel-iommu", //
        "-device",
        "edu,addr=5",
        "-device",
        "edu,addr=6",
    ];
    const FIVE: &[&str] = &[
        "-M",
        "q35",
        "-cpu",
        "max",
        "-device",
        "intel-iommu", //
        "-device",
        "edu,addr=5",
        "-device",
        "edu,addr=6",
    ];
    match levels {
        None | Some(4) => Some(FOUR),
        Some(5) => Some(FIVE),
        Some(_) => None,
    }
}

/// The current privilege level is the low two bits of the code segment's selector.
fn in_user_mode(gdb: &mut Gdb) -> Result<bool, String> {
    Ok(gdb.register("cs")? & 3 == 3)
}

/// Intel SDM volume 3, 2.5 for CR4.LA57 and 2.2.1 for EFER.NXE.
fn mmu(gdb: &mut Gdb, report: &Report) -> Result<Mmu, String> {
    Ok(Mmu::X86_64 {
        cr3: gdb.register("cr3")?,
        levels: if gdb.register("cr4")? & 1 << 12 == 0 { 4 } else { 5 },
        phys_bits: procfs::phys_bits(report.file("cpuinfo")?)?,
        no_execute: gdb.register("efer")? & 1 << 11 != 0,
    })
}

/// The address stands there inverted: a processor that speculates reads memory that does not exist.
fn unhide(raw: u64, page: PageShift) -> u64 {
    raw ^ 0x000f_ffff_ffff_f000 & !page.mask() | 1
}
