//! The regions of a registry: registering, removing, finding.

#![expect(unsafe_code, reason = "reads and writes through pointers that C gives")]

use pinfold::region::{self, InSpace, RegionError, Unregistered};
use pinfold::{AddrRange, PageShift, PhysAddr};

use super::{Registry, open};
use crate::pointer::{self, Grown};
use crate::region::{RegionDesc, RegionId, dirtied, measure, needed, range, smallest_table};
use crate::status::{
    self, PINFOLD_ERR_CORRUPT, PINFOLD_ERR_INVALID_ARGUMENT, PINFOLD_ERR_NOT_FOUND, Status,
};

/// What a registration came to. Written whatever the status is, once the arguments are found good;
/// what the status does not speak of is zero.
///
/// Set `size` to sizeof(struct pinfold_registered). Later versions only append fields: one beyond `size`
/// is not written, and one that the library does not know is set to zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Registered {
    /// Size of this structure in bytes, as the caller knows it.
    pub size: usize,
    /// With OK: the region's id.
    pub region: RegionId,
    /// With OK: how often the range is registered now. From 2 on nothing was pinned or charged, and
    /// the table memory stayed the caller's.
    pub used: u64,
    /// With NO_SPACE: the words that the table takes, if it was the table that is too small.
    pub need_table: u64,
    /// With NO_SPACE: the words that the registry takes in all, if it was the registry's own words that
    /// are too few. Reclaim what is retired, or give it more with pinfold_registry_grow.
    pub need_own: u64,
    /// With INVALID_ARGUMENT: a registered region that overlaps the range without being just this range
    /// with this access, or just this device memory, if that was it.
    pub with: RegionId,
}

const NONE: RegionId = RegionId { raw: 0 };

impl Registered {
    const NOTHING: Self =
        Self { size: 0, region: NONE, used: 0, need_table: 0, need_own: 0, with: NONE };

    fn done(registered: region::Registered) -> (Self, Result<(), Status>) {
        let region = RegionId { raw: registered.region.raw() };
        (Self { region, used: registered.used, ..Self::NOTHING }, Ok(()))
    }

    fn refused(error: RegionError) -> (Self, Result<(), Status>) {
        let nothing = Self::NOTHING;
        let said = match error {
            RegionError::NoSpace { need } => Self { need_own: need as u64, ..nothing },
            RegionError::Pin(error) => Self { need_table: needed(&error).unwrap_or(0), ..nothing },
            RegionError::Overlap { with } => Self { with: RegionId { raw: with.raw() }, ..nothing },
            _ => nothing,
        };
        (said, Err(status::of(error.kind())))
    }
}

/// What is known of a region.
///
/// Set `size` to sizeof(struct pinfold_region_info). Later versions only append fields, with the rules of
/// struct pinfold_registered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RegionInfo {
    /// Size of this structure in bytes, as the caller knows it.
    pub size: usize,
    /// Its id.
    pub region: RegionId,
    /// First address.
    pub start: u64,
    /// Base pages.
    pub pages: u64,
    /// How often it is registered.
    pub used: u64,
    /// How many mapped references are held.
    pub mapped: u64,
    /// Where device memory begins; 0 for memory that is pinned.
    pub hpa: u64,
    /// The largest IOMMU page that it carries, as a power of two in bytes.
    pub usable_shift: u32,
    /// 1 for device memory, 0 for memory that is pinned.
    pub is_device: u32,
    /// What devices may do, PINFOLD_ACCESS_ bits: memory that was pinned for reading must not be mapped
    /// writable.
    pub access: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: integers, and ids that are one; begins with its size; without padding.
unsafe impl Grown for Registered {}
// SAFETY: the same, with an even number of 32-bit fields.
unsafe impl Grown for RegionInfo {}

