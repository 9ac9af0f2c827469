//! Reads of a registry where nothing is within reach: the five functions of real mode, and the view
//! that they read through.

#![expect(unsafe_code, reason = "reads and writes through pointers that C gives")]

use core::ffi::c_void;

use pinfold::realmode::{self, AREAS, Areas};
use pinfold::sync::{Ordering, Word};
use pinfold::table::TooHard;
use pinfold::{PageShift, VirtAddr};

use crate::memory::Words;
use crate::pointer;
use crate::region::RegionId;
use crate::status::{
    self, PINFOLD_ERR_CORRUPT, PINFOLD_ERR_INVALID_ARGUMENT, PINFOLD_ERR_TOO_HARD, PINFOLD_OK,
    Status,
};

/// Bytes that a view takes.
pub const PINFOLD_REALMODE_SIZE: usize = 256;
/// What the address of a view's memory is a multiple of.
pub const PINFOLD_REALMODE_ALIGN: usize = 64;
/// How many areas may be declared.
pub const PINFOLD_AREAS: usize = 4;

const MAGIC: u64 = u64::from_be_bytes(*b"PINFOLDV");

/// A registry as it is seen where translation is off, or where nothing may be called: the addresses of
/// its memory and its form. It lies in memory that you provide, is never written to once it is
/// made, and is used only through the functions here.
#[derive(Debug)]
#[repr(align(64))]
pub struct RealMode {
    /// `MAGIC` once it is made.
    magic: Word,
    seen: realmode::RealMode<'static>,
}

const _: () = assert!(size_of::<RealMode>() <= PINFOLD_REALMODE_SIZE);
const _: () = assert!(align_of::<RealMode>() == PINFOLD_REALMODE_ALIGN);
const _: () = assert!(AREAS == PINFOLD_AREAS);

/// Words that may be read where translation is off, all of one piece.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// The first, aligned to 8 bytes. May be null if there are none.
    pub words: *mut u64,
    /// How many.
    pub count: u64,
}

/// The areas that C declares.
///
/// # Safety
/// `areas` is null or has `count` readable elements. Their words are mapped as long as the result is
/// used, and what is used of them is touched only by the library.
pub(crate) unsafe fn areas<'m>(areas: *const Area, count: u64) -> Result<Areas<'m>, Status> {
    let invalid = PINFOLD_ERR_INVALID_ARGUMENT;
    let first = pointer::check(areas)?;
    let count = usize::try_from(count).ok().filter(|count| *count <= AREAS).ok_or(invalid)?;
    let mut all: [&'m [Word]; AREAS] = [&[]; AREAS];
    for (at, slot) in all.iter_mut().enumerate().take(count) {
        // SAFETY: `at` is below `count`.
        let area = unsafe { first.add(at) };
        // SAFETY: aligned, and readable by this function's contract.
        let area = unsafe { area.read() };
        if let Some(words) = Words::new(area.words, area.count)? {
            // SAFETY: mapped and for the library, by this function's contract.
            *slot = unsafe { words.words() };
        }
    }
    Areas::new(&all).ok_or(invalid)
}

/// Makes a view in `memory`, which has `size` bytes, and stores its handle in `*out`.
///
/// # Safety
/// `memory` is null or has `size` writable bytes; `out` is null or writable.
pub(crate) unsafe fn make(
    memory: *mut c_void,
    size: usize,
    out: *mut *const RealMode,
    seen: impl FnOnce() -> Result<realmode::RealMode<'static>, Status>,
) -> Result<(), Status> {
    let memory = pointer::check(memory.cast::<RealMode>())?;
    let out = pointer::check(out)?;
    if size < PINFOLD_REALMODE_SIZE {
        return Err(PINFOLD_ERR_INVALID_ARGUMENT);
    }
    let view = RealMode { magic: Word::new(0), seen: seen()? };
    // SAFETY: writable, aligned, and a view is not larger than the size checked above.
    unsafe { pointer::write(memory, view) };
    // SAFETY: the view was written just now.
    let view = unsafe { memory.as_ref() };
    // Release: whoever finds the word finds the view.
    view.magic.store(MAGIC, Ordering::Release);
    // SAFETY: writable by this function's contract.
    unsafe { pointer::write(out, memory.as_ptr()) };
    Ok(())
}

/// What a view shows. `None` if there is no view.
///
/// # Safety
/// `view` is null or misaligned, or points to readable memory of a view's size that nobody writes to.
#[inline(always)]
unsafe fn open<'a>(view: *const RealMode) -> Option<&'a realmode::RealMode<'static>> {
    let view = pointer::check(view).ok()?;
    // The word first, on its own: there may be no view.
    // SAFETY: inside the memory of a view, which is readable.
    let magic = unsafe { &raw const (*view.as_ptr()).magic };
    // SAFETY: readable and aligned; written to only by the library, atomically.
    let magic = unsafe { &*magic };
    // Acquire: pairs with the store in `make`.
    if magic.load(Ordering::Acquire) != MAGIC {
        return None;
    }
    // SAFETY: a view was made there.
    Some(&unsafe { view.as_ref() }.seen)
}

