//! Regions: pinned ranges with a table each.

#![expect(unsafe_code, reason = "reads and writes through pointers that C gives")]

use core::ptr::NonNull;

use pinfold::host::SpaceId;
use pinfold::source::PinSource;
use pinfold::sync::Word;
use pinfold::table::TableError;
use pinfold::{
    Access, AccountId, AddrRange, Dirtied, HolderId, PageCount, PageShift, PinCause, PinError,
    PinFlags, PinRequest, PinTable, VirtAddr,
};

use crate::engine::{self, Engine, PINFOLD_ENGINE_SIZE};
use crate::host::page_shift as shift;
use crate::memory::Words;
use crate::pointer::{self, Grown};
use crate::slots::Name;
use crate::status::{
    self, PINFOLD_ERR_CORRUPT, PINFOLD_ERR_INVALID_ARGUMENT, PINFOLD_ERR_NOT_MAPPED,
    PINFOLD_ERR_OVERFLOW, PINFOLD_ERR_TOO_HARD, Status,
};

/// The device reads memory.
pub const PINFOLD_ACCESS_READ: u32 = 1;
/// The device writes memory.
pub const PINFOLD_ACCESS_WRITE: u32 = 2;

/// Nobody bounds how long the pins are held: the long-term policy applies.
pub const PINFOLD_PIN_LONGTERM: u32 = 1;
/// Do not fault: what is absent or not writable is an error.
pub const PINFOLD_PIN_NOFAULT: u32 = 2;
/// Refuse whatever is not anonymous memory.
pub const PINFOLD_PIN_ANONYMOUS: u32 = 4;
/// Accept peer-to-peer device memory. Never together with PINFOLD_PIN_LONGTERM.
pub const PINFOLD_PIN_PEER_TO_PEER: u32 = 8;

const _: () = assert!(PINFOLD_ACCESS_READ == Access::READ.bits() as u32);
const _: () = assert!(PINFOLD_ACCESS_WRITE == Access::WRITE.bits() as u32);
const _: () = assert!(PINFOLD_PIN_LONGTERM == PinFlags::LONGTERM.bits());
const _: () = assert!(PINFOLD_PIN_NOFAULT == PinFlags::NOFAULT.bits());
const _: () = assert!(PINFOLD_PIN_ANONYMOUS == PinFlags::ANONYMOUS.bits());
const _: () = assert!(PINFOLD_PIN_PEER_TO_PEER == PinFlags::PEER_TO_PEER.bits());

/// Only what was marked with pinfold_region_mark_dirty is dirty.
pub const PINFOLD_DIRTY_MARKED: u32 = 0;
/// The device may have written anywhere.
pub const PINFOLD_DIRTY_ALL: u32 = 1;

/// Names a region of one engine. An id is never given to a second region of that engine; all zero is
/// never one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionId {
    /// The value; compare it, do not interpret it.
    pub raw: u64,
}

/// What to register.
///
/// Set `size` to sizeof(struct pinfold_region_desc) and every field that you do not use to zero.
/// Later versions only append fields, with the rules of struct pinfold_host_ops.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RegionDesc {
    /// Size of this structure in bytes, as the caller knows it.
    pub size: usize,
    /// The address space, as your hooks know it; any number.
    pub space: u64,
    /// First address, a multiple of the page size.
    pub start: u64,
    /// Number of base pages, at least one.
    pub pages: u64,
    /// What the device will do: PINFOLD_ACCESS_ bits, at least one.
    pub access: u32,
    /// How to pin: PINFOLD_PIN_ bits.
    pub flags: u32,
    /// Who holds the pins; any number.
    pub holder: u32,
    /// Who is charged; any number.
    pub account: u32,
    /// 1 if the holder agreed to let go when asked, which takes PINFOLD_PIN_LONGTERM; else 0.
    pub revocable: u32,
    /// 0.
    pub reserved: u32,
    /// Memory for the region's table, aligned to 8 bytes. May be null if `table_words` is 0.
    pub table: *mut u64,
    /// Number of 8-byte words at `table`.
    pub table_words: u64,
}

// SAFETY: integers and a pointer; begins with its size; no padding because the 32-bit fields are
// even in number.
unsafe impl Grown for RegionDesc {}

