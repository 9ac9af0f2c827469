//! Programs without an operating system, each on the machine that QEMU makes for it.

use std::path::PathBuf;
use std::process::Command;

use crate::command::{Show, check, check_code, command, root};
use crate::counts::{Counts, Outcome, Stop};
use crate::toolchain::{AARCH64_BARE, Target, X86_64_BARE};

/// Optimised, but with every assertion.
const PROFILE: &str = "checked";

/// Seconds after which a machine is taken for dead.
const PATIENCE: &str = "120";

/// One instruction counts as 1024 ns, and nobody sleeps: a device's delays pass fast, and every run is alike.
const CLOCK: &[&str] = &["-icount", "shift=10,sleep=off"];

/// No screen, no second start, and the memory that the program expects.
const PLAIN: &[&str] =
    &["-cpu", "max", "-m", "1G", "-display", "none", "-no-reboot", "-serial", "stdio"];

/// The device whose DMA is looked at, with addresses of 64 bits.
const DEVICE: &[&str] = &["-device", "edu,dma_mask=0xffffffffffffffff"];

/// A kind of machine.
struct Machine {
    target: &'static Target,
    qemu: &'static [&'static str],
    /// What QEMU ends with if the program is content.
    success: i32,
}

const X86_64: Machine = Machine {
    target: &X86_64_BARE,
    qemu: &["qemu-system-x86_64", "-M", "q35", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
    success: 33,
};

const AARCH64: Machine = Machine {
    target: &AARCH64_BARE,
    qemu: &["qemu-system-aarch64", "-semihosting-config", "enable=on,target=native"],
    success: 0,
};

pub(super) fn x86_64() -> Outcome {
    let iommus = [
        "intel-iommu,intremap=off,aw-bits=39",
        "intel-iommu,intremap=off,aw-bits=48",
        "intel-iommu,intremap=off,aw-bits=48,caching-mode=on",
        "amd-iommu",
    ];
    run(&X86_64, iommus.map(|iommu| ["-device", iommu]))
}

pub(super) fn aarch64() -> Outcome {
    run(&AARCH64, [["-M", "virt,iommu=smmuv3,gic-version=3"]])
}

/// Builds the program and runs it once with each of these arguments.
fn run<const N: usize>(machine: &Machine, variants: [[&str; 2]; N]) -> Outcome {
    let program = build(machine.target)?;
    let mut sum = Counts::default();
    for arguments in variants {
        let mut qemu = command("timeout", &[PATIENCE]);
        qemu.args(machine.qemu).args(PLAIN).args(CLOCK).args(arguments).args(DEVICE);
        qemu.arg("-kernel").arg(&program);
        let ran = check_code(qemu, Show::OnFailure, machine.success);
        let ran = ran.and_then(some)?;
        println!("   {}: {} checks", arguments.join(" "), ran.passed);
        sum.add(ran);
    }
    Ok(sum)
}

/// A program that ends well and has not counted its checks did not run.
fn some(counts: Counts) -> Outcome {
    if counts.passed == 0 {
        return Err(Stop::Failed { counts, why: "no check was counted".to_owned() });
    }
    Ok(counts)
}

fn build(target: &Target) -> Result<PathBuf, Stop> {
    let failed = |why| Stop::Failed { counts: Counts::default(), why };
    // It is put where its linker script says.
    let mut cargo: Command =
        target.cargo("build", &["-Crelocation-model=static"]).map_err(failed)?;
    cargo.args(["--package", "pinfold-unikernel", "--profile", PROFILE]);
    cargo.args(["--target-dir", "target/boot"]);
    check(cargo, Show::OnFailure)?;
    Ok(root().join("target/boot").join(target.triple).join(PROFILE).join("pinfold-unikernel"))
}
