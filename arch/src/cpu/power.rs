//! POWER: PIDR, LPIDR, LPCR, PTCR and `tlbie`.
//!
//! Power ISA 3.0B, Book III: section 5.9.3.3 for the invalidations, section 2.2 for LPCR, and section
//! 5.7.6 for the tables that PTCR leads to. The way from there to a live root goes through memory and
//! so is the caller's: the partition's entry of the table that
//! [`partition_table`](PowerHypervisor::partition_table) names, the process table that its second
//! doubleword names ([`RootTable::processes`]), and the process's entry there
//! ([`PowerRadix::from_process_entry`](crate::PowerRadix::from_process_entry)).
//!
//! The first POWER9s need more than the manual asks for after a `tlbie` (their errata say what); a
//! kernel that runs on them has that already, and should use its own.

#![cfg_attr(target_arch = "powerpc64", expect(unsafe_code, reason = "privileged registers"))]

#[cfg(target_arch = "powerpc64")]
use core::arch::asm;

use crate::addr::{PageShift, VirtAddr};
#[cfg(target_arch = "powerpc64")]
use crate::format::{FormatError, power_radix::RootTable};

/// Which translations an invalidation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its number, as PIDR has it.
    pub process: u32,
    /// The partition that it belongs to, as LPIDR has it: 0 for a host's own. A guest's kernel cannot
    /// name another than its own, whatever it says.
    pub partition: u32,
}

impl Process {
    /// Register RS: the process's number above the partition's.
    const fn operand(self) -> u64 {
        (self.process as u64) << 32 | self.partition as u64
    }
}

/// Register RB for all translations of a process: the selector IS, in bits 11:10, is 1.
const ALL_OF_PROCESS: u64 = 1 << 10;

/// Register RB for one page: its number, and its size in bits 7:5. `None` for a size that has no
/// encoding.
const fn page_operand(va: VirtAddr, shift: PageShift) -> Option<u64> {
    let size = match shift.raw() {
        12 => 0,
        16 => 5,
        21 => 1,
        30 => 2,
        _ => return None,
    };
    Some(va.align_down(shift).raw() | size << 5)
}

/// Proof that the caller runs on POWER in privileged state.
#[cfg(target_arch = "powerpc64")]
#[derive(Clone, Copy, Debug)]
pub struct PowerCpu(());

/// Reads a special purpose register.
#[cfg(target_arch = "powerpc64")]
macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: the token says that the privilege is enough, and reading changes nothing.
        unsafe {
            asm!(
                concat!("mfspr {}, ", $register),
                out(reg) value,
                options(nomem, nostack, preserves_flags)
            );
        }
        value
    }};
}

/// `tlbie` for translations of processes by a radix tree (PRS and R are 1), on all CPUs, with what
/// must stand around it. `$what` is RIC: 0 for translations alone, 2 also for what was read of
/// directories and process tables.
#[cfg(target_arch = "powerpc64")]
macro_rules! tlbie {
    ($what:literal, $rb:expr, $rs:expr) => {
        // SAFETY: the token says that the privilege is enough; dropping translations that are still
        // good costs time only.
        unsafe {
            asm!(
                "ptesync",
                concat!("tlbie {}, {}, ", $what, ", 1, 1"),
                "eieio",
                "tlbsync",
                "ptesync",
                in(reg) $rb,
                in(reg) $rs,
                options(nostack, preserves_flags)
            );
        }
    };
}

#[cfg(target_arch = "powerpc64")]
impl PowerCpu {
    /// Takes the caller's word for it.
    ///
    /// # Safety
    /// The code runs in privileged state on a CPU of Power ISA 3.0 or later that translates with a
    /// radix tree, for as long as the token is used; in a guest, the hypervisor lets it invalidate
    /// translations by itself.
    #[must_use]
    pub const unsafe fn assume() -> Self {
        Self(())
    }

    /// The number of the process whose addresses are translated: PIDR.
    #[must_use]
    pub fn process(self) -> u32 {
        low_word(read!("48"))
    }

    /// Drops every CPU's translations of the page of this size that holds `va`; all translations of
    /// the process where the size is none that a leaf can have. What was read of directories stays.
    pub fn invalidate(self, process: Process, va: VirtAddr, shift: PageShift) {
        match page_operand(va, shift) {
            Some(page) => tlbie!("0", page, process.operand()),
            None => self.invalidate_process(process),
        }
    }