impl From<region::Region> for RegionInfo {
    fn from(region: region::Region) -> Self {
        Self {
            size: 0,
            region: RegionId { raw: region.id.raw() },
            start: region.range.start().raw(),
            pages: region.range.pages().raw(),
            used: region.used,
            mapped: region.mapped,
            hpa: region.device.map_or(0, PhysAddr::raw),
            usable_shift: u32::from(region.usable.raw()),
            is_device: u32::from(region.device.is_some()),
            access: u32::from(region.access.bits()),
            reserved: 0,
        }
    }
}

fn core_id(id: RegionId) -> pinfold::realmode::RegionId {
    pinfold::realmode::RegionId::from_raw(id.raw)
}

impl Registry {
    fn pinner(&self) -> InSpace<&crate::host::Pins, pinfold::host::SpaceId> {
        InSpace { pins: &self.engine.pins, space: self.space }
    }

    fn range(&self, start: u64, pages: u64) -> Result<AddrRange, Status> {
        range(start, pages, self.base())
    }
}

/// Pins `desc->pages` pages from `desc->start` on and records them in the table memory, which is the
/// library's until pinfold_registry_reclaim gives it back. All pages or none. If just this range is
/// registered already, with no less access, it is only registered once more: nothing is pinned or
/// charged, and the table memory stays the caller's. `desc->space` is that of the registry, and
/// `desc->flags` have PINFOLD_PIN_LONGTERM.
///
/// The region carries IOMMU pages up to the largest size that divides its start and its length and is not
/// larger than any folio behind it, as far as folios were reported with
/// pinfold_run_sink_push_indivisible.
///
/// To learn how many words a table takes, call this with `table_words` 0: a range that is registered
/// already needs none, else NO_SPACE comes with the number, as in pinfold_region_register.
///
/// # Context
/// May sleep, as far as the hooks do. Any thread, any number at once. Takes the registry's lock for
/// bounded steps, and holds none while it pins.
///
/// # Errors
/// Nothing is pinned, charged or registered, and the table memory is the caller's. Whether something
/// overlaps is known before anything is pinned, except with `table_words` 0.
///
/// INVALID_ARGUMENT: a pointer is null or misaligned, `registry` is no registry, the range is empty,
/// unaligned or wraps, or is not in the registry's window; there are unknown bits or combinations that
/// make no sense, or not those named above; the table memory is not inside one of the areas, or
/// overlaps the engine or the registry's memory; or another region is in the way: `out->with`.
/// NO_SPACE: `out->need_table` or `out->need_own` says of what. BUSY: a region that overlaps is being
/// registered or removed just now, or the table memory overlaps the registry's words or the table of
/// another region, or of one that was not reclaimed yet. OVERFLOW: all regions are taken, or wait
/// to be reclaimed, or it is registered as often as can be counted. OVER_LIMIT: `charge` said so.
/// INTERRUPTED: `pause` said so. BAD_HOST: `pin` broke its contract. NOT_MAPPED, REFUSED, UNMOVABLE,
/// BUSY, NO_MEMORY, OVER_LIMIT, OVERFLOW, INTERRUPTED: `pin` said so.
///
/// # Safety
/// `registry` is null or the handle of a registry. `desc` is null or has as many readable bytes as its
/// first field says, and its table memory is writable and used by nobody else. `out` is null or has as
/// many writable bytes as its first field says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_register(
    registry: *mut Registry,
    desc: *const RegionDesc,
    out: *mut Registered,
) -> Status {
    status::done((|| {
        // SAFETY: null or a registry, by this function's contract.
        let registry = unsafe { open(registry) }?;
        // SAFETY: null, or as large as its first field says, by this function's contract.
        let out = unsafe { pointer::output(out) }?;
        // SAFETY: readable as far as its first field says, by this function's contract.
        let desc = unsafe { pointer::read(desc) }?;
        let engine = registry.engine;
        let request = desc.request(registry.base())?;
        if desc.space != registry.space.0 {
            return Err(PINFOLD_ERR_INVALID_ARGUMENT);
        }
        let table = desc.memory(engine)?;
        table.map_or(Ok(()), |table| registry.apart(table))?;
        let table = table.filter(|table| table.count() >= smallest_table());
        // SAFETY: for the library until it is given back, by this function's contract.
        let words = table.map_or(&[][..], |table| unsafe { table.words() });
        let (said, result) = match registry.regions.register(&registry.pinner(), &request, words) {
            Ok(registered) => Registered::done(registered),
            // None was given, and one is needed.
            Err(RegionError::Unreachable) if table.is_none() => {
                let failure = measure(engine, registry.space, &request);
                let need_table = failure.need.unwrap_or(0);
                (Registered { need_table, ..Registered::NOTHING }, Err(failure.status))
            }
            Err(error) => Registered::refused(error),
        };
        // SAFETY: writable by this function's contract.
        unsafe { out.write(said) };
        result
    })())
}

