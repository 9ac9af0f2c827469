//! The tools that tiers need, how to see that one is there, and where it comes from.

use std::path::Path;
use std::process::Stdio;

use crate::audit::Objdump;
use crate::capture::arch::{self, Arch};
use crate::capture::{self, kernel};
use crate::command::command;
use crate::toolchain::{
    self, AARCH64_BARE, AARCH64_LINUX, POWERPC64_BARE, POWERPC64LE_LINUX, S390X_BARE, S390X_LINUX,
    X86_64_BARE,
};

/// How to see that a tool is there.
#[derive(Debug)]
pub(crate) enum Probe {
    /// This program runs with these arguments.
    Runs(&'static str, &'static [&'static str]),
    /// This file exists.
    File(&'static str),
    /// This function says so.
    Asks(fn() -> bool),
}

/// Where a tool comes from.
#[derive(Debug)]
pub(crate) enum From {
    /// Packages of Debian, a blank between them.
    Debian(&'static str),
    /// The same, or what the second text says.
    DebianOr(&'static str, &'static str),
    /// `cargo install`: crate and version.
    Crate(&'static str, &'static str),
    /// This command.
    Command(&'static str),
    /// Nothing that setup could install; the text says what to do.
    Hand(&'static str),
}

/// A tool that a tier cannot do without.
#[derive(Debug)]
pub(crate) struct Need {
    pub(crate) name: &'static str,
    pub(crate) probe: Probe,
    pub(crate) from: From,
}

impl Need {
    const fn debian(name: &'static str, package: &'static str) -> Self {
        Self { name, probe: Probe::Runs(name, &["--version"]), from: From::Debian(package) }
    }

    pub(crate) fn present(&self) -> bool {
        match self.probe {
            Probe::File(path) => Path::new(path).exists(),
            Probe::Asks(present) => present(),
            Probe::Runs(program, args) => command(program, args)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success()),
        }
    }

    /// One line: what is missing and what brings it.
    pub(crate) fn missing(&self) -> String {
        match self.from {
            From::Debian(packages) => format!("{} is missing (Debian: {packages})", self.name),
            From::DebianOr(packages, other) => {
                format!("{} is missing (Debian: {packages}; or {other})", self.name)
            }
            From::Crate(name, version) => {
                format!("{} is missing (cargo install --locked {name}@{version})", self.name)
            }
            From::Command(what) | From::Hand(what) => {
                format!("{} is missing ({what})", self.name)
            }
        }
    }
}

pub(crate) const RUSTFMT: Need = Need {
    name: "rustfmt",
    probe: Probe::Runs("cargo", &["fmt", "--version"]),
    from: From::Hand("rustup component add rustfmt"),
};

pub(crate) const CLIPPY: Need = Need {
    name: "clippy",
    probe: Probe::Runs("cargo", &["clippy", "--version"]),
    from: From::Hand("rustup component add clippy"),
};

/// Not in any tier's list: without it `cargo test` runs the same tests.
pub(crate) const NEXTEST: Need = Need {
    name: "cargo-nextest",
    probe: Probe::Runs("cargo", &["nextest", "--version"]),
    from: From::Crate("cargo-nextest", "0.9.151"),
};

/// libfuzzer-sys compiles C++ in its build script.
pub(crate) const CXX: Need = Need::debian("c++", "g++");
pub(crate) const CC: Need = Need::debian("cc", "gcc");
pub(crate) const LIBC: Need = Need {
    name: "the C library's headers",
    probe: Probe::File("/usr/include/stdio.h"),
    from: From::Debian("libc6-dev"),
};
pub(crate) const VALGRIND: Need = Need::debian("valgrind", "valgrind");

/// Packs the modules of kernels since 6.12.
pub(crate) const XZ: Need = Need::debian("xz", "xz-utils");
pub(crate) const MKFS: Need = Need {
    name: "mkfs.ext4",
    probe: Probe::File("/usr/sbin/mkfs.ext4"),
    from: From::Debian("e2fsprogs"),
};

/// What captures want beside an emulator, a compiler and a kernel.
macro_rules! capture {
    ($arch:expr, $compiler:expr, $name:literal) => {
        &[
            &Need::debian($arch.qemu.0, $arch.qemu.1),
            &$compiler,
            &XZ,
            &MKFS,
            &Need {
                name: concat!("a kernel for ", $name),
                probe: Probe::Asks(|| has_kernel(&$arch)),
                from: From::Command(concat!("cargo xtask capture --fetch --arch ", $name)),
            },
        ]
    };
}

pub(crate) const CAPTURE_X86_64: &[&Need] = capture!(arch::X86_64, CC, "x86_64");
pub(crate) const CAPTURE_AARCH64: &[&Need] =
    capture!(arch::AARCH64, cross(&arch::AARCH64), "aarch64");
pub(crate) const CAPTURE_S390X: &[&Need] = capture!(arch::S390X, cross(&arch::S390X), "s390x");
pub(crate) const CAPTURE_POWERPC64LE: &[&Need] =
    capture!(arch::POWERPC64LE, cross(&arch::POWERPC64LE), "powerpc64le");

/// Kernels are packages that are unpacked under `target`, never installed.
fn has_kernel(arch: &Arch) -> bool {
    !kernel::unpacked(&capture::kernels(arch)).is_empty()
}

const fn cross(arch: &Arch) -> Need {
    Need::debian(arch.cross.0, arch.cross.1)
}

/// Disassembles for every machine that the audit knows.
pub(crate) const OBJDUMP: Need = Need {
    name: "llvm-objdump 19 or newer",
    probe: Probe::Asks(|| Objdump::find().is_some()),
    from: From::Debian("llvm-19"),
};

/// A Rust for the machines that the audit builds for.
pub(crate) const BARE_RUST: Need = Need {
    name: "a Rust for machines without an operating system",
    probe: Probe::Asks(|| toolchain::BARE.iter().all(|target| target.able())),
    from: From::Debian(toolchain::PACKAGES),
};

pub(crate) const NIGHTLY: Need = Need {
    name: "nightly Rust",
    probe: Probe::Runs("rustup", &["run", "nightly", "rustc", "--version"]),
    from: From::Hand("rustup toolchain install nightly"),
};

pub(crate) const CARGO_FUZZ: Need = Need {
    name: "cargo-fuzz",
    probe: Probe::Runs("cargo", &["fuzz", "--version"]),
    from: From::Crate("cargo-fuzz", "0.13.2"),
};

pub(crate) const CARGO_DENY: Need = Need {
    name: "cargo-deny",
    probe: Probe::Runs("cargo", &["deny", "--version"]),
    from: From::Crate("cargo-deny", "0.20.2"),
};

/// A Rust that builds for another CPU.
const fn rust(name: &'static str, able: fn() -> bool) -> Need {
    let from = From::DebianOr(toolchain::PACKAGES, toolchain::OTHERWISE);
    Need { name, probe: Probe::Asks(able), from }
}

/// The C library of another CPU: programs are linked with it and run on it.
const fn cross_libc(name: &'static str, file: &'static str, package: &'static str) -> Need {
    Need { name, probe: Probe::File(file), from: From::Debian(package) }
}

pub(crate) const S390X: &[&Need] = &[
    &rust("Rust for s390x", || S390X_LINUX.able()),
    &Need::debian("s390x-linux-gnu-gcc", "gcc-s390x-linux-gnu"),
    &cross_libc("glibc for s390x", "/usr/s390x-linux-gnu/lib/crt1.o", "libc6-dev-s390x-cross"),
    &Need::debian("qemu-s390x", "qemu-user"),
];
pub(crate) const POWERPC64LE: &[&Need] = &[
    &rust("Rust for powerpc64le", || POWERPC64LE_LINUX.able()),
    &Need::debian("powerpc64le-linux-gnu-gcc", "gcc-powerpc64le-linux-gnu"),
    &cross_libc(
        "glibc for powerpc64le",
        "/usr/powerpc64le-linux-gnu/lib/crt1.o",
        "libc6-dev-ppc64el-cross",
    ),
    &Need::debian("qemu-ppc64le", "qemu-user"),
];
pub(crate) const AARCH64: &[&Need] = &[
    &rust("Rust for aarch64", || AARCH64_LINUX.able()),
    &Need::debian("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    &cross_libc("glibc for aarch64", "/usr/aarch64-linux-gnu/lib/crt1.o", "libc6-dev-arm64-cross"),
    &Need::debian("qemu-aarch64", "qemu-user"),
];

/// Links programs for machines without an operating system.
const LLD: Need = Need::debian("ld.lld-19", "lld-19");

pub(crate) const BOOT_X86_64: &[&Need] = &[
    &rust("Rust for x86_64 without an operating system", || X86_64_BARE.able()),
    &LLD,
    &Need::debian(arch::X86_64.qemu.0, arch::X86_64.qemu.1),
];
pub(crate) const BOOT_AARCH64: &[&Need] = &[
    &rust("Rust for aarch64 without an operating system", || AARCH64_BARE.able()),
    &LLD,
    &Need::debian(arch::AARCH64.qemu.0, arch::AARCH64.qemu.1),
];
pub(crate) const BOOT_POWERPC64: &[&Need] = &[
    &rust("Rust for big-endian POWER", || POWERPC64_BARE.able()),
    &LLD,
    &Need::debian(arch::POWERPC64LE.qemu.0, arch::POWERPC64LE.qemu.1),
];
pub(crate) const BOOT_S390X: &[&Need] = &[
    &rust("Rust for s390x without an operating system", || S390X_BARE.able()),
    &LLD,
    &Need::debian(arch::S390X.qemu.0, arch::S390X.qemu.1),
];
