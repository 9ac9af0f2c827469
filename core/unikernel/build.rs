//! What a program for a machine without an operating system is told: that it is one, and where it lies in memory.

use std::env;

fn main() {
    let variable = |name| env::var(name).unwrap_or_default();
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(bare)");
    let arch = variable("CARGO_CFG_TARGET_ARCH");
    // Big-endian POWER has no target without an operating system that lld could link.
    let power = arch == "powerpc64" && variable("CARGO_CFG_TARGET_ENDIAN") == "big";
    if variable("CARGO_CFG_TARGET_OS") != "none" && !power {
        return;
    }
    println!("cargo:rustc-cfg=bare");
    let script = format!("{}/src/{arch}/link.ld", variable("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    println!("cargo:rustc-link-arg-bins=--no-dynamic-linker");
    if power {
        // QEMU enters an ELF file somewhere else.
        println!("cargo:rustc-link-arg-bins=--oformat=binary");
    }
}
