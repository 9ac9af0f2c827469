//! What the embedder provides: a structure of functions.

#![expect(unsafe_code, reason = "reads a structure from C and hands C a pointer to the stack")]

use core::ffi::c_void;

use pinfold::source::RunSink;
use pinfold::{Order, PageCount, Pfn};

use crate::pointer::{self, Grown};
use crate::status::{PINFOLD_ERR_REFUSED, PINFOLD_OK, Status};

/// What to pin: a part of a region. Written by the library for the pin hook; the hook must not
/// keep the pointer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PinPart {
    /// Size of this structure in bytes. Later versions append fields.
    pub size: usize,
    /// The address space, as given to pinfold_region_register.
    pub space: u64,
    /// First address, a multiple of the page size.
    pub start: u64,
    /// Number of base pages, at least one.
    pub pages: u64,
    /// What the device will do: PINFOLD_ACCESS_ bits.
    pub access: u32,
    /// How to pin: PINFOLD_PIN_ bits.
    pub flags: u32,
    /// Who will hold the pins.
    pub holder: u32,
    /// Who was charged.
    pub account: u32,
    /// 1 if the holder agreed to let go when asked, else 0.
    pub revocable: u32,
    /// 0.
    pub reserved: u32,
}

/// Consecutive frames behind consecutive addresses. Written by the library for the unpin hook; the
/// hook must not keep the pointer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Size of this structure in bytes. Later versions append fields.
    pub size: usize,
    /// First address, in the address space that it was pinned in.
    pub va: u64,
    /// First frame: physical address divided by the base page size.
    pub pfn: u64,
    /// Number of base pages, at least one.
    pub pages: u64,
    /// 1 if the pages must be marked dirty before they are unpinned, else 0.
    pub dirty: u32,
    /// 0.
    pub reserved: u32,
}

/// Where the pin hook reports what it pinned. Valid until the hook returns, on the thread that
/// called it.
#[derive(Debug)]
pub struct PinSink {
    _opaque: [u8; 0],
}

/// What the library needs of the system around it.
///
/// Set `size` to sizeof(struct pinfold_host_ops) and every field that you do not use to zero. Later
/// versions only append fields; one beyond `size` counts as null, and one that the library does not
/// know must be zero. The structure is copied; `ctx` and the functions must work until
/// pinfold_engine_fini.
///
/// The functions are called from any thread that calls the library, also several at once, with
/// `ctx` as first argument. Except for `enter` and `leave` none is called while the library holds a
/// lock, so they may call the library. They must return normally: no longjmp, no exception.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HostOps {
    /// Size of this structure in bytes, as the caller knows it.
    pub size: usize,
    /// Handed to every function; may be null.
    pub ctx: *mut c_void,
    /// The base page size as a power of two: 12 for 4 KiB. Required, 12 to 63. All page counts and
    /// frame numbers are in base pages.
    pub page_shift: u32,
    /// The largest part that `pin` is called for, as a power of two in base pages; parts end at
    /// multiples of it. A larger folio is recorded, and marked dirty, in blocks of this size. 0 means
    /// 9 (2 MiB with 4 KiB pages); at most 63.
    pub chunk_order: u32,
    /// Required. Pins every page of `part` and reports the frames with pinfold_run_sink_push, in
    /// order of address, in runs of consecutive frames of one folio. Returns 0 if all of the part
    /// was reported; otherwise a PINFOLD_ERR_ value that says what was in the way: NOT_MAPPED,
    /// REFUSED, UNMOVABLE, BUSY, NO_MEMORY, OVER_LIMIT, OVERFLOW or INTERRUPTED. Anything else, or a
    /// success that is short, fails the call with PINFOLD_ERR_BAD_HOST.
    ///
    /// Runs that were accepted belong to the library, also if the function fails afterwards: they come
    /// back through `unpin`. What was not accepted, or not reported, the function gives back itself.
    ///
    /// Context: that of the caller of pinfold_region_register; may sleep.
    pub pin: Option<
        unsafe extern "C" fn(ctx: *mut c_void, part: *const PinPart, sink: *mut PinSink) -> i32,
    >,
    /// Required. Gives back one pin on each page of the run, which is any part of what was reported,
    /// or several reported runs that continue each other; marks the pages dirty first if it says so.
    ///
    /// Context: that of the caller of pinfold_region_register or _unregister; may sleep.
    pub unpin: Option<unsafe extern "C" fn(ctx: *mut c_void, run: *const Run)>,
    /// Optional, together with `leave`. Called before a spin lock is taken: a kernel masks interrupts
    /// here and returns what `leave` needs. If null nothing is done. Must not sleep and must not call
    /// the library.
    pub enter: Option<unsafe extern "C" fn(ctx: *mut c_void) -> u64>,
    /// Optional, together with `enter`. Called after the lock was released, with what `enter` returned.
    pub leave: Option<unsafe extern "C" fn(ctx: *mut c_void, saved: u64)>,
    /// Optional. Called between two bounded steps of a long call, with the pages done so far and in
    /// all. Returns 0 to go on; anything else stops the call, which gives everything back and returns
    /// PINFOLD_ERR_INTERRUPTED. Giving back cannot be stopped: there the answer is ignored. If null,
    /// calls go on. May sleep.
    pub pause: Option<unsafe extern "C" fn(ctx: *mut c_void, done: u64, total: u64) -> i32>,
    /// Optional, together with `uncharge`. Adds `pages` to what the account has locked, before the
    /// first pin. Returns 0 if that was done; anything else means that it was not, and the call returns
    /// PINFOLD_ERR_OVER_LIMIT. If null there are no limits, or `pin` has its own. Must not sleep.
    pub charge: Option<unsafe extern "C" fn(ctx: *mut c_void, account: u32, pages: u64) -> i32>,
    /// Optional, together with `charge`. Takes back what `charge` added, after the last unpin. Must not
    /// sleep.
    pub uncharge: Option<unsafe extern "C" fn(ctx: *mut c_void, account: u32, pages: u64)>,
    /// The most entries that a call handles between two calls of `pause`: pages or larger folios
    /// reported, given back, or turned into words of the table. A part of which more was reported
    /// is cut there, and the rest of its block is asked for in small parts. 0 means 4096.
    pub step: u64,
}

