//! Bare metal: a panic becomes the embedder's to deal with.

#![expect(unsafe_code, reason = "calls a function that C provides")]

use core::panic::PanicInfo;

unsafe extern "C" {
    /// Stops the program. Provided by the embedder; must not return.
    fn pinfold_host_panic() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: the embedder links a function of this name and signature, as the header says.
    unsafe { pinfold_host_panic() }
}
