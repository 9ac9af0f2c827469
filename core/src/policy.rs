//! What may be pinned.
//!
//! Three questions, in the order in which they are asked: is the request one that makes sense
//! ([`request`]), does the mapping allow it ([`mapping`]), may this folio be held for long
//! ([`longterm`]). Each is a list of rules in [`rules`], one function a rule; nothing is merged
//! into one expression, because that is how the zero page was refused twice in Linux
//! (D18 and D19 of core/tests/DEFECTS.md).

use pinfold_arch::Access;

use crate::folio::{FolioFlags, FolioInfo, FolioKind, Why};
use crate::host::Mapping;
use crate::request::PinFlags;

pub(crate) mod migrate;
pub mod rules;

/// A combination of access and flags that is never allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Neither reading nor writing was asked for.
    #[error("neither read nor write access was asked for")]
    NoAccess,
    /// A flag that does not exist.
    #[error("unknown bits in the flags or the access")]
    UnknownBits,
    /// Peer-to-peer device memory must stay unpluggable.
    #[error("a long-term pin of peer-to-peer memory is not allowed")]
    LongtermPeerToPeer,
    /// Who can be asked to let go must say so for long-term pins only.
    #[error("only long-term pins are revocable")]
    RevocableShortterm,
}

/// Memory that may not be pinned as asked, however often one tries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Device registers or frames without a descriptor.
    #[error("device memory has no frames to pin")]
    Device,
    /// The request wants anonymous memory only.
    #[error("not anonymous memory")]
    NotAnonymous,
    /// Truncate must be able to take fsdax memory back.
    #[error("file-system DAX memory must not be pinned for long")]
    FsDax,
    /// Secret memory.
    #[error("secret memory must not be pinned")]
    Secret,
    /// The file system would not see what the device writes.
    #[error("a device must not write for long to a shared file that tracks dirty pages")]
    DirtyTracked,
    /// The mapping does not allow writing.
    #[error("the mapping is not writable")]
    NotWritable,
    /// The mapping does not allow reading.
    #[error("the mapping is not readable")]
    NotReadable,
    /// Peer-to-peer memory without the flag for it.
    #[error("peer-to-peer memory needs its flag")]
    PeerToPeer,
    /// Memory of the kernel itself, or free memory, is mapped there.
    #[error("not user memory")]
    NotUserMemory,
    /// A zero page in a place that must be emptied: it can be neither pinned nor moved.
    #[error("a zero page {0}")]
    ZeroPage(Why),
}

/// What to do with a folio that is to be pinned for long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Pin it where it is.
    Pin,
    /// Move it first.
    Move(Why),
    /// It can be neither pinned nor moved.
    Refuse(Refusal),
}

bitflags::bitflags! {
    /// What the long-term rules look at.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Traits: u8 {
        /// In a CMA area.
        const CMA = 1;
        /// In a block that is being emptied.
        const ISOLATED = 2;
        /// A shared zero frame (not the huge zero folio).
        const ZERO = 4;
        /// Device-coherent memory.
        const COHERENT = 8;
        /// File-system DAX memory.
        const FSDAX = 16;
        /// In a movable zone.
        const MOVABLE = 32;
    }
}

impl Traits {
    /// What the rules need to know of a folio.
    #[inline]
    #[must_use]
    pub fn of(info: FolioInfo) -> Self {
        let mut traits = Self::empty();
        traits.set(Self::CMA, info.flags.contains(FolioFlags::CMA));
        traits.set(Self::ISOLATED, info.flags.contains(FolioFlags::ISOLATED));
        traits.set(Self::ZERO, info.is_zero_frame());
        traits.set(Self::COHERENT, info.kind == FolioKind::DeviceCoherent);
        traits.set(Self::FSDAX, info.kind == FolioKind::FsDax);
        traits.set(Self::MOVABLE, info.flags.contains(FolioFlags::MOVABLE));
        traits
    }
}

/// Whether the request makes sense, before anything is looked at.
///
/// # Errors
/// [`RequestError`], the first rule that is broken.
pub fn request(access: Access, flags: PinFlags, revocable: bool) -> Result<(), RequestError> {
    rules::known_bits(access, flags)?;
    rules::some_access(access)?;
    rules::peer_to_peer_is_short(flags)?;
    rules::revocable_is_long(flags, revocable)
}

/// Whether the mapping allows the pin: the rules that page tables and frames cannot answer. The
/// order is that of Linux `check_vma_flags`, so that the same wrong request gets the same answer.
///
/// # Errors
/// [`Refusal`], the first rule that is broken.
pub fn mapping(mapping: &Mapping, access: Access, flags: PinFlags) -> Result<(), Refusal> {
    rules::has_frames(mapping)?;
    rules::anonymous_if_asked(mapping, flags)?;
    rules::no_longterm_fsdax(mapping, flags)?;
    rules::not_secret(mapping)?;
    rules::no_untracked_writes(mapping, access, flags)?;
    rules::writable_if_written(mapping, access)?;
    rules::readable_if_read(mapping, access)
}

/// Whether a folio with these traits may be pinned for long where it is: `None`, or why not.
///
/// The order matters twice: a CMA or isolated block beats the zero frame, and the zero frame beats
/// the zone.
#[inline]
#[must_use]
pub fn longterm(traits: Traits) -> Option<Why> {
    if traits.is_empty() {
        return None;
    }
    if rules::in_cma(traits) {
        return Some(Why::Cma);
    }
    if rules::in_isolated_block(traits) {
        return Some(Why::Isolated);
    }
    if rules::is_zero_frame(traits) {
        return None;
    }
    if rules::is_coherent(traits) {
        return Some(Why::Coherent);
    }
    if rules::is_fsdax(traits) {
        return Some(Why::FsDax);
    }
    if rules::in_movable_zone(traits) {
        return Some(Why::Movable);
    }
    None
}

/// What to do with a folio that is to be pinned for long.
#[inline]
#[must_use]
pub fn verdict(info: FolioInfo) -> Verdict {
    match longterm(Traits::of(info)) {
        None => Verdict::Pin,
        Some(why) if info.flags.contains(FolioFlags::ZERO) => {
            Verdict::Refuse(Refusal::ZeroPage(why))
        }
        Some(Why::FsDax) => Verdict::Refuse(Refusal::FsDax),
        Some(why) => Verdict::Move(why),
    }
}
