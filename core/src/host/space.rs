//! What the owner of an address space knows about an address that its page tables do not say.

use pinfold_arch::{Access, AddrRange, VirtAddr};

/// Names an address space to the host's own functions. The embedder chooses the numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpaceId(pub u64);

/// What backs a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum MappingKind {
    /// Anonymous memory.
    Anonymous,
    /// Shared memory without a disk behind it (tmpfs, memfd, System V).
    Shmem,
    /// Huge pages from a reserved pool.
    Hugetlb,
    /// A file of a file system that writes back.
    File,
    /// A file mapped straight onto persistent memory by its file system.
    FsDax,
    /// Memory hidden from the kernel itself.
    Secret,
    /// Device registers or other frames without a page descriptor.
    Device,
}

/// What a mapping allows: what Linux reads off the VMA.
///
/// Valid as long as the space's invalidation sequence stands, see
/// [`AddressSpace`](crate::space::AddressSpace).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Where it lies.
    pub range: AddrRange,
    /// What backs it.
    pub kind: MappingKind,
    /// Whether stores reach the backing object (`MAP_SHARED`).
    pub shared: bool,
    /// What the process may do now.
    pub access: Access,
    /// Whether it could be made writable (`VM_MAYWRITE`).
    pub may_write: bool,
    /// Whether its file system must be told before a page is dirtied. Only ever true where the
    /// mapping is shared and writable.
    pub dirty_tracked: bool,
}

impl Mapping {
    /// Whether a write makes a private copy: the mapping is private and may become writable.
    #[must_use]
    pub const fn copies_on_write(&self) -> bool {
        !self.shared && self.may_write
    }
}

/// Looks up mappings.
///
/// Where a folio's [kind](crate::folio::FolioKind) says all there is to know, mappings are not looked
/// up: what the embedder maps as device registers, secret memory, fsdax memory or a file whose
/// dirty pages are tracked must not lead to folios whose kind is another's, such as anonymous. There is
/// one case that does no harm: the copies that a private mapping of an fsdax file has of its pages.
/// They are pinned where they need neither a fault nor a move, as by Linux.
///
/// What goes wrong otherwise: [`mapping-lookup`](super::duties#mapping-lookup),
/// [`folio-kinds`](super::duties#folio-kinds).
pub trait Mappings {
    /// The mapping that holds `va`, or `None` where nothing is mapped.
    ///
    /// # Context
    /// May sleep. Called with no engine lock and no walk guard held; the embedder takes and drops
    /// its own lock.
    fn mapping(&self, space: SpaceId, va: VirtAddr) -> Option<Mapping>;
}