/// Registers device memory: `pages` pages from `start` on are mapped to the physical addresses from
/// `hpa` on. Nothing is pinned or charged; that the device's memory stays there is the caller's to see
/// to. It carries IOMMU pages up to the largest size that divides its start, its length and `hpa`. If
/// just this is registered already, it is only registered once more.
///
/// # Context
/// As pinfold_registry_register, but that nothing is pinned.
///
/// # Errors
/// As pinfold_registry_register, as far as they apply. INVALID_ARGUMENT: also if `hpa` is not aligned to
/// base pages, or the memory ends beyond 64 bits.
///
/// # Safety
/// `registry` is null or the handle of a registry. `out` is null or has as many writable bytes as its
/// first field says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_register_device(
    registry: *mut Registry,
    start: u64,
    pages: u64,
    hpa: u64,
    out: *mut Registered,
) -> Status {
    status::done((|| {
        // SAFETY: null or a registry, by this function's contract.
        let registry = unsafe { open(registry) }?;
        // SAFETY: null, or as large as its first field says, by this function's contract.
        let out = unsafe { pointer::output(out) }?;
        let range = registry.range(start, pages)?;
        let wait = registry.engine.pins.host();
        let registered = registry.regions.register_device(wait, &range, PhysAddr::new(hpa));
        let (said, result) = registered.map_or_else(Registered::refused, Registered::done);
        // SAFETY: writable by this function's contract.
        unsafe { out.write(said) };
        result
    })())
}

/// Ends one registration of the region, and stores in `*left`, if `left` is not null, how many are left.
/// With the last one all pins and the charge are given back. `dirty` is PINFOLD_DIRTY_ALL if the device
/// may have written anywhere, or PINFOLD_DIRTY_MARKED if marks say where. The table memory comes back
/// from pinfold_registry_reclaim.
///
/// # Context
/// May sleep, as far as the hooks do. Any thread. Cannot be stopped by `pause`.
///
/// # Errors
/// NOT_FOUND: there is no such region, or not any more. BUSY: it was the last registration, and
/// something is mapped; it stays registered. CORRUPT: the table memory was overwritten. Either nothing
/// could be unpinned, and the region stays registered; or what was left was, and the region is gone:
/// pinfold_registry_info tells. INVALID_ARGUMENT: a pointer is misaligned, `registry` is null or no
/// registry, or `dirty` is neither value. `*left` is unchanged.
///
/// # Safety
/// `registry` is null or the handle of a registry; `left` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_unregister(
    registry: *mut Registry,
    id: RegionId,
    dirty: u32,
    left: *mut u64,
) -> Status {
    status::done((|| {
        // SAFETY: null or a registry, by this function's contract.
        let registry = unsafe { open(registry) }?;
        let left = if left.is_null() { None } else { Some(pointer::check(left)?) };
        let dirtied = dirtied(dirty)?;
        let ended = registry.regions.unregister(&registry.pinner(), core_id(id), dirtied);
        let now = match ended {
            Ok(Unregistered::StillUsed(left)) => left,
            Ok(Unregistered::Gone(_)) => 0,
            // Nobody but the registry empties the table of a region that is registered.
            Err(RegionError::Unpin(_)) => return Err(PINFOLD_ERR_CORRUPT),
            Err(error) => return Err(status::of(error.kind())),
        };
        if let Some(left) = left {
            // SAFETY: writable by this function's contract.
            unsafe { pointer::write(left, now) };
        }
        Ok(())
    })())
}

