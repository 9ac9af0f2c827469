//! Registries: the regions of one address space, pinned once each, found by address.

#![expect(
    unsafe_code,
    reason = "lives in memory that C gives, and reads and writes through its pointers"
)]

use core::ffi::c_void;
use core::ptr::NonNull;

use pinfold::PageShift;
use pinfold::host::SpaceId;
use pinfold::region;
use pinfold::source::PinSource;
use pinfold::sync::{Ordering, Word};

use crate::engine::{self, Engine, PINFOLD_ENGINE_SIZE};
use crate::host::page_shift as shift;
use crate::memory::Words;
use crate::pointer::{self, Grown};
use crate::realmode::{self, Area, RealMode};
use crate::region::range;
use crate::status::{
    self, PINFOLD_ERR_BUSY, PINFOLD_ERR_INVALID_ARGUMENT, PINFOLD_ERR_OVERFLOW, Status,
};

pub mod regions;

/// Bytes that a registry's handle takes; its records and its directory are in the words that it is
/// given.
pub const PINFOLD_REGISTRY_SIZE: usize = 512;
/// What the address of a registry's memory is a multiple of.
pub const PINFOLD_REGISTRY_ALIGN: usize = 64;

const MAGIC: u64 = u64::from_be_bytes(*b"PINFOLDG");

/// The regions of one address space. It lies in memory that you provide, and is used only through the
/// functions here.
///
/// A registry pins a range once, however many register it; keeps it as long as anything of it is
/// mapped; and is read where nothing may be called, through a view: see struct pinfold_realmode.
#[derive(Debug)]
#[repr(align(64))]
pub struct Registry {
    /// `MAGIC` from init to fini.
    magic: Word,
    engine: &'static Engine,
    space: SpaceId,
    regions: region::Registry<'static>,
}

const _: () = assert!(size_of::<Registry>() <= PINFOLD_REGISTRY_SIZE);
const _: () = assert!(align_of::<Registry>() == PINFOLD_REGISTRY_ALIGN);

impl Registry {
    fn base(&self) -> PageShift {
        self.engine.pins.source().base()
    }

    /// Refuses words that overlap what the library keeps elsewhere.
    fn apart(&self, words: Words) -> Result<(), Status> {
        let own = words.overlaps_value(self, PINFOLD_REGISTRY_SIZE)
            || words.overlaps_value(self.engine, PINFOLD_ENGINE_SIZE);
        if own { Err(PINFOLD_ERR_INVALID_ARGUMENT) } else { Ok(()) }
    }
}

/// The registry behind a pointer from C.
///
/// # Safety
/// `registry` is null, or points to readable memory of a registry's size that is not written to by
/// anybody but the library.
unsafe fn open<'a>(registry: *const Registry) -> Result<&'a Registry, Status> {
    let registry = pointer::check(registry)?;
    // The word first, on its own: there may be no registry.
    // SAFETY: inside the memory of a registry, which is readable.
    let magic = unsafe { &raw const (*registry.as_ptr()).magic };
    // SAFETY: readable and aligned; written to only by the library, atomically.
    let magic = unsafe { &*magic };
    // Acquire: pairs with the store in init.
    if magic.load(Ordering::Acquire) != MAGIC {
        return Err(PINFOLD_ERR_INVALID_ARGUMENT);
    }
    // SAFETY: init has made a registry there and fini has not ended it.
    Ok(unsafe { registry.as_ref() })
}

