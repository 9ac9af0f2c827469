//! A device's registers.

#![expect(unsafe_code, reason = "registers are reached by volatile accesses to their addresses")]

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

/// Polls after which a device is taken for dead.
const PATIENCE: u32 = 10_000_000;

/// The registers of one device, by their offsets, in the byte order of the CPU.
#[derive(Debug)]
pub struct Registers {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address and a length that never change; each access is one load or store of a device's
// register, which is no memory of the program's.
unsafe impl Sync for Registers {}

impl Registers {
    /// The registers in the `bytes` from `base` on.
    ///
    /// # Safety
    /// These addresses are a device's registers, mapped for as long as the value is used, and no memory of
    /// the program's. What the device does when they are written, such as DMA, harms nobody's memory.
    ///
    /// # Panics
    /// If `base` is 0 or not aligned to 8 bytes.
    #[must_use]
    pub const unsafe fn new(base: usize, bytes: usize) -> Self {
        assert!(base.is_multiple_of(8), "registers are aligned");
        let Some(base) = NonNull::new(core::ptr::with_exposed_provenance_mut(base)) else {
            panic!("no registers are at 0")
        };
        Self { base, bytes }
    }

    /// # Panics
    /// If these are no registers of the device.
    #[must_use]
    pub fn read32(&self, at: usize) -> u32 {
        // SAFETY: a register, aligned, as checked; the maker vouched for its being mapped.
        unsafe { bus::read32(self.place(at)) }
    }

    /// # Panics
    /// As [`read32`](Self::read32).
    #[must_use]
    pub fn read64(&self, at: usize) -> u64 {
        // SAFETY: as in `read32`.
        unsafe { bus::read64(self.place(at)) }
    }

    /// Writes after everything that was written to memory before.
    ///
    /// # Panics
    /// As [`read32`](Self::read32).
    pub fn write32(&self, at: usize, value: u32) {
        fence(Ordering::SeqCst);
        // SAFETY: as in `read32`; the maker vouched for what the device does then.
        unsafe { bus::write32(self.place(at), value) }
    }

    /// As [`write32`](Self::write32).
    ///
    /// # Panics
    /// As [`read32`](Self::read32).
    pub fn write64(&self, at: usize, value: u64) {
        fence(Ordering::SeqCst);
        // SAFETY: as in `write32`.
        unsafe { bus::write64(self.place(at), value) }
    }

    fn place<T>(&self, at: usize) -> NonNull<T> {
        let size = size_of::<T>();
        assert!(at.is_multiple_of(size) && at + size <= self.bytes, "no register at {at:#x}");
        // SAFETY: inside the registers, as checked.
        unsafe { self.base.byte_add(at) }.cast()
    }
}

/// Waits until a device has done something; `false` if it does not in time.
#[must_use]
pub fn in_time(done: impl Fn() -> bool) -> bool {
    for _ in 0..PATIENCE {
        if done() {
            // What the device wrote before is read after.
            fence(Ordering::SeqCst);
            return true;
        }
        core::hint::spin_loop();
    }
    false
}

/// The same for what a device must do.
///
/// # Panics
/// If it does not.
pub fn wait(what: &str, done: impl Fn() -> bool) {
    assert!(in_time(done), "no answer: {what}");
}

/// The `bits` bits from `place` on.
///
/// # Panics
/// If they are more than an index holds.
#[must_use]
pub fn field(raw: u64, place: u32, bits: u32) -> usize {
    usize::try_from(raw >> place & ((1 << bits) - 1)).expect("few bits")
}

/// Accesses to registers; unsafe because nothing is checked.
#[cfg(not(target_arch = "powerpc64"))]
mod bus {
    use core::ptr::NonNull;

    pub(super) unsafe fn read32(at: NonNull<u32>) -> u32 {
        // SAFETY: the caller's.
        unsafe { at.read_volatile() }
    }

    pub(super) unsafe fn read64(at: NonNull<u64>) -> u64 {
        // SAFETY: the caller's.
        unsafe { at.read_volatile() }
    }

    pub(super) unsafe fn write32(at: NonNull<u32>, value: u32) {
        // SAFETY: the caller's.
        unsafe { at.write_volatile(value) }
    }

    pub(super) unsafe fn write64(at: NonNull<u64>, value: u64) {
        // SAFETY: the caller's.
        unsafe { at.write_volatile(value) }
    }
}

/// The same in hypervisor real mode, where ordinary accesses go through the caches.
#[cfg(target_arch = "powerpc64")]
mod bus {
    use core::arch::asm;
    use core::ptr::NonNull;

    pub(super) unsafe fn read32(at: NonNull<u32>) -> u32 {
        let value: u64;
        // SAFETY: the caller's.
        unsafe { asm!("lwzcix {}, 0, {}", out(reg) value, in(reg) at.as_ptr()) }
        value as u32
    }

    pub(super) unsafe fn read64(at: NonNull<u64>) -> u64 {
        let value;
        // SAFETY: the caller's.
        unsafe { asm!("ldcix {}, 0, {}", out(reg) value, in(reg) at.as_ptr()) }
        value
    }

    pub(super) unsafe fn write32(at: NonNull<u32>, value: u32) {
        // SAFETY: the caller's.
        unsafe { asm!("stwcix {}, 0, {}", in(reg) u64::from(value), in(reg) at.as_ptr()) }
    }

    pub(super) unsafe fn write64(at: NonNull<u64>, value: u64) {
        // SAFETY: the caller's.
        unsafe { asm!("stdcix {}, 0, {}", in(reg) value, in(reg) at.as_ptr()) }
    }
}