/// Writes to `*out` what is known of the region that covers just these `pages` pages from `start` on.
///
/// # Context
/// Any: takes no lock, calls no hook. Bounded.
///
/// # Errors
/// NOT_FOUND: there is no such region. INVALID_ARGUMENT: a pointer is null or misaligned, `registry` is
/// no registry, or the range is empty, unaligned or wraps. `*out` is unchanged.
///
/// # Safety
/// `registry` is null or the handle of a registry. `out` is null or has as many writable bytes as its
/// first field says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_find(
    registry: *const Registry,
    start: u64,
    pages: u64,
    out: *mut RegionInfo,
) -> Status {
    status::done((|| {
        // SAFETY: null or a registry, by this function's contract.
        let registry = unsafe { open(registry) }?;
        // SAFETY: null, or as large as its first field says, by this function's contract.
        let out = unsafe { pointer::output(out) }?;
        let range = registry.range(start, pages)?;
        let found = registry.regions.find(&range).ok_or(PINFOLD_ERR_NOT_FOUND)?;
        // SAFETY: writable by this function's contract.
        unsafe { out.write(found.into()) };
        Ok(())
    })())
}

/// Writes to `*out` what is known of a region.
///
/// # Context
/// Any: takes no lock, calls no hook. Bounded.
///
/// # Errors
/// NOT_FOUND: there is no such region, or not any more. INVALID_ARGUMENT: a pointer is null or
/// misaligned, or `registry` is no registry. `*out` is unchanged.
///
/// # Safety
/// `registry` is null or the handle of a registry. `out` is null or has as many writable bytes as its
/// first field says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_info(
    registry: *const Registry,
    id: RegionId,
    out: *mut RegionInfo,
) -> Status {
    status::done((|| {
        // SAFETY: null or a registry, by this function's contract.
        let registry = unsafe { open(registry) }?;
        // SAFETY: null, or as large as its first field says, by this function's contract.
        let out = unsafe { pointer::output(out) }?;
        let found = registry.regions.region(core_id(id)).ok_or(PINFOLD_ERR_NOT_FOUND)?;
        // SAFETY: writable by this function's contract.
        unsafe { out.write(found.into()) };
        Ok(())
    })())
}

/// Stores in `*out` the region of device memory that holds the physical address `hpa`, and in `*bytes`
/// how many bytes of the page of `1 << shift` bytes around it lie there, from `hpa` on.
///
/// # Context
/// May sleep, as far as the pause hook does, whose answer does not matter here: every record that was
/// ever in use is read.
///
/// # Errors
/// NOT_FOUND: no device memory is registered there. INVALID_ARGUMENT: a pointer is null or misaligned,
/// `registry` is no registry, or `shift` is above 63. `*out` and `*bytes` are unchanged.
///
/// # Safety
/// `registry` is null or the handle of a registry. `out` and `bytes` are null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pinfold_registry_device_at(
    registry: *mut Registry,
    hpa: u64,
    shift: u32,
    out: *mut RegionId,
    bytes: *mut u64,
) -> Status {
    status::done((|| {
        // SAFETY: null or a registry, by this function's contract.
        let registry = unsafe { open(registry) }?;
        let (out, bytes) = (pointer::check(out)?, pointer::check(bytes)?);
        let shift = u8::try_from(shift).ok().and_then(PageShift::new);
        let shift = shift.ok_or(PINFOLD_ERR_INVALID_ARGUMENT)?;
        let wait = registry.engine.pins.host();
        let found = registry.regions.device_at(wait, PhysAddr::new(hpa), shift);
        let found = found.ok_or(PINFOLD_ERR_NOT_FOUND)?;
        // SAFETY: writable by this function's contract.
        unsafe { pointer::write(out, RegionId { raw: found.region.raw() }) };
        // SAFETY: the same.
        unsafe { pointer::write(bytes, found.bytes) };
        Ok(())
    })())
}
