//! The rules, one function each. Their errors are the answers; see [`policy`](super).

#![expect(clippy::missing_errors_doc, reason = "each rule has one error, named by its own name")]

use pinfold_arch::Access;

use super::{Refusal, RequestError, Traits};
use crate::host::{Mapping, MappingKind};
use crate::request::PinFlags;

/// Bits that are not defined are refused, not ignored.
pub fn known_bits(access: Access, flags: PinFlags) -> Result<(), RequestError> {
    let known = Access::all().contains(access) && PinFlags::all().contains(flags);
    if known { Ok(()) } else { Err(RequestError::UnknownBits) }
}

/// A pin is for reading, writing or both.
pub fn some_access(access: Access) -> Result<(), RequestError> {
    if access.is_empty() { Err(RequestError::NoAccess) } else { Ok(()) }
}

/// Peer-to-peer memory must stay unpluggable.
pub fn peer_to_peer_is_short(flags: PinFlags) -> Result<(), RequestError> {
    let both = flags.contains(PinFlags::LONGTERM | PinFlags::PEER_TO_PEER);
    if both { Err(RequestError::LongtermPeerToPeer) } else { Ok(()) }
}

/// A short-term pin goes by itself; there is nothing to revoke.
pub fn revocable_is_long(flags: PinFlags, revocable: bool) -> Result<(), RequestError> {
    let short = !flags.contains(PinFlags::LONGTERM);
    if revocable && short { Err(RequestError::RevocableShortterm) } else { Ok(()) }
}

/// Device mappings have no frames (`VM_IO`, `VM_PFNMAP`).
pub fn has_frames(mapping: &Mapping) -> Result<(), Refusal> {
    if mapping.kind == MappingKind::Device { Err(Refusal::Device) } else { Ok(()) }
}

/// `ANONYMOUS` refuses everything else.
pub fn anonymous_if_asked(mapping: &Mapping, flags: PinFlags) -> Result<(), Refusal> {
    let wrong = flags.contains(PinFlags::ANONYMOUS) && mapping.kind != MappingKind::Anonymous;
    if wrong { Err(Refusal::NotAnonymous) } else { Ok(()) }
}

/// The lifetime of fsdax memory is its file system's.
pub fn no_longterm_fsdax(mapping: &Mapping, flags: PinFlags) -> Result<(), Refusal> {
    let wrong = flags.contains(PinFlags::LONGTERM) && mapping.kind == MappingKind::FsDax;
    if wrong { Err(Refusal::FsDax) } else { Ok(()) }
}

/// Secret memory is hidden from devices too.
pub fn not_secret(mapping: &Mapping) -> Result<(), Refusal> {
    if mapping.kind == MappingKind::Secret { Err(Refusal::Secret) } else { Ok(()) }
}

/// After write-back the file system takes a page for clean, but the device keeps writing.
pub fn no_untracked_writes(
    mapping: &Mapping,
    access: Access,
    flags: PinFlags,
) -> Result<(), Refusal> {
    let long_write = flags.contains(PinFlags::LONGTERM) && access.contains(Access::WRITE);
    let tracked = mapping.dirty_tracked && mapping.shared;
    if long_write && tracked { Err(Refusal::DirtyTracked) } else { Ok(()) }
}

/// A write pin needs a writable mapping. There is no way to force it.
pub fn writable_if_written(mapping: &Mapping, access: Access) -> Result<(), Refusal> {
    let wrong = access.contains(Access::WRITE) && !mapping.access.contains(Access::WRITE);
    if wrong { Err(Refusal::NotWritable) } else { Ok(()) }
}

/// A read pin needs a readable mapping.
pub fn readable_if_read(mapping: &Mapping, access: Access) -> Result<(), Refusal> {
    let wrong = access.contains(Access::READ) && !mapping.access.contains(Access::READ);
    if wrong { Err(Refusal::NotReadable) } else { Ok(()) }
}

/// CMA memory must stay reclaimable for its owner.
#[inline]
#[must_use]
pub fn in_cma(traits: Traits) -> bool {
    traits.contains(Traits::CMA)
}

/// An isolated block is being emptied.
#[inline]
#[must_use]
pub fn in_isolated_block(traits: Traits) -> bool {
    traits.contains(Traits::ISOLATED)
}

/// The zero frame is permanent, is never counted, and cannot be moved: wherever its zone, it may
/// be pinned.
#[inline]
#[must_use]
pub fn is_zero_frame(traits: Traits) -> bool {
    traits.contains(Traits::ZERO)
}

/// The driver of device-coherent memory must be able to evict it.
#[inline]
#[must_use]
pub fn is_coherent(traits: Traits) -> bool {
    traits.contains(Traits::COHERENT)
}

/// Truncate tolerates only short delays on fsdax memory.
#[inline]
#[must_use]
pub fn is_fsdax(traits: Traits) -> bool {
    traits.contains(Traits::FSDAX)
}

/// A pin would defeat hot-unplug of a movable zone.
#[inline]
#[must_use]
pub fn in_movable_zone(traits: Traits) -> bool {
    traits.contains(Traits::MOVABLE)
}
