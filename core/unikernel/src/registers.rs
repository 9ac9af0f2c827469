//! A device's registers.

#![expect(unsafe_code, reason = "registers are reached by volatile accesses to their addresses")]

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

/// Polls after which a device is taken for dead.
const PATIENCE: u32 = 10_000_000;

/// The registers of one device, by their offsets. Little-endian, like the CPUs here.
#[derive(Debug)]
pub struct Registers {
    base: NonNull<u8>,
    bytes: usize,
}

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
        unsafe { self.place::<u32>(at).read_volatile() }
    }

    /// # Panics
    /// As [`read32`](Self::read32).
    #[must_use]
    pub fn read64(&self, at: usize) -> u64 {
        // SAFETY: as in `read32`.
        unsafe { self.place::<u64>(at).read_volatile() }
    }

    /// Writes after everything that was written to memory before.
    ///
    /// # Panics
    /// As [`read32`](Self::read32).
    pub fn write32(&self, at: usize, value: u32) {
        fence(Ordering::SeqCst);
        // SAFETY: as in `read32`; the maker vouched for what the device does then.
        unsafe { self.place::<u32>(at).write_volatile(value) }
    }

    /// As [`write32`](Self::write32).
    ///
    /// # Panics
    /// As [`read32`](Self::read32).
    pub fn write64(&self, at: usize, value: u64) {
        fence(Ordering::SeqCst);
        // SAFETY: as in `write32`.
        unsafe { self.place::<u64>(at).write_volatile(value) }
    }

    fn place<T>(&self, at: usize) -> NonNull<T> {
        let size = size_of::<T>();
        assert!(at.is_multiple_of(size) && at + size <= self.bytes, "no register at {at:#x}");
        // SAFETY: inside the registers, as checked.
        unsafe { self.base.byte_add(at) }.cast()
    }
}

/// Waits until a device has done something.
///
/// # Panics
/// If it never does.
pub fn wait(what: &str, done: impl Fn() -> bool) {
    for _ in 0..PATIENCE {
        if done() {
            // What the device wrote before is read after.
            fence(Ordering::SeqCst);
            return;
        }
        core::hint::spin_loop();
    }
    panic!("no answer: {what}");
}

/// The `bits` bits from `place` on.
///
/// # Panics
/// If they are more than an index holds.
#[must_use]
pub fn field(raw: u64, place: u32, bits: u32) -> usize {
    usize::try_from(raw >> place & ((1 << bits) - 1)).expect("few bits")
}
