//! The targets that are built for here, each with what it alone must be told.

use super::{Library, Target};

/// Programs under Linux, run by QEMU on the C library of Debian's cross packages.
const fn linux(triple: &'static str, linker: &'static str, runner: &'static str) -> Target {
    Target { triple, library: Library::Std, rustflags: &[], linker, runner }
}

pub(crate) const S390X_LINUX: Target =
    linux("s390x-unknown-linux-gnu", "s390x-linux-gnu-gcc", "qemu-s390x -L /usr/s390x-linux-gnu");
pub(crate) const POWERPC64LE_LINUX: Target = linux(
    "powerpc64le-unknown-linux-gnu",
    "powerpc64le-linux-gnu-gcc",
    "qemu-ppc64le -L /usr/powerpc64le-linux-gnu",
);
pub(crate) const AARCH64_LINUX: Target = linux(
    "aarch64-unknown-linux-gnu",
    "aarch64-linux-gnu-gcc",
    "qemu-aarch64 -L /usr/aarch64-linux-gnu",
);

/// Without an operating system, linked by Debian's lld.
const fn bare(triple: &'static str, rustflags: &'static [&'static str]) -> Target {
    Target { triple, library: Library::Core, rustflags, linker: "ld.lld-19", runner: "" }
}

/// No vector registers: a kernel, and real mode, may not have them. lld takes no hint from its name.
const POWER: &[&str] = &["-Clinker-flavor=ld.lld", "-Ctarget-feature=-vsx,-altivec"];

pub(crate) const X86_64_BARE: Target = bare("x86_64-unknown-none", &["-Clinker-flavor=ld.lld"]);
/// Atomics in line: the helpers that choose at run time want an operating system to ask.
pub(crate) const AARCH64_BARE: Target = bare(
    "aarch64-unknown-none-softfloat",
    &["-Clinker-flavor=ld.lld", "-Ctarget-feature=-outline-atomics"],
);
pub(crate) const S390X_BARE: Target =
    bare("s390x-unknown-none-softfloat", &["-Clinker-flavor=ld.lld"]);
/// Big endian. Not `-gnu`, whose older calling convention lld does not link.
pub(crate) const POWERPC64_BARE: Target = bare("powerpc64-unknown-linux-musl", POWER);
pub(crate) const POWERPC64LE_BARE: Target = bare("powerpc64le-unknown-linux-gnu", POWER);

/// Every target without an operating system.
pub(crate) const BARE: &[&Target] =
    &[&X86_64_BARE, &AARCH64_BARE, &S390X_BARE, &POWERPC64_BARE, &POWERPC64LE_BARE];