/// The status of a call that returns nothing.
#[inline(always)]
fn answer(result: Result<(), TooHard>) -> Status {
    match result {
        Ok(()) => PINFOLD_OK,
        Err(TooHard) => PINFOLD_ERR_TOO_HARD,
    }
}

/// Bytes that a view takes: PINFOLD_REALMODE_SIZE of the library that is linked.
///
/// # Context
/// Any.
#[unsafe(no_mangle)]
pub extern "C" fn pinfold_realmode_size() -> usize {
    PINFOLD_REALMODE_SIZE
}

/// What the address of a view's memory must be a multiple of: PINFOLD_REALMODE_ALIGN of the library
/// that is linked.
///
/// # Context
/// Any.
#[unsafe(no_mangle)]
pub extern "C" fn pinfold_realmode_align() -> usize {
    PINFOLD_REALMODE_ALIGN
}

/// Makes a view of the registry that was made in the `count` words at `words`, in `memory`, which has
/// `size` bytes, and stores its handle in `*out`. `areas` are the `area_count` areas that the
/// registry was made with, in their order; all addresses are those at which the memory is seen where
/// the view is used, and here. pinfold_registry_realmode makes a view for the addresses that the
/// registry knows.
///
/// A view is never ended. Its memory is yours again, and the words may be unmapped, when no call uses
/// the view any more.
///
/// # Context
/// Any. No other call on the same memory may run at the same time.
///
/// # Errors
/// INVALID_ARGUMENT: a pointer is null or misaligned, `size` is less than PINFOLD_REALMODE_SIZE, there are
/// more than PINFOLD_AREAS areas, two overlap or one is impossible, or the words do not lie inside
/// one. CORRUPT: the words hold no registry of this version and byte order. Nothing has changed.
///
/// # Safety
/// `memory` is null or has `size` writable bytes; `out` is null or writable. `areas` is null or has
/// `area_count` elements. Their words, and those at `words`, are readable and writable, and what the
/// registry was given of them is touched only by the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_realmode_open(
    memory: *mut c_void,
    size: usize,
    areas: *const Area,
    area_count: u64,
    words: *mut u64,
    count: u64,
    out: *mut *const RealMode,
) -> Status {
    let seen = || {
        // SAFETY: areas that the library may read, by this function's contract.
        let areas = unsafe { self::areas(areas, area_count) }?;
        let words = Words::new(words, count)?.ok_or(PINFOLD_ERR_INVALID_ARGUMENT)?;
        // SAFETY: readable by this function's contract.
        let words = unsafe { words.words() };
        areas.place(words).ok_or(PINFOLD_ERR_INVALID_ARGUMENT)?;
        realmode::RealMode::open(areas, words).map_err(|TooHard| PINFOLD_ERR_CORRUPT)
    };
    // SAFETY: null or writable, by this function's contract.
    status::done(unsafe { make(memory, size, out, seen) })
}

/// Stores in `*out` the id of the registered region that holds all of `bytes` bytes from `va` on.
///
/// The region was registered at some instant within the call. It may be gone at the next; then later
/// calls with its id say TOO_HARD, for an id is never given to a second region.
///
/// # Context
/// Real mode: reads the view, at most four entries of the registry's directory, and one record.
///
/// # Errors
/// TOO_HARD: no region holds them, `bytes` is 0, their sum with `va` wraps, or the region is being
/// registered or removed. INVALID_ARGUMENT: a pointer is null or misaligned, or `view` is no view.
/// `*out` is unchanged.
///
/// # Safety
/// `view` is null or the handle of a view, `out` null or writable.
#[unsafe(no_mangle)]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".text.realmode"))]
#[inline(never)]
pub unsafe extern "C" fn pinfold_realmode_lookup(
    view: *const RealMode,
    va: u64,
    bytes: u64,
    out: *mut RegionId,
) -> Status {
    // SAFETY: null or a view, by this function's contract.
    let (Some(view), Ok(out)) = (unsafe { open(view) }, pointer::check(out)) else {
        return PINFOLD_ERR_INVALID_ARGUMENT;
    };
    let Ok(region) = view.lookup(VirtAddr::new(va), bytes) else { return PINFOLD_ERR_TOO_HARD };
    // SAFETY: writable by this function's contract.
    unsafe { pointer::write(out, RegionId { raw: region.raw() }) };
    PINFOLD_OK
}