impl RegionDesc {
    pub(crate) fn request(&self, base: PageShift) -> Result<PinRequest, Status> {
        let invalid = PINFOLD_ERR_INVALID_ARGUMENT;
        let revocable = match self.revocable {
            0 => false,
            1 => true,
            _ => return Err(invalid),
        };
        if self.reserved != 0 {
            return Err(invalid);
        }
        let access = u8::try_from(self.access).ok().and_then(Access::from_bits);
        Ok(PinRequest {
            range: range(self.start, self.pages, base)?,
            access: access.ok_or(invalid)?,
            flags: PinFlags::from_bits(self.flags).ok_or(invalid)?,
            holder: HolderId(self.holder),
            account: AccountId(self.account),
            revocable,
        })
    }

    /// The table memory, or `None` if there is none.
    pub(crate) fn memory(&self, engine: &Engine) -> Result<Option<Words>, Status> {
        let memory = Words::new(self.table, self.table_words)?;
        if memory.is_some_and(|memory| memory.overlaps_value(engine, PINFOLD_ENGINE_SIZE)) {
            return Err(PINFOLD_ERR_INVALID_ARGUMENT);
        }
        Ok(memory)
    }
}

/// What C says of what the device wrote.
pub(crate) fn dirtied(dirty: u32) -> Result<Dirtied, Status> {
    match dirty {
        PINFOLD_DIRTY_MARKED => Ok(Dirtied::No),
        PINFOLD_DIRTY_ALL => Ok(Dirtied::All),
        _ => Err(PINFOLD_ERR_INVALID_ARGUMENT),
    }
}

/// A range from C.
pub(crate) fn range(start: u64, pages: u64, base: PageShift) -> Result<AddrRange, Status> {
    AddrRange::new(VirtAddr::new(start), PageCount::new(pages), base)
        .map_err(|_| PINFOLD_ERR_INVALID_ARGUMENT)
}

/// Pins `desc->pages` pages from `desc->start` on and records them in the table memory, which is the
/// library's until the region is unregistered. All pages or none. Stores the region's id in `*out`.
///
/// The account is charged for all pages before the first is pinned. To learn how many words a table
/// takes, call this with `table_words` 0, or with a guess: PINFOLD_ERR_NO_SPACE comes with the exact
/// number for the memory as it was found, for which all of it is pinned and given back once more.
/// pinfold_table_words gives a number that is always enough without looking at memory.
///
/// Ranges may overlap those of other regions: each has pins of its own.
///
/// # Context
/// May sleep, as far as the hooks do. Any thread, any number at once.
///
/// # Errors
/// Nothing is pinned, charged or registered, `*out` is unchanged, and the table memory is the
/// caller's.
///
/// INVALID_ARGUMENT: a pointer is null or misaligned, the range is empty, unaligned or wraps, there
/// are unknown bits or combinations that make no sense, or the table memory overlaps the engine.
/// NO_SPACE: `*need_words`, if `need_words` is not null, is the number of words that the table takes.
/// OVER_LIMIT: `charge` said so. INTERRUPTED: `pause` said so. BUSY: the table memory overlaps that
/// of another region. OVERFLOW: all PINFOLD_ENGINE_REGIONS are taken. BAD_HOST: `pin` broke its
/// contract. NOT_MAPPED, REFUSED, UNMOVABLE, BUSY, NO_MEMORY, OVER_LIMIT, OVERFLOW, INTERRUPTED: `pin`
/// said so.
///
/// # Safety
/// `engine` is null or the handle of an engine. `desc` is null or has as many readable bytes as its
/// first field says, and its table memory is writable and used by nobody else, see
/// pinfold_region_unregister. `out` and `need_words` are null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_region_register(
    engine: *mut Engine,
    desc: *const RegionDesc,
    out: *mut RegionId,
    need_words: *mut u64,
) -> Status {
    status::done((|| {
        // SAFETY: null or an engine, by this function's contract.
        let engine = unsafe { engine::open(engine) }?;
        let out = pointer::check(out)?;
        let need_words =
            if need_words.is_null() { None } else { Some(pointer::check(need_words)?) };
        // SAFETY: readable as far as its first field says, by this function's contract.
        let desc = unsafe { pointer::read(desc) }?;
        let request = desc.request(engine.pins.source().base())?;
        let memory = desc.memory(engine)?;
        // SAFETY: the caller's table memory is for the library, by this function's contract.
        let name = unsafe { register(engine, SpaceId(desc.space), memory, &request) };
        let name = name.map_err(|failure| {
            if let (Some(need), Some(to)) = (failure.need, need_words) {
                // SAFETY: writable by this function's contract.
                unsafe { pointer::write(to, need) };
            }
            failure.status
        })?;
        let id = RegionId { raw: name.0 };
        // SAFETY: writable by this function's contract.
        unsafe { pointer::write(out, id) };
        Ok(())
    })())
}

