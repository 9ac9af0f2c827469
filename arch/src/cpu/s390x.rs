//! s390x: control registers 0 and 1, the facility list, `ptlb`, `idte` and `ipte`.
//!
//! Source: z/Architecture Principles of Operation (SA22-7832), chapter 10, "Control Instructions",
//! and chapter 7 for `STORE FACILITY LIST EXTENDED`.

#![expect(unsafe_code, reason = "privileged instructions")]

use core::arch::asm;

use crate::addr::VirtAddr;
use crate::format::s390x::{Facilities, S390x};
use crate::format::{FormatError, Table};

/// `idte` drops what the TLB holds of an address space, and touches no table.
const CLEARING_BY_ASCE: u64 = 1 << (63 - 52);
/// Words of the facility list that matter to page tables.
const FACILITY_WORDS: usize = 3;

/// Proof that the caller runs on s390x in supervisor state.
#[derive(Clone, Copy, Debug)]
pub struct S390xCpu(());

impl S390xCpu {
    /// Takes the caller's word for it.
    ///
    /// # Safety
    /// The code runs in supervisor state on a CPU that stores its facility list and has
    /// `idte`, for as long as the token is used.
    #[must_use]
    pub const unsafe fn assume() -> Self {
        Self(())
    }

    /// The primary address space: its format, with the facilities that are in use, and its top table.
    /// That is where user code runs, and whose addresses the instructions without a prefix use.
    ///
    /// # Errors
    /// [`FormatError::RealSpace`].
    pub fn live(self) -> Result<(S390x, Table), FormatError> {
        let [cr0, primary] = self.control_registers();
        S390x::from_asce(primary, Facilities::in_use(&self.facility_list(), cr0))
    }

    /// Drops this CPU's translations, of all address spaces.
    pub fn invalidate_all(self) {
        // SAFETY: the token vouches for supervisor state; purging the TLB changes no memory.
        unsafe { asm!("ptlb", options(nostack, preserves_flags)) }
    }

    /// Drops every CPU's translations of the address space that `asce` designates. The tables stay
    /// as they are: entries that are valid are found again.
    pub fn invalidate_space(self, asce: u64) {
        // SAFETY: the token vouches for supervisor state and the instruction; with clearing by
        // ASCE it changes no memory.
        unsafe {
            asm!(
                "idte %r0, {asce}, {what}",
                asce = in(reg) asce,
                what = in(reg_addr) CLEARING_BY_ASCE,
                options(nostack),
            );
        }
    }

    /// Makes the entry of the page table for `va` invalid, and drops every CPU's translations that
    /// were made from it: the one way to change an entry that a CPU may be using. The entry's
    /// other bits stay.
    ///
    /// # Safety
    /// `table` is a page table, and the caller may write to it.
    pub unsafe fn invalidate_page(self, table: &Table, va: VirtAddr) {
        // SAFETY: the token vouches for supervisor state, the caller for the entry that is changed.
        unsafe {
            asm!(
                "ipte {origin}, {va}",
                origin = in(reg) table.base.raw(),
                va = in(reg) va.raw(),
                options(nostack),
            );
        }
    }

    /// Control registers 0 and 1.
    fn control_registers(self) -> [u64; 2] {
        let mut registers = [0; 2];
        // SAFETY: the token vouches for supervisor state; the two registers fit the array.
        unsafe {
            asm!(
                "stctg %c0, %c1, 0({})",
                in(reg_addr) &raw mut registers,
                options(nostack, preserves_flags),
            );
        }
        registers
    }

    fn facility_list(self) -> [u64; FACILITY_WORDS] {
        let mut words = [0; FACILITY_WORDS];
        // SAFETY: the token vouches for the instruction. Register 0 has the number of the last word
        // that there is room for, and fewer may be stored.
        unsafe {
            asm!(
                "stfle 0({})",
                in(reg_addr) &raw mut words,
                inout("r0") FACILITY_WORDS as u64 - 1 => _,
                options(nostack),
            );
        }
        words
    }
}