/// What a registry is for, and its memory.
///
/// Set `size` to sizeof(struct pinfold_registry_desc) and every field that you do not use to zero.
/// Later versions only append fields, with the rules of struct pinfold_host_ops.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RegistryDesc {
    /// Size of this structure in bytes, as the caller knows it.
    pub size: usize,
    /// The address space, as your hooks know it; any number.
    pub space: u64,
    /// First address of the window: regions lie inside. A multiple of the engine's page size.
    pub start: u64,
    /// Base pages in the window, at least one.
    pub pages: u64,
    /// How many regions there may be at once, those included that wait to be reclaimed. Below 2^32.
    pub regions: u64,
    /// The memory that is read through views: the registry's words and the tables of all regions lie
    /// inside. Copied.
    pub areas: *const Area,
    /// Number of areas, at most PINFOLD_AREAS.
    pub area_count: u64,
    /// The registry's own words, aligned to 8 bytes, inside one area.
    pub words: *mut u64,
    /// Number of words: see pinfold_registry_words_for.
    pub word_count: u64,
}

// SAFETY: integers and pointers of eight bytes; begins with its size.
unsafe impl Grown for RegistryDesc {}

/// Bytes that a registry's handle takes: PINFOLD_REGISTRY_SIZE of the library that is linked.
///
/// # Context
/// Any.
#[unsafe(no_mangle)]
pub extern "C" fn pinfold_registry_size() -> usize {
    PINFOLD_REGISTRY_SIZE
}

/// What the address of a registry's memory must be a multiple of: PINFOLD_REGISTRY_ALIGN of the library
/// that is linked.
///
/// # Context
/// Any.
#[unsafe(no_mangle)]
pub extern "C" fn pinfold_registry_align() -> usize {
    PINFOLD_REGISTRY_ALIGN
}

/// Makes an empty registry in `memory`, which has `size` bytes, and stores its handle in `*out`. It pins
/// through the hooks of `engine`, whose end it puts off. What the memory and the registry's words held
/// is forgotten; both are the library's until pinfold_registry_fini. `desc` and the areas are copied.
///
/// # Context
/// Any; clears the words of all records. No other call on the same memory may run at the same time.
///
/// # Errors
/// INVALID_ARGUMENT: a pointer is null or misaligned, `size` is less than PINFOLD_REGISTRY_SIZE, the window
/// is empty, unaligned or wraps, there are more than PINFOLD_AREAS areas, two overlap or one is
/// impossible, or the words do not lie inside one, or overlap the engine or the registry's memory.
/// NO_SPACE: the words do not hold the records and the root of the directory. Nothing has changed.
///
/// # Safety
/// `engine` is null or the handle of an engine. `memory` is null or has `size` writable bytes. `desc`
/// is null or has as many readable bytes as its first field says. `out` is null or writable. The
/// areas are readable and writable as long as the registry or a view is used; the registry's words
/// and the tables of regions are touched only by the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_init(
    memory: *mut c_void,
    size: usize,
    engine: *mut Engine,
    desc: *const RegistryDesc,
    out: *mut *mut Registry,
) -> Status {
    status::done((|| {
        let invalid = PINFOLD_ERR_INVALID_ARGUMENT;
        let memory = pointer::check(memory.cast::<Registry>())?;
        let out = pointer::check(out)?;
        if size < PINFOLD_REGISTRY_SIZE {
            return Err(invalid);
        }
        // SAFETY: null or an engine, by this function's contract; it outlives the registry, which it
        // counts.
        let engine: &'static Engine = unsafe { engine::open(engine) }?;
        // SAFETY: readable as far as its first field says, by this function's contract.
        let desc = unsafe { pointer::read(desc) }?;
        let window = range(desc.start, desc.pages, engine.pins.source().base())?;
        let regions = u32::try_from(desc.regions).map_err(|_| invalid)?;
        // SAFETY: areas that the library may read, by this function's contract.
        let areas = unsafe { realmode::areas(desc.areas, desc.area_count) }?;
        let words = Words::new(desc.words, desc.word_count)?.ok_or(invalid)?;
        let taken = words.overlaps(memory.as_ptr().addr(), size)
            || words.overlaps_value(engine, PINFOLD_ENGINE_SIZE);
        if taken {
            return Err(invalid);
        }
        // SAFETY: the library's own until fini, by this function's contract.
        let words = unsafe { words.words() };
        let made = region::Registry::new(areas, words, &window, regions);
        let regions = made.map_err(|error| status::of(error.kind()))?;
        let space = SpaceId(desc.space);
        let registry = Registry { magic: Word::new(0), engine, space, regions };
        // SAFETY: writable, aligned, and a registry is not larger than the size checked above.
        unsafe { pointer::write(memory, registry) };
        engine.registries.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the registry was written just now.
        let registry = unsafe { memory.as_ref() };
        // Release: whoever finds the word finds the registry.
        registry.magic.store(MAGIC, Ordering::Release);
        // SAFETY: writable by this function's contract.
        unsafe { pointer::write(out, memory.as_ptr()) };
        Ok(())
    })())
}

