//! Whether a folio may be pinned, as far as that can be said without sleeping.

use pinfold_arch::{Access, PageCount, PageFormat, Pfn};

use super::Call;
use super::defer::Defer;
use crate::folio::{Folio, FolioFlags, FolioKind};
use crate::host::{GupHost, Mapping};
use crate::policy::{self, Refusal, Verdict};
use crate::request::PinFlags;

/// The folio of a frame, if it may be pinned.
#[inline]
pub(super) fn permitted<H: GupHost, F: PageFormat>(
    call: &Call<'_, '_, H, F>,
    pfn: Pfn,
    mapping: Option<Mapping>,
) -> Result<Folio, Defer> {
    let Some(folio) = call.frames.folio(pfn) else {
        let known = call.frames.has_memory(pfn);
        return Err(if known { Defer::Changed(pfn) } else { Defer::NotMemory(pfn) });
    };
    allowed(call, folio, pfn, mapping)?;
    Ok(folio)
}

/// Whether the folio may be pinned, as far as that can be said here. Without the mapping it answers
/// "needs the mapping" wherever the mapping could matter.
#[inline]
fn allowed<H: GupHost, F: PageFormat>(
    call: &Call<'_, '_, H, F>,
    folio: Folio,
    pfn: Pfn,
    mapping: Option<Mapping>,
) -> Result<(), Defer> {
    let info = folio.info();
    let flags = call.request.flags;
    let longterm = flags.contains(PinFlags::LONGTERM);
    let write = call.request.access.contains(Access::WRITE);
    if longterm {
        match policy::verdict(info) {
            Verdict::Pin => {}
            Verdict::Move(why) => {
                return Err(Defer::Move { folio, why, pfn, run: PageCount::ONE });
            }
            Verdict::Refuse(refusal) => return Err(Defer::Refused(refusal)),
        }
    }
    if flags.contains(PinFlags::ANONYMOUS) && mapping.is_none() {
        return Err(Defer::NeedsMapping);
    }
    match info.kind {
        FolioKind::NoMemory => return Err(Defer::NotMemory(pfn)),
        FolioKind::Free | FolioKind::Kernel => return Err(Defer::Refused(Refusal::NotUserMemory)),
        FolioKind::Secret => return Err(Defer::Refused(Refusal::Secret)),
        FolioKind::PeerToPeer if !flags.contains(PinFlags::PEER_TO_PEER) => {
            return Err(Defer::Refused(Refusal::PeerToPeer));
        }
        // A long-term write to a file depends on whether the mapping tracks dirty pages.
        FolioKind::File if longterm && write && mapping.is_none() => {
            return Err(Defer::NeedsMapping);
        }
        _ => {}
    }
    if write {
        return Ok(());
    }
    if info.flags.contains(FolioFlags::EXCLUSIVE) {
        return Ok(());
    }
    // It is not the mapping's own: a later write of the process would put another in its place.
    // For private memory that matters however short the pin is, for the rest only in the long
    // run; and of hugetlb memory only the mapping knows whether it is private.
    match info.kind {
        FolioKind::Anonymous | FolioKind::DeviceCoherent
            if !info.flags.contains(FolioFlags::ZERO) =>
        {
            return Err(Defer::Unshare);
        }
        FolioKind::Hugetlb => {}
        _ if longterm => {}
        _ => return Ok(()),
    }
    match mapping {
        None => Err(Defer::NeedsMapping),
        Some(mapping) if mapping.copies_on_write() => Err(Defer::Unshare),
        Some(_) => Ok(()),
    }
}