/// Stores in `*hpa` the physical address of the byte at `va`, an address in the region, for an IOMMU
/// page of `1 << shift` bytes: the whole page of that size around it lies inside the region, and in
/// frames that are consecutive, as far aligned, and released together. What a device may do there says
/// pinfold_registry_info: memory that was registered for reading must not be mapped writable.
///
/// The address was right at some instant within the call. It may be used only while a reference is
/// held that pinfold_realmode_map_get took before this call: then it stays right until
/// pinfold_realmode_map_put.
///
/// # Context
/// Real mode: reads the view, one record, and at most three entries of the region's table.
///
/// # Errors
/// TOO_HARD: the region is gone or going, `va` is not in it, or it does not carry IOMMU pages of this
/// size. INVALID_ARGUMENT: a pointer is null or misaligned, `view` is no view, or `shift` is above
/// 63. `*hpa` is unchanged.
///
/// # Safety
/// `view` is null or the handle of a view, `hpa` null or writable.
#[unsafe(no_mangle)]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".text.realmode"))]
#[inline(never)]
pub unsafe extern "C" fn pinfold_realmode_translate(
    view: *const RealMode,
    id: RegionId,
    va: u64,
    shift: u32,
    hpa: *mut u64,
) -> Status {
    // SAFETY: null or a view, by this function's contract.
    let (Some(view), Ok(hpa)) = (unsafe { open(view) }, pointer::check(hpa)) else {
        return PINFOLD_ERR_INVALID_ARGUMENT;
    };
    let Some(shift) = u8::try_from(shift).ok().and_then(PageShift::new) else {
        return PINFOLD_ERR_INVALID_ARGUMENT;
    };
    let Ok(found) = view.translate(named(id), VirtAddr::new(va), shift) else {
        return PINFOLD_ERR_TOO_HARD;
    };
    // SAFETY: writable by this function's contract.
    unsafe { pointer::write(hpa, found.raw()) };
    PINFOLD_OK
}

/// Takes a mapped reference on the region: until pinfold_realmode_map_put it cannot be unregistered,
/// and what pinfold_realmode_translate says of it from now on stays right.
///
/// # Context
/// Real mode: reads the view, and changes the count in one record.
///
/// # Errors
/// TOO_HARD: the region is gone or going, its count is at its limit, or others changed the count at
/// every try. INVALID_ARGUMENT: `view` is null, misaligned or no view. Nothing has changed.
///
/// # Safety
/// `view` is null or the handle of a view.
#[unsafe(no_mangle)]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".text.realmode"))]
#[inline(never)]
pub unsafe extern "C" fn pinfold_realmode_map_get(view: *const RealMode, id: RegionId) -> Status {
    // SAFETY: null or a view, by this function's contract.
    let Some(view) = (unsafe { open(view) }) else { return PINFOLD_ERR_INVALID_ARGUMENT };
    answer(view.map_get(named(id)))
}

/// Gives a mapped reference back. Whatever the device could reach through it must have been cut off
/// and flushed before.
///
/// # Context
/// Real mode: reads the view, and changes the count in one record.
///
/// # Errors
/// TOO_HARD: nobody holds a mapped reference on the region, or others changed the count at every
/// try. INVALID_ARGUMENT: `view` is null, misaligned or no view. Nothing has changed.
///
/// # Safety
/// `view` is null or the handle of a view.
#[unsafe(no_mangle)]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".text.realmode"))]
#[inline(never)]
pub unsafe extern "C" fn pinfold_realmode_map_put(view: *const RealMode, id: RegionId) -> Status {
    // SAFETY: null or a view, by this function's contract.
    let Some(view) = (unsafe { open(view) }) else { return PINFOLD_ERR_INVALID_ARGUMENT };
    answer(view.map_put(named(id)))
}

/// Records that the device wrote to the page at `va`, so that it is marked dirty before it is
/// unpinned. The caller holds a mapped reference on the region. For device memory there is nothing
/// to record.
///
/// # Context
/// Real mode: reads the view and one record, and changes one entry of the region's table.
///
/// # Errors
/// TOO_HARD: nobody holds a mapped reference on the region, `va` is not in it, or others changed the
/// same entry at every try. INVALID_ARGUMENT: `view` is null, misaligned or no view. Nothing has
/// changed.
///
/// # Safety
/// `view` is null or the handle of a view.
#[unsafe(no_mangle)]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".text.realmode"))]
#[inline(never)]
pub unsafe extern "C" fn pinfold_realmode_mark_dirty(
    view: *const RealMode,
    id: RegionId,
    va: u64,
) -> Status {
    // SAFETY: null or a view, by this function's contract.
    let Some(view) = (unsafe { open(view) }) else { return PINFOLD_ERR_INVALID_ARGUMENT };
    answer(view.mark_dirty(named(id), VirtAddr::new(va)))
}

#[inline(always)]
fn named(id: RegionId) -> realmode::RegionId {
    realmode::RegionId::from_raw(id.raw)
}