/// Ends a registry. Its memory and its words are the caller's again, and views of it must not be used
/// any more.
///
/// # Context
/// Any that may take a spin lock. No other call on the registry or a view of it may run at the same
/// time or come after it.
///
/// # Errors
/// BUSY: a region is registered, or was not reclaimed yet. INVALID_ARGUMENT: null, misaligned, or no
/// registry. Nothing has changed.
///
/// # Safety
/// `registry` is null or the handle of a registry.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_fini(registry: *mut Registry) -> Status {
    status::done((|| {
        // SAFETY: null or a registry, by this function's contract.
        let registry = unsafe { open(registry) }?;
        let engine = registry.engine;
        if !registry.regions.is_empty(engine.pins.host()) {
            return Err(PINFOLD_ERR_BUSY);
        }
        registry.magic.store(0, Ordering::Release);
        engine.registries.fetch_sub(1, Ordering::Release);
        Ok(())
    })())
}

/// Stores in `*out` how many 8-byte words a registry for the window takes with so many regions wherever
/// they lie, if what is retired is reclaimed before it is missed. Fewer do where the first and last
/// blocks of 512 pages of regions are not shared with others.
///
/// # Context
/// Any.
///
/// # Errors
/// INVALID_ARGUMENT: `out` is null or misaligned, the window is empty, unaligned or wraps, `page_shift`
/// is not in 12 to 63, or `regions` is not below 2^32. OVERFLOW: the number is too large. `*out` is
/// unchanged.
///
/// # Safety
/// `out` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_words_for(
    start: u64,
    pages: u64,
    page_shift: u32,
    regions: u64,
    out: *mut u64,
) -> Status {
    status::done((|| {
        let out = pointer::check(out)?;
        let window = range(start, pages, shift(page_shift)?)?;
        let regions = u32::try_from(regions).map_err(|_| PINFOLD_ERR_INVALID_ARGUMENT)?;
        let words = region::Registry::words_for(&window, regions).ok_or(PINFOLD_ERR_OVERFLOW)?;
        // SAFETY: writable by this function's contract.
        unsafe { pointer::write(out, words as u64) };
        Ok(())
    })())
}

/// Gives the registry `count` words more for its directory. They lie directly behind those that it has,
/// in the same area, and are the library's until pinfold_registry_fini.
///
/// # Context
/// May sleep, as far as the pause hook does.
///
/// # Errors
/// INVALID_ARGUMENT: a pointer is null or misaligned, `registry` is no registry, there are no words, or
/// they lie elsewhere. BUSY: a region has its table there, or another call does the same just now.
/// INTERRUPTED: `pause` said so. Nothing has changed.
///
/// # Safety
/// `registry` is null or the handle of a registry. The words are for the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_grow(
    registry: *mut Registry,
    words: *mut u64,
    count: u64,
) -> Status {
    status::done((|| {
        // SAFETY: null or a registry, by this function's contract.
        let registry = unsafe { open(registry) }?;
        let words = Words::new(words, count)?.ok_or(PINFOLD_ERR_INVALID_ARGUMENT)?;
        registry.apart(words)?;
        // SAFETY: for the library, by this function's contract.
        let words = unsafe { words.words() };
        let grown = registry.regions.grow(registry.engine.pins.host(), words);
        grown.map_err(|error| status::of(error.kind()))
    })())
}

