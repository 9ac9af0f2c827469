//! Programs without an operating system, each on the machine that QEMU makes for it.

use crate::command::{Show, check, check_code, command, root};
use crate::counts::{Counts, Outcome, Stop};
use crate::toolchain::{AARCH64_BARE, POWERPC64_BARE, S390X_BARE, Target, X86_64_BARE};

/// Optimised, but with every assertion.
const PROFILE: &str = "checked";

/// Seconds after which a machine is taken for dead.
const PATIENCE: &str = "180";

/// A kind of machine.
struct Machine {
    target: &'static Target,
    rustflags: &'static [&'static str],
    qemu: &'static str,
    arguments: &'static [&'static [&'static str]],
    /// The device whose DMA is looked at.
    device: &'static [&'static str],
    /// What QEMU ends with if the program is content.
    success: i32,
}

/// It is put where its linker script says.
const STATIC: &str = "-Crelocation-model=static";

/// No network either: its adapters want ROMs, which are a package of their own.
const SILENT: &[&str] = &["-display", "none", "-nic", "none", "-no-reboot", "-serial", "stdio"];

/// With every feature, and the memory that the program expects.
const FULL: &[&str] = &["-cpu", "max", "-m", "1G"];

/// One instruction counts as 1024 ns, and nobody sleeps: a device's delays pass fast, and every run is alike.
const CLOCK: &[&str] = &["-icount", "shift=10,sleep=off"];

/// QEMU's, with addresses of 64 bits.
const EDU: &[&str] = &["-device", "edu,dma_mask=0xffffffffffffffff"];

const X86_64: Machine = Machine {
    target: &X86_64_BARE,
    rustflags: &[STATIC],
    qemu: "qemu-system-x86_64",
    arguments: &[
        SILENT,
        FULL,
        CLOCK,
        &["-M", "q35", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
    ],
    device: EDU,
    success: 33,
};

const AARCH64: Machine = Machine {
    target: &AARCH64_BARE,
    rustflags: &[STATIC],
    qemu: "qemu-system-aarch64",
    arguments: &[SILENT, FULL, CLOCK, &["-semihosting-config", "enable=on,target=native"]],
    device: EDU,
    success: 0,
};

/// One host bridge; no counted clock, which its timers do not take. The firmware wants a controller to switch
/// the machine off, and that is all that QEMU's exit code says: the checks' number must do.
const POWERPC64: Machine = Machine {
    target: &POWERPC64_BARE,
    rustflags: &[STATIC, "-Clink-self-contained=no"],
    qemu: "qemu-system-ppc64",
    arguments: &[
        SILENT,
        &["-nodefaults", "-smp", "1", "-m", "2G"],
        &["-device", "ipmi-bmc-sim,id=bmc0", "-device", "isa-ipmi-bt,bmc=bmc0,irq=10"],
        &["-device", "pnv-phb,chip-id=0,index=0,id=p0"],
        &["-device", "pnv-phb-root-port,bus=p0,id=rp0"],
    ],
    device: &["-device", "edu,bus=rp0,dma_mask=0xffffffffffffffff"],
    success: 0,
};

/// Its disk holds the program at first, because that is a file that there is; what is written to it is lost. Only
/// with an `action` does the exit code say something.
const S390X: Machine = Machine {
    target: &S390X_BARE,
    rustflags: &[STATIC],
    qemu: "qemu-system-s390x",
    arguments: &[SILENT, FULL, &["-smp", "1", "-action", "panic=exit-failure"]],
    device: &[
        "-drive",
        "file=PROGRAM,if=none,id=disk,format=raw,snapshot=on",
        "-device",
        "virtio-blk-pci,drive=disk,iommu_platform=on,disable-legacy=on",
    ],
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

pub(super) fn powerpc64() -> Outcome {
    run(&POWERPC64, [["-M", "powernv9"]])
}

pub(super) fn s390x() -> Outcome {
    run(&S390X, [["-M", "s390-ccw-virtio"]])
}

/// Builds the program and runs it once with each of these arguments.
fn run<const N: usize>(machine: &Machine, variants: [[&str; 2]; N]) -> Outcome {
    let program = build(machine)?;
    let device = machine.device.iter().map(|word| word.replace("PROGRAM", &program));
    let mut sum = Counts::default();
    for variant in variants {
        let mut qemu = command("timeout", &[PATIENCE, machine.qemu]);
        qemu.args(machine.arguments.concat()).args(variant).args(device.clone());
        qemu.arg("-kernel").arg(&program);
        let ran = check_code(qemu, Show::OnFailure, machine.success).and_then(some)?;
        println!("   {}: {} checks", variant.join(" "), ran.passed);
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

fn build(machine: &Machine) -> Result<String, Stop> {
    let failed = |why| Stop::Failed { counts: Counts::default(), why };
    let mut cargo = machine.target.cargo("build", machine.rustflags).map_err(failed)?;
    cargo.args(["--package", "pinfold-unikernel", "--profile", PROFILE]);
    cargo.args(["--target-dir", "target/boot"]);
    check(cargo, Show::OnFailure)?;
    let built = root().join("target/boot").join(machine.target.triple);
    Ok(built.join(PROFILE).join("pinfold-unikernel").display().to_string())
}