// SAFETY: integers, a pointer and optional functions; begins with its size; no padding because the
// two 32-bit fields stand together.
unsafe impl Grown for HostOps {}

/// Reports that `pages` frames from `pfn` on are pinned behind the next addresses of the part.
///
/// # Context
/// Only from inside the pin hook, with the sink that it was called with.
///
/// # Errors
/// PINFOLD_ERR_REFUSED: the run was not taken, and no later one will be in this call of the hook.
/// It has no pages, or more than are left of the part, or frames without a physical address; or
/// there is no room to remember it. The hook gives it back, and all that it has not reported, and
/// returns this status. PINFOLD_ERR_INVALID_ARGUMENT: `sink` is null or misaligned.
///
/// # Safety
/// `sink` is null or what the hook was called with, on the same thread, before it returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_run_sink_push(sink: *mut PinSink, pfn: u64, pages: u64) -> Status {
    // SAFETY: the caller's, which is the same.
    unsafe { pinfold_run_sink_push_indivisible(sink, pfn, pages, 0) }
}

/// pinfold_run_sink_push for frames of a folio that the host never splits: hugetlb memory, or memory
/// that was set aside when the host started. The run is the folio, or a part of it; the whole has
/// `1 << order` base pages. A device's page may then be as large. Memory that is only large for now
/// is no such memory; order 0 says so.
///
/// # Context
/// Only from inside the pin hook, with the sink that it was called with.
///
/// # Errors
/// As pinfold_run_sink_push; and PINFOLD_ERR_REFUSED if the run does not lie inside one naturally
/// aligned block of that order, all frames of which have a physical address.
///
/// # Safety
/// `sink` is null or what the hook was called with, on the same thread, before it returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_run_sink_push_indivisible(
    sink: *mut PinSink,
    pfn: u64,
    pages: u64,
    order: u32,
) -> Status {
    let mut sink = match pointer::check(sink.cast::<RunSink<'_>>()) {
        Ok(sink) => sink,
        Err(status) => return status,
    };
    // SAFETY: the hook was called with a pointer to the one sink of that call, which nobody else
    // touches until the hook returns.
    let sink = unsafe { sink.as_mut() };
    // No folio is as large as the largest order, so larger ones are refused like it.
    let order = u8::try_from(order).ok().and_then(Order::new).unwrap_or(Order::LARGEST);
    match sink.push_indivisible(Pfn::new(pfn), PageCount::new(pages), order) {
        Ok(()) => PINFOLD_OK,
        Err(_) => PINFOLD_ERR_REFUSED,
    }
}