/// Makes a view of the registry in `memory`, which has `size` bytes, and stores its handle in `*out`.
/// It sees the areas at the addresses that pinfold_registry_init was given; pinfold_realmode_open makes
/// a view that sees them at others. There may be any number of views.
///
/// A view is never ended. Its memory is yours again when no call uses the view any more.
///
/// # Context
/// Any. No other call on the same memory may run at the same time.
///
/// # Errors
/// INVALID_ARGUMENT: a pointer is null or misaligned, `registry` is no registry, or `size` is less than
/// PINFOLD_REALMODE_SIZE. Nothing has changed.
///
/// # Safety
/// `registry` is null or the handle of a registry. `memory` is null or has `size` writable bytes; `out` is
/// null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_realmode(
    registry: *const Registry,
    memory: *mut c_void,
    size: usize,
    out: *mut *const RealMode,
) -> Status {
    // SAFETY: null or a registry, by this function's contract.
    let seen = || unsafe { open(registry) }.map(|registry| registry.regions.realmode());
    // SAFETY: null or writable, by this function's contract.
    status::done(unsafe { realmode::make(memory, size, out, seen) })
}

/// A point in a registry's time, which pinfold_registry_retired tells and pinfold_registry_reclaim
/// wants back.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grace {
    /// The value; hand it on, do not interpret it.
    pub raw: u64,
}

/// Stores in `*out` a point in time: what was retired before it, and readers may still be looking at.
/// When every call through a view that began before this one has ended, hand it to
/// pinfold_registry_reclaim. How you know that is your own: a grace period of your kernel, a count of
/// your own, or the knowledge that nobody reads.
///
/// # Context
/// Any that may take a spin lock.
///
/// # Errors
/// INVALID_ARGUMENT: a pointer is null or misaligned, or `registry` is no registry.
///
/// # Safety
/// `registry` is null or the handle of a registry, `out` null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_retired(
    registry: *mut Registry,
    out: *mut Grace,
) -> Status {
    status::done((|| {
        // SAFETY: null or a registry, by this function's contract.
        let registry = unsafe { open(registry) }?;
        let out = pointer::check(out)?;
        let grace = registry.regions.retired(registry.engine.pins.host());
        // SAFETY: writable by this function's contract.
        unsafe { pointer::write(out, Grace { raw: grace.raw() }) };
        Ok(())
    })())
}

/// Takes back what was retired before `grace`: its place in the registry can be used again, and the words
/// of each table are handed to `free`, as they were given to pinfold_registry_register.
///
/// If it comes too early, a call through a view may say TOO_HARD about a region that is registered, or
/// read words that `free` has put to another use; it never says a wrong address.
///
/// # Context
/// May sleep, as far as the pause hook and `free` do; cannot be stopped. `free` is called without a
/// lock, and may call the library.
///
/// # Errors
/// INVALID_ARGUMENT: `registry` is null, misaligned or no registry, or `free` is null.
///
/// # Safety
/// `registry` is null or the handle of a registry. `free` returns normally.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_reclaim(
    registry: *mut Registry,
    grace: Grace,
    free: Option<unsafe extern "C" fn(ctx: *mut c_void, words: *mut u64, count: u64)>,
    ctx: *mut c_void,
) -> Status {
    status::done((|| {
        // SAFETY: null or a registry, by this function's contract.
        let registry = unsafe { open(registry) }?;
        let free = free.ok_or(PINFOLD_ERR_INVALID_ARGUMENT)?;
        let grace = region::Grace::from_raw(grace.raw);
        registry.regions.reclaim(registry.engine.pins.host(), grace, |table| {
            let first: NonNull<u64> = NonNull::from(table).cast();
            // SAFETY: the embedder's function, with its own context and its own words.
            unsafe { free(ctx, first.as_ptr(), table.len() as u64) }
        });
        Ok(())
    })())
}
