//! Where the program lies in the memory of a machine without an operating system.

use std::env;

fn main() {
    let variable = |name| env::var(name).unwrap_or_default();
    println!("cargo:rerun-if-changed=build.rs");
    if variable("CARGO_CFG_TARGET_OS") != "none" {
        return;
    }
    let here = variable("CARGO_MANIFEST_DIR");
    let script = format!("{here}/src/{}/link.ld", variable("CARGO_CFG_TARGET_ARCH"));
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    println!("cargo:rustc-link-arg-bins=--no-dynamic-linker");
}