    /// The same on this CPU alone, for the process and the partition that PIDR and LPIDR name.
    /// Nothing for a size that no leaf can have: a single CPU cannot drop a whole process at once.
    ///
    /// Whether the size was one.
    #[must_use = "what was not dropped is still used"]
    pub fn invalidate_here(self, va: VirtAddr, shift: PageShift) -> bool {
        let Some(page) = page_operand(va, shift) else { return false };
        let process = u64::from(self.process()) << 32;
        // SAFETY: as for `tlbie`.
        unsafe {
            asm!(
                "ptesync",
                // tlbiel RB, RS, 0, 1, 1: the assembler knows an older form only.
                ".long 0x7c000224 | 1 << 17 | 1 << 16 | {} << 11 | {} << 21",
                "ptesync",
                in(reg) page,
                in(reg) process,
                options(nostack, preserves_flags)
            );
        }
        true
    }

    /// Drops everything that any CPU holds of the process: translations, directory entries and its
    /// entry of the process table. For tables that are freed.
    pub fn invalidate_process(self, process: Process) {
        tlbie!("2", ALL_OF_PROCESS, process.operand());
    }
}

/// Proof that the caller runs on POWER in hypervisor state: on the bare machine, or as its
/// hypervisor.
#[cfg(target_arch = "powerpc64")]
#[derive(Clone, Copy, Debug)]
pub struct PowerHypervisor(());

#[cfg(target_arch = "powerpc64")]
impl PowerHypervisor {
    /// Takes the caller's word for it.
    ///
    /// # Safety
    /// The code runs in hypervisor state on a CPU of Power ISA 3.0 or later, for as long as the token
    /// is used.
    #[must_use]
    pub const unsafe fn assume() -> Self {
        Self(())
    }

    /// The number of the partition whose addresses are translated: LPIDR. 0 is the host itself.
    #[must_use]
    pub fn partition(self) -> u32 {
        low_word(read!("319"))
    }

    /// Where the partition table stands: PTCR.
    ///
    /// # Errors
    /// [`FormatError::NotRadix`] with LPCR if it says that the partition uses a hash table,
    /// [`FormatError::Root`] if reserved bits of PTCR are set.
    pub fn partition_table(self) -> Result<RootTable, FormatError> {
        /// LPCR: the host translates with a radix tree.
        const HR: u64 = 1 << 20;
        let lpcr = read!("318");
        if lpcr & HR == 0 {
            return Err(FormatError::NotRadix { raw: lpcr });
        }
        RootTable::partitions(read!("464"))
    }
}

/// The number in the low half of a register.
#[cfg(target_arch = "powerpc64")]
#[expect(clippy::cast_possible_truncation, reason = "the other half is reserved")]
const fn low_word(register: u64) -> u32 {
    register as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_and_its_size_share_a_register() {
        let operand = |va, shift| page_operand(VirtAddr::new(va), PageShift::new(shift).unwrap());
        // Bits 0 to 51 of the manual are the page, 52 and 53 the selector, 56 to 58 the size.
        assert_eq!(operand(0x000f_ffff_ffff_ffff, 12), Some(0x000f_ffff_ffff_f000));
        assert_eq!(operand(0x0000_0000_1234_5678, 16), Some(0x1234_00a0));
        assert_eq!(operand(0xc000_0000_1234_5678, 21), Some(0xc000_0000_1220_0020));
        assert_eq!(operand(0x0000_0012_7fff_ffff, 30), Some(0x0000_0012_4000_0040));
        for shift in (0..64).filter(|shift| ![12, 16, 21, 30].contains(shift)) {
            assert_eq!(operand(u64::MAX, shift), None);
        }
        assert_eq!(ALL_OF_PROCESS, 1 << (63 - 53));
    }

    #[test]
    fn the_process_stands_above_the_partition() {
        // Bits 0 to 31 of the manual are the process, 32 to 63 the partition.
        let process = Process { process: 0x1_2345, partition: 0xabc };
        assert_eq!(process.operand(), 0x0001_2345_0000_0abc);
        let largest = Process { process: u32::MAX, partition: 0 };
        assert_eq!(largest.operand(), 0xffff_ffff_0000_0000);
    }
}
