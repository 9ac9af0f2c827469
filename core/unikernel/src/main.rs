//! The program: starts on a machine without an operating system, looks which IOMMU there is, and plays the
//! scenario. See the package's README.

#![cfg_attr(bare, no_std, no_main)]

#[cfg(all(bare, target_arch = "aarch64"))]
mod aarch64;
#[cfg(all(bare, target_arch = "aarch64"))]
use aarch64 as machine;
#[cfg(all(bare, target_arch = "powerpc64"))]
mod powerpc64;
#[cfg(all(bare, target_arch = "powerpc64"))]
use powerpc64 as machine;
#[cfg(all(bare, target_arch = "s390x"))]
mod s390x;
#[cfg(all(bare, target_arch = "s390x"))]
use s390x as machine;
#[cfg(all(bare, target_arch = "x86_64"))]
mod x86_64;
#[cfg(all(bare, target_arch = "x86_64"))]
use x86_64 as machine;

#[cfg(not(bare))]
fn main() {
    println!("This runs on machines without an operating system: cargo xtask test boot");
}

#[cfg(bare)]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    use core::fmt::Write;
    // A console that does not take it would not take the complaint.
    let _ = writeln!(machine::Console, "{info}\ntest result: FAILED. 0 passed; 1 failed");
    machine::exit(false)
}
