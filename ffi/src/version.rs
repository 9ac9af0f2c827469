//! Which version this is.

#![expect(unsafe_code, reason = "exports a function to C by name")]

/// Version of this interface. It rises when a program that was built against an older header would
/// no longer work.
pub const PINFOLD_ABI_VERSION: u32 = 1;

/// A decimal number; the version's parts in Cargo.toml are nothing else.
const fn number(text: &str) -> u32 {
    let (mut value, mut at) = (0, 0);
    while at < text.len() {
        value = value * 10 + (text.as_bytes()[at] - b'0') as u32;
        at += 1;
    }
    value
}

const VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
    | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
    | number(env!("CARGO_PKG_VERSION_PATCH"));

/// The version of the library that is linked: major in bits 16 and up, minor in bits 8 to 15, patch
/// in bits 0 to 7. Compare it with PINFOLD_VERSION, which is that of the header.
///
/// # Context
/// Any.
#[unsafe(no_mangle)]
pub extern "C" fn pinfold_version() -> u32 {
    VERSION
}
