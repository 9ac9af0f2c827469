//! aarch64 with pages of 4, 16 or 64 KiB.

use pinfold_arch::PageShift;
use pinfold_arch::format::aarch64::output_bits;
use pinfold_sim::snapshot::Mmu;

use super::{Arch, Debian};
use crate::capture::gdb::{ByteOrder, Gdb};
use crate::capture::report::Report;

pub(crate) const ARCH: Arch = Arch {
    name: "aarch64",
    qemu: ("qemu-system-aarch64", "qemu-system-arm"),
    cross: ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    flags: &["-mno-outline-atomics", "-Wl,-z,max-page-size=65536"],
    machine,
    persistent: false,
    console: "ttyAMA0",
    memory: "448M",
    words: "",
    // Memory begins at 1 GiB, and 128 MiB further lies the initramfs. Areas are whole blocks of 32 MiB.
    cma: "160M@1184M",
    debian: Debian { architecture: "arm64", flavour: "cloud-arm64" },
    registers: ByteOrder::Little,
    in_user_mode,
    mmu,
    unhide,
};

/// Kernels decide by themselves how many levels they use. Emulated pointer authentication that is
/// as strong as the manual's takes four times as long.
fn machine(levels: Option<u8>) -> Option<&'static [&'static str]> {
    const VIRT: &[&str] =
        &["-M", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on", "-device", "edu,addr=5"];
    levels.is_none().then_some(VIRT)
}

/// Exception level 0: the low four bits of the processor state are clear.
fn in_user_mode(gdb: &mut Gdb) -> Result<bool, String> {
    Ok(gdb.register("cpsr")? & 0xf == 0)
}

/// The width is the CPU's; who reads the snapshot knows that TCR may say less.
fn mmu(gdb: &mut Gdb, _: &Report) -> Result<Mmu, String> {
    Ok(Mmu::Aarch64 {
        ttbr0: gdb.register("TTBR0_EL1")?,
        tcr: gdb.register("TCR_EL1")?,
        pa_bits: output_bits(gdb.register("ID_AA64MMFR0_EL1")?),
    })
}

/// All but the valid bit is as it was.
fn unhide(raw: u64, _: PageShift) -> u64 {
    raw | 1
}
