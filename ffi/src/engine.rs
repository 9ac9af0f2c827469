//! The engine, in memory that the caller provides.

#![expect(unsafe_code, reason = "lives in memory that C gives")]

use pinfold::sync::{Ordering, Word};

use crate::host::{self, Pins};
use crate::ops::HostOps;
use crate::pointer;
use crate::slots::{SLOTS, Slots};
use crate::status::{self, PINFOLD_ERR_BUSY, PINFOLD_ERR_INVALID_ARGUMENT, Status};

/// Bytes that an engine takes.
pub const PINFOLD_ENGINE_SIZE: usize = 4096;
/// What the address of an engine's memory is a multiple of.
pub const PINFOLD_ENGINE_ALIGN: usize = 64;
/// Regions that an engine has room for.
pub const PINFOLD_ENGINE_REGIONS: usize = 64;

const MAGIC: u64 = u64::from_be_bytes(*b"PINFOLDE");

/// An engine: a host and its regions. It lies in memory that you provide, and is used only through
/// the functions here.
#[derive(Debug)]
#[repr(align(64))]
pub struct Engine {
    /// `MAGIC` from init to fini.
    magic: Word,
    pub(crate) pins: Pins,
    pub(crate) slots: Slots,
    /// Registries that pin through it.
    pub(crate) registries: Word,
}

const _: () = assert!(size_of::<Engine>() <= PINFOLD_ENGINE_SIZE);
const _: () = assert!(align_of::<Engine>() == PINFOLD_ENGINE_ALIGN);
const _: () = assert!(SLOTS == PINFOLD_ENGINE_REGIONS);

/// The engine behind a pointer from C.
///
/// # Safety
/// `engine` is null, or points to readable memory of an engine's size that is not written to by
/// anybody but the library.
pub(crate) unsafe fn open<'a>(engine: *const Engine) -> Result<&'a Engine, Status> {
    let engine = pointer::check(engine)?;
    // The word first, on its own: there may be no engine.
    // SAFETY: inside the memory of an engine, which is readable.
    let magic = unsafe { &raw const (*engine.as_ptr()).magic };
    // SAFETY: readable and aligned; written to only by the library, atomically.
    let magic = unsafe { &*magic };
    // Acquire: pairs with the store in init.
    if magic.load(Ordering::Acquire) != MAGIC {
        return Err(PINFOLD_ERR_INVALID_ARGUMENT);
    }
    // SAFETY: init has made an engine there and fini has not ended it.
    Ok(unsafe { engine.as_ref() })
}

/// Bytes that an engine takes: PINFOLD_ENGINE_SIZE of the library that is linked.
///
/// # Context
/// Any.
#[unsafe(no_mangle)]
pub extern "C" fn pinfold_engine_size() -> usize {
    PINFOLD_ENGINE_SIZE
}

/// What the address of an engine's memory must be a multiple of: PINFOLD_ENGINE_ALIGN of the library
/// that is linked.
///
/// # Context
/// Any.
#[unsafe(no_mangle)]
pub extern "C" fn pinfold_engine_align() -> usize {
    PINFOLD_ENGINE_ALIGN
}

/// Makes an engine in `memory`, which has `size` bytes, and stores its handle in `*out`. The memory
/// is the library's until pinfold_engine_fini; what it held is forgotten. `ops` is copied.
///
/// # Context
/// Any. No other call on the same memory may run at the same time.
///
/// # Errors
/// PINFOLD_ERR_INVALID_ARGUMENT: a pointer is null or misaligned, `size` is less than
/// PINFOLD_ENGINE_SIZE, a required field of `ops` is null or out of range, only one of two hooks
/// that belong together is given, `ops->size` is no multiple of 8 or above 4096, or `ops` has a field
/// that this version does not know and that is not zero. Nothing has changed.
///
/// # Safety
/// `memory` is null or has `size` writable bytes. `ops` is null or has as many readable bytes as
/// its first field says. `out` is null or writable. The functions in `ops` keep their contracts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_engine_init(
    memory: *mut core::ffi::c_void,
    size: usize,
    ops: *const HostOps,
    out: *mut *mut Engine,
) -> Status {
    status::done((|| {
        let memory = pointer::check(memory.cast::<Engine>())?;
        let out = pointer::check(out)?;
        if size < PINFOLD_ENGINE_SIZE {
            return Err(PINFOLD_ERR_INVALID_ARGUMENT);
        }
        // SAFETY: readable as far as its first field says, by this function's contract.
        let ops = unsafe { pointer::read(ops) }?;
        let engine = Engine {
            magic: Word::new(0),
            pins: host::pins(ops)?,
            slots: Slots::new(),
            registries: Word::new(0),
        };
        // SAFETY: writable, aligned, and an engine is not larger than the size checked above.
        unsafe { pointer::write(memory, engine) };
        // SAFETY: the engine was written just now.
        let engine = unsafe { memory.as_ref() };
        // Release: whoever finds the word finds the engine.
        engine.magic.store(MAGIC, Ordering::Release);
        // SAFETY: writable by this function's contract.
        unsafe { pointer::write(out, memory.as_ptr()) };
        Ok(())
    })())
}

/// Ends an engine. Its memory is the caller's again.
///
/// # Context
/// Any. No other call on the engine may run at the same time or come after it.
///
/// # Errors
/// PINFOLD_ERR_BUSY: a region is registered, or being registered or unregistered, or a registry
/// pins through the engine; nothing has changed.
/// PINFOLD_ERR_INVALID_ARGUMENT: null, misaligned, or no engine.
///
/// # Safety
/// `engine` is null or the handle of an engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_engine_fini(engine: *mut Engine) -> Status {
    status::done((|| {
        // SAFETY: null or an engine, by this function's contract.
        let engine = unsafe { open(engine) }?;
        // Acquire: pairs with the end of a registry.
        let registries = engine.registries.load(Ordering::Acquire);
        if registries != 0 || !engine.slots.is_empty(engine.pins.host()) {
            return Err(PINFOLD_ERR_BUSY);
        }
        engine.magic.store(0, Ordering::Release);
        Ok(())
    })())
}
