//! Computes with floating-point numbers.

#![no_std]

#[path = "services.rs"]
mod services;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.realmode")]
pub extern "C" fn planted(factor: &mut f64) {
    *factor = *factor * 1.5 + 1.0;
}