/// Why a registration failed, and how many words the table takes if that was it.
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) need: Option<u64>,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { status, need: None }
    }
}

impl From<PinError> for Failure {
    fn from(error: PinError) -> Self {
        Self { status: status::of(error.kind()), need: needed(&error) }
    }
}

/// How many words the table takes, if it was too small.
pub(crate) fn needed(error: &PinError) -> Option<u64> {
    match error.cause {
        PinCause::Table(TableError::NoSpace { need }) => Some(need as u64),
        _ => None,
    }
}

/// The fewest words that a table can have.
pub(crate) fn smallest_table() -> usize {
    match PinTable::new(&[]) {
        Err(TableError::NoSpace { need }) => need,
        _ => 0,
    }
}

/// Registers a region with this memory for its table.
///
/// # Safety
/// The memory is writable and used by nobody else until the region is unregistered.
unsafe fn register(
    engine: &Engine,
    space: SpaceId,
    memory: Option<Words>,
    request: &PinRequest,
) -> Result<Name, Failure> {
    let memory = memory.filter(|memory| memory.count() >= smallest_table());
    let Some(memory) = memory else { return Err(measure(engine, space, request)) };
    let wait = engine.pins.host();
    let name = engine.slots.take(wait, memory)?;
    // SAFETY: writable and used by nobody else, by this function's contract.
    let pinned = match PinTable::new(unsafe { memory.words() }) {
        Ok(table) => engine.pins.pin(space, &table, request).map_err(Failure::from),
        Err(error) => Err(status::of(error.kind()).into()),
    };
    match pinned {
        Ok(_) => {
            engine.slots.publish(wait, name);
            Ok(name)
        }
        Err(failure) => {
            engine.slots.free(wait, name);
            Err(failure)
        }
    }
}

/// Says how many words a table takes, by pinning into one that has room for nothing.
pub(crate) fn measure(engine: &Engine, space: SpaceId, request: &PinRequest) -> Failure {
    let words = [const { Word::new(0) }; 16];
    let header = words.get(..smallest_table().saturating_sub(1));
    let Some(table) = header.and_then(|words| PinTable::new(words).ok()) else {
        return PINFOLD_ERR_CORRUPT.into();
    };
    match engine.pins.pin(space, &table, request) {
        Err(error) => error.into(),
        Ok(_) => {
            let _ = engine.pins.unpin(&table, Dirtied::No);
            PINFOLD_ERR_CORRUPT.into()
        }
    }
}

/// Gives back all pins and the charge of a region, and its table memory. `dirty` is
/// PINFOLD_DIRTY_ALL if the device may have written anywhere, or PINFOLD_DIRTY_MARKED if marks say
/// where. Whatever devices could reach the memory must have been cut off and flushed before.
///
/// From the first moment on translations of the region fail. Those that began before may still be
/// reading the table memory: it may be unmapped, or used for anything but another region's table,
/// only when every pinfold_region_translate on this region that began before this call returned
/// has ended too.
///
/// # Context
/// May sleep, as far as the hooks do. Any thread. Cannot be stopped by `pause`.
///
/// # Errors
/// NOT_FOUND: there is no such region, or not any more. BUSY: another call is unregistering it.
/// CORRUPT: the table memory was overwritten, nothing was unpinned and the region stays registered.
/// INVALID_ARGUMENT: `engine` is null, misaligned or no engine, or `dirty` is neither value.
///
/// # Safety
/// `engine` is null or the handle of an engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_region_unregister(
    engine: *mut Engine,
    id: RegionId,
    dirty: u32,
) -> Status {
    status::done((|| {
        // SAFETY: null or an engine, by this function's contract.
        let engine = unsafe { engine::open(engine) }?;
        let dirtied = dirtied(dirty)?;
        let (wait, name) = (engine.pins.host(), Name(id.raw));
        let memory = engine.slots.close(wait, name)?;
        // SAFETY: the region's table memory, which is the library's until this call has ended.
        let unpinned = PinTable::open(unsafe { memory.words() })
            .is_ok_and(|table| engine.pins.unpin(&table, dirtied).is_ok());
        if !unpinned {
            engine.slots.publish(wait, name);
            return Err(PINFOLD_ERR_CORRUPT);
        }
        engine.slots.free(wait, name);
        Ok(())
    })())
}

