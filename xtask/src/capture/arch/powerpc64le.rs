//! POWER9 as a guest (`pseries`), little endian, with radix trees and pages of 4 or 64 KiB.

use pinfold_arch::{PageShift, PowerRadix};
use pinfold_sim::snapshot::Mmu;

use super::{Arch, Debian};
use crate::capture::gdb::{ByteOrder, Gdb};
use crate::capture::procfs;
use crate::capture::report::Report;

pub(crate) const ARCH: Arch = Arch {
    name: "powerpc64le",
    qemu: ("qemu-system-ppc64", "qemu-system-ppc"),
    cross: ("powerpc64le-linux-gnu-gcc", "gcc-powerpc64le-linux-gnu"),
    flags: &[],
    machine,
    persistent: false,
    console: "hvc0",
    words: "",
    // In steps of 256 MiB.
    memory: "512M",
    cma: "160M@80M",
    debian: Debian { architecture: "ppc64el", flavour: "powerpc64le" },
    // Of the process, whatever the machine's own is.
    registers: ByteOrder::Little,
    in_user_mode,
    mmu,
    unhide,
};

/// Kernels decide by themselves how many levels they use. What is switched off are workarounds that
/// the emulator does not have and warns of.
fn machine(levels: Option<u8>) -> Option<&'static [&'static str]> {
    const PSERIES: &[&str] = &[
        "-M",
        "pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off",
        "-cpu",
        "power9",
        "-device",
        "edu,addr=5",
    ];
    levels.is_none().then_some(PSERIES)
}

/// MSR bit PR.
fn in_user_mode(gdb: &mut Gdb) -> Result<bool, String> {
    Ok(gdb.register("msr")? & 1 << 14 != 0)
}

/// A guest's process table stands where its kernel told the hypervisor, which is QEMU here, and no
/// register says that. But it is aligned to its size, so there are few places.
fn mmu(gdb: &mut Gdb, report: &Report) -> Result<Mmu, String> {
    /// Entries for 20 bits of process number: those of a POWER9.
    const SIZE: u64 = 16 << 20;
    let process = gdb.register("pid")?;
    let base_shift = report.base_shift()?;
    let mut found = Vec::new();
    for ram in procfs::ram(report.file("iomem")?, base_shift)? {
        let (start, end) =
            (ram.start_pfn << base_shift, (ram.start_pfn + ram.frames) << base_shift);
        for base in (start.next_multiple_of(SIZE)..end).step_by(SIZE as usize) {
            found.extend(root(gdb, base, process, base_shift)?);
        }
    }
    match found[..] {
        [process] => Ok(Mmu::PowerRadix { process }),
        _ => Err(format!("process tables could stand at {} places", found.len())),
    }
}

/// The first doubleword of a process's entry, if a process table stands here: the kernel and the
/// process have a tree each, of addresses as wide, and nothing behind it.
fn root(gdb: &mut Gdb, table: u64, process: u64, base_shift: u8) -> Result<Option<u64>, String> {
    let base = PageShift::new(base_shift).ok_or("no such page size")?;
    let mut roots = [0; 2];
    for (root, number) in roots.iter_mut().zip([0, process]) {
        let entry = gdb.read_physical(table + 16 * number, 16)?;
        let (first, second) = entry.split_at(8);
        let word = |bytes: &[u8]| bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        if word(second) != 0 || PowerRadix::from_process_entry(base, word(first)).is_err() {
            return Ok(None);
        }
        *root = word(first);
    }
    Ok((roots[0] != roots[1]).then_some(roots[1]))
}

/// Pages without access stay valid: what is absent is in a swap area.
fn unhide(raw: u64, _: PageShift) -> u64 {
    raw
}
