//! x86-64: CR3, CR4, EFER and `invlpg`.

#![expect(unsafe_code, reason = "privileged registers, and the prefetch hint")]

use crate::addr::VirtAddr;
use crate::format::FormatError;
use crate::format::x86_64::X86_64;

/// Proof that the caller runs on x86-64 at privilege level 0.
#[derive(Clone, Copy, Debug)]
pub struct X86Cpu(());

impl X86Cpu {
    /// Takes the caller's word for it.
    ///
    /// # Safety
    /// The code runs at privilege level 0 in long mode, for as long as the token is used.
    #[must_use]
    pub const unsafe fn assume() -> Self {
        Self(())
    }

    /// The live page-table root and its format: CR3, and what CR4 and EFER say of levels, no-execute,
    /// protection keys and shadow stacks. `phys_bits` is the physical width and `encryption` the mask
    /// of encryption bits that CPUID reports, see [`X86_64::with_encryption`].
    ///
    /// # Errors
    /// [`FormatError::PhysBits`], [`FormatError::EncryptionMask`], [`FormatError::Root`].
    pub fn live(
        self,
        phys_bits: u8,
        encryption: u64,
    ) -> Result<(X86_64, crate::format::Table), FormatError> {
        use ::x86_64::registers::control::{Cr3, Cr4, Cr4Flags};
        use ::x86_64::registers::model_specific::{Efer, EferFlags};
        let cr4 = Cr4::read();
        let keys = Cr4Flags::PROTECTION_KEY_USER | Cr4Flags::PROTECTION_KEY_SUPERVISOR;
        let levels = if cr4.contains(Cr4Flags::L5_PAGING) { 5 } else { 4 };
        let format = X86_64::new(levels, phys_bits)?
            .with_no_execute(Efer::read().contains(EferFlags::NO_EXECUTE_ENABLE))
            .with_protection_keys(cr4.intersects(keys))
            .with_shadow_stacks(cr4.contains(Cr4Flags::CONTROL_FLOW_ENFORCEMENT))
            .with_encryption(encryption)?;
        let root = format.root(Cr3::read_raw().0.start_address().as_u64())?;
        Ok((format, root))
    }

    /// Drops this CPU's translations of the page that holds `va`.
    pub fn invalidate(self, va: VirtAddr) {
        ::x86_64::instructions::tlb::flush(::x86_64::VirtAddr::new_truncate(va.raw()));
    }
}

#[inline(always)]
pub(super) fn prefetch<T>(word: &T) {
    use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
    // SAFETY: a prefetch has no architectural effect and cannot fault, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(core::ptr::from_ref(word).cast()) }
}