/// Stores the physical address of the byte at `va`, an address in the region, in `*hpa`.
///
/// The address was right at some instant within the call. It may be used only while the caller
/// knows that the region stays registered: one that knows this from before the call until after
/// the last use, by a lock or a count of its own, never has a page pulled away. Without that
/// knowledge a result of PINFOLD_OK is worth nothing, because an unregister may have begun right
/// after it.
///
/// # Context
/// Any, also with interrupts off: takes no lock, calls no hook, reads the engine and at most a few
/// words of the region's table memory, which both must be mapped. Bounded.
///
/// # Errors
/// NOT_FOUND: there is no such region, or not any more. TOO_HARD: the region was being unregistered;
/// asked again, the answer will be NOT_FOUND. NOT_MAPPED: `va` is not in the region. CORRUPT:
/// the table memory was overwritten. INVALID_ARGUMENT: a pointer is null or misaligned, or `engine`
/// is no engine. `*hpa` is unchanged.
///
/// # Safety
/// `engine` is null or the handle of an engine, `hpa` null or writable. The region's table memory stays
/// as pinfold_region_unregister says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_region_translate(
    engine: *const Engine,
    id: RegionId,
    va: u64,
    hpa: *mut u64,
) -> Status {
    status::done((|| {
        // SAFETY: null or an engine, by this function's contract.
        let engine = unsafe { engine::open(engine) }?;
        let hpa: NonNull<u64> = pointer::check(hpa)?;
        let va = VirtAddr::new(va);
        let found = engine
            .slots
            .read(Name(id.raw), |table| table.lookup(va).map_err(|_| why_not(&table, va)))?;
        // SAFETY: writable by this function's contract.
        unsafe { pointer::write(hpa, found.raw()) };
        Ok(())
    })())
}

/// Why a live table did not answer for an address.
fn why_not(table: &PinTable<'_>, va: VirtAddr) -> Status {
    match table.range() {
        Some(range) if !range.contains(va) => PINFOLD_ERR_NOT_MAPPED,
        Some(_) => PINFOLD_ERR_CORRUPT,
        None => PINFOLD_ERR_TOO_HARD,
    }
}

/// Records that the device wrote to the page at `va`, so that it is marked dirty before it is
/// unpinned. A page in a large folio stands for the block that holds it.
///
/// # Context
/// Any that may take a spin lock: calls `enter` and `leave`, and holds the engine's lock for a few
/// instructions. Any thread.
///
/// # Errors
/// NOT_FOUND: there is no such region, or not any more. TOO_HARD: the region is being unregistered.
/// NOT_MAPPED: `va` is not in the region. CORRUPT: the table memory was overwritten.
/// INVALID_ARGUMENT: `engine` is null, misaligned or no engine.
///
/// # Safety
/// `engine` is null or the handle of an engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_region_mark_dirty(
    engine: *mut Engine,
    id: RegionId,
    va: u64,
) -> Status {
    status::done((|| {
        // SAFETY: null or an engine, by this function's contract.
        let engine = unsafe { engine::open(engine) }?;
        let va = VirtAddr::new(va);
        engine.slots.hold(engine.pins.host(), Name(id.raw), |table| {
            table.mark_dirty(va).map_err(|_| why_not(&table, va))
        })
    })())
}

/// Stores in `*out` how many 8-byte words a table for `pages` base pages from `start` takes if every
/// run of frames fills naturally aligned blocks of `1 << granule_shift` bytes. With the base page's
/// own shift that is always enough.
///
/// # Context
/// Any.
///
/// # Errors
/// INVALID_ARGUMENT: `out` is null or misaligned, the range is empty, unaligned or wraps, `page_shift` is
/// not in 12 to 63, or `granule_shift` is not in `page_shift` to 63. OVERFLOW: the number is too large.
/// `*out` is unchanged.
///
/// # Safety
/// `out` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_table_words(
    start: u64,
    pages: u64,
    page_shift: u32,
    granule_shift: u32,
    out: *mut u64,
) -> Status {
    status::done((|| {
        let out = pointer::check(out)?;
        let (base, granule) = (shift(page_shift)?, shift(granule_shift)?);
        let range = range(start, pages, base)?;
        if granule < base {
            return Err(PINFOLD_ERR_INVALID_ARGUMENT);
        }
        let words = PinTable::words_for(&range, granule).ok_or(PINFOLD_ERR_OVERFLOW)?;
        // SAFETY: writable by this function's contract.
        unsafe { pointer::write(out, words as u64) };
        Ok(())
    })())
}
