//! Has one of the services where the other code is.

#![no_std]

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
pub extern "C" fn pinfold_realmode_lookup(value: u64) -> u64 {
    value
}
