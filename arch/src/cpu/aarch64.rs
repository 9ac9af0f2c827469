//! aarch64: TTBR0, TTBR1, TCR, the physical address range and `tlbi`.
//!
//! Source: Arm Architecture Reference Manual for A-profile (DDI 0487), D8.17 "TLB maintenance" for
//! the operand and the barriers around it, D24.2 for the registers.

#![expect(unsafe_code, reason = "the token vouches for the exception level; TLB maintenance")]

use core::arch::asm;

use aarch64_cpu::asm::barrier::{ISH, ISHST, SY, dsb, isb};
use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, Readable, TCR_EL1, TTBR0_EL1, TTBR1_EL1};

use crate::addr::VirtAddr;
use crate::format::aarch64::{Aarch64, output_bits};
use crate::format::{FormatError, Table};

/// Proof that the caller runs on aarch64 at exception level 1 or above.
#[derive(Clone, Copy, Debug)]
pub struct Aarch64Cpu(());

impl Aarch64Cpu {
    /// Takes the caller's word for it.
    ///
    /// # Safety
    /// The code runs at EL1, or at EL2 with HCR_EL2.E2H and TGE set, where the same names mean EL2's
    /// own registers and translations, for as long as the token is used.
    #[must_use]
    pub const unsafe fn assume() -> Self {
        Self(())
    }

    /// How wide physical addresses are on this CPU, in bits: ID_AA64MMFR0_EL1.PARange.
    #[must_use]
    pub fn phys_bits(self) -> u8 {
        output_bits(ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange))
    }

    /// The live root of the lower half of the address space, where user code lives, and its format:
    /// TTBR0 and TCR.
    ///
    /// A kernel that hides itself from user code puts another TTBR0 in place while it runs; then this
    /// is that one.
    ///
    /// # Errors
    /// Those of [`Aarch64::from_tcr`] and of [`Aarch64::root`].
    pub fn live_lower(self) -> Result<(Aarch64, Table), FormatError> {
        self.live(false, TTBR0_EL1.get())
    }

    /// The live root of the upper half, where the kernel lives, and its format: TTBR1 and TCR.
    ///
    /// # Errors
    /// Those of [`Aarch64::from_tcr`] and of [`Aarch64::root`].
    pub fn live_upper(self) -> Result<(Aarch64, Table), FormatError> {
        self.live(true, TTBR1_EL1.get())
    }

    fn live(self, upper: bool, ttbr: u64) -> Result<(Aarch64, Table), FormatError> {
        let format = Aarch64::from_tcr(TCR_EL1.get(), upper, self.phys_bits())?;
        Ok((format, format.root(ttbr)?))
    }

    /// Drops every CPU's translations of the page that holds `va`, in all address spaces (ASIDs), and
    /// what was read of the tables on the way there. When it returns, stores to page-table entries
    /// before it are seen by every walk, and no access is left that used an older translation.
    pub fn invalidate(self, va: VirtAddr) {
        // Stores to the tables come first.
        dsb(ISHST);
        // SAFETY: the token vouches for the exception level; dropping translations that are still
        // good costs time only.
        unsafe {
            asm!("tlbi vaae1is, {}", in(reg) operand(va), options(nostack, preserves_flags));
        }
        dsb(ISH);
        isb(SY);
    }
}

/// The page's number in bits 43:0, whatever the granule. No level is named in 47:44: any.
const fn operand(va: VirtAddr) -> u64 {
    va.raw() >> 12 & ((1 << 44) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operand_has_the_page_and_nothing_else() {
        // Bits 55:12 of the address; a tag above them is not part of it.
        assert_eq!(operand(VirtAddr::new(0xa500_1234_5678_9abc)), 0x012_3456_789);
        assert_eq!(operand(VirtAddr::new(u64::MAX)), 0xfff_ffff_ffff);
    }
}
