//! Instructions without a name in the assembler, all for the kernel alone. Each gives the condition code,
//! but for those that load.

#![expect(unsafe_code, reason = "privileged instructions")]

use core::arch::asm;

/// Calls the service processor with a block in memory.
pub(super) fn servc(command: u64, block: u64) -> u8 {
    let code: u64;
    // SAFETY: the block is a page of `low`, of the form that the caller says.
    unsafe {
        asm!(".long 0xb2200023", "ipm %r5", in("r2") command, in("r3") block, lateout("r5") code);
    }
    condition(code)
}

/// Calls logical processors about PCI, with a block in memory.
pub(super) fn clp(block: u64) -> u8 {
    let code: u64;
    // SAFETY: as in `servc`.
    unsafe { asm!(".long 0xb9a00202", "ipm %r5", in("r2") block, lateout("r5") code) }
    condition(code)
}

/// Calls the channel subsystem with a page.
pub(super) fn chsc(page: u64) -> u8 {
    let code: u64;
    // SAFETY: as in `servc`.
    unsafe { asm!(".long 0xb25f0020", "ipm %r5", in("r2") page, lateout("r5") code) }
    condition(code)
}

/// Stores into a PCI function's space: what, and where.
pub(super) fn pcistg(value: u64, place: u64, offset: u64) -> u8 {
    let code: u64;
    // SAFETY: what the function does then is bounded by its translation.
    unsafe {
        asm!(".long 0xb9d00042", "ipm %r5", in("r4") value, inout("r2") place => _, in("r3") offset,
            lateout("r5") code);
    }
    condition(code)
}

/// Loads from a PCI function's space.
pub(super) fn pcilg(place: u64, offset: u64) -> (u8, u64) {
    let (code, value): (u64, u64);
    // SAFETY: loads only.
    unsafe {
        asm!(".long 0xb9d20042", "ipm %r5", lateout("r4") value, inout("r2") place => _,
            in("r3") offset, lateout("r5") code);
    }
    (condition(code), value)
}

/// Has a function's translations of a range read anew.
pub(super) fn rpcit(handle: u64, start: u64, bytes: u64) -> u8 {
    let code: u64;
    // SAFETY: the tables are in the memory that is for them.
    unsafe {
        asm!(".long 0xb9d30042", "ipm %r5", inout("r4") handle => _, in("r2") start,
            in("r3") bytes, lateout("r5") code);
    }
    condition(code)
}

/// Changes how a function works, by a block in memory.
pub(super) fn mpcifc(request: u64, block: u64) -> u8 {
    let code: u64;
    // SAFETY: as in `servc`.
    unsafe {
        asm!(".short 0xe320, 0x3000, 0x00d0", "ipm %r5", inout("r2") request => _, in("r3") block,
            lateout("r5") code);
    }
    condition(code)
}

/// Says how a function works, in a block in memory.
pub(super) fn stpcifc(request: u64, block: u64) -> u8 {
    let code: u64;
    // SAFETY: as in `servc`.
    unsafe {
        asm!(".short 0xe320, 0x3000, 0x00d4", "ipm %r5", inout("r2") request => _, in("r3") block,
            lateout("r5") code);
    }
    condition(code)
}

/// Waits with all interrupts off, which ends QEMU; it says well only at address 0xfff.
pub(crate) fn stop(good: bool) -> ! {
    let state = [0x0002_0001_8000_0000_u64, if good { 0xfff } else { 0 }];
    // SAFETY: nothing comes after it.
    unsafe { asm!("lpswe 0({})", in(reg_addr) &raw const state, options(noreturn)) }
}

/// What IPM says: bits 29:28 of the low half.
const fn condition(code: u64) -> u8 {
    (code >> 28 & 3) as u8
}
