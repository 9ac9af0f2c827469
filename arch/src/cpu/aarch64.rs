//! aarch64: TTBR0.

#![expect(unsafe_code, reason = "the token vouches for the exception level")]

use aarch64_cpu::registers::TTBR0_EL1;

use crate::addr::PhysAddr;

/// Proof that the caller runs on aarch64 at exception level 1 or above.
#[derive(Clone, Copy, Debug)]
pub struct Aarch64Cpu(());

impl Aarch64Cpu {
    /// Takes the caller's word for it.
    ///
    /// # Safety
    /// The code runs at EL1 or above, for as long as the token is used.
    #[must_use]
    pub const unsafe fn assume() -> Self {
        Self(())
    }

    /// The base of the table that translates the lower half of the address space, where physical
    /// addresses have at most 48 bits (with 52 the register keeps bits 51:48 at its low end).
    #[must_use]
    pub fn lower_root(self) -> PhysAddr {
        PhysAddr::new(TTBR0_EL1.get_baddr())
    }
}
