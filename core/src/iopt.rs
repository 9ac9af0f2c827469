//! The tables of an IOMMU: which memory a device finds behind its addresses.
//!
//! [`IoPageTable`] keeps a tree of tables in any [`IoFormat`]. It maps [`IoRun`]s of memory with the largest
//! leaves that the format has and the run allows, and takes a range out in pieces as large as the caller's
//! buffer. What was taken out may be used by the device until its IOMMU has been flushed: so
//! an [`Unmapped`] comes between, and tables go back to the host only behind it.
//!
//! Who maps and unmaps different ranges need not know of each other. The same range belongs to one of
//! them at a time.
//!
//! ```
//! use pinfold::iopt::{IoPageTable, IoRun, IovaRange};
//! use pinfold::{Access, PhysAddr};
//! use pinfold_arch::{IoFlags, Iova, Vtd};
//! use pinfold_sim::TableMemory;
//!
//! let memory = TableMemory::new(1 << 20);
//! let table = IoPageTable::new(Vtd::new(4, 46)?, &memory)?;
//! let run = IoRun { addr: PhysAddr::new(0x4020_0000), bytes: 3 << 20 };
//! table.map(&memory, Iova::new(0x20_0000), &[run], Access::all(), IoFlags::empty())?;
//! let found = table.translate(&memory, Iova::new(0x20_1234))?.unwrap();
//! assert_eq!((found.addr, found.shift.raw()), (PhysAddr::new(0x4020_1234), 21));
//!
//! let range = IovaRange::new(Iova::new(0x20_0000), 3 << 20)?;
//! let mut unmap = table.unmap(&memory, range)?;
//! let mut runs = heapless::Vec::<IoRun, 512>::new();
//! while let Some(unmapped) = unmap.step(&memory, &mut runs)? {
//!     // Here the IOMMU is told to forget `unmapped.range()`. Then:
//!     unmapped.flushed(&memory)?;
//!     assert_eq!(runs, [run]); // may be unpinned now
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use pinfold_arch::{
    Access, EncodeError, IoEntry, IoFlags, IoFormat, IoTable, Iova, PageShift, PhysAddr,
};

use crate::error::ErrorKind;
use crate::host::{IoTables, TableView};
use crate::sync::{Ordering, Word};

mod map;
mod range;
mod tree;
mod unmap;

pub use range::{IovaRange, IovaRangeError};
pub use unmap::{Unmap, Unmapped};

/// Memory for a device to use: consecutive bytes that are pinned and released together.
///
/// No leaf reaches over the end of a run: what may be released alone is a run of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoRun {
    /// First byte.
    pub addr: PhysAddr,
    /// Length.
    pub bytes: u64,
}

/// Where a device address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoTranslation {
    /// The byte in memory.
    pub addr: PhysAddr,
    /// Size of the leaf that maps it.
    pub shift: PageShift,
    /// What all entries on the way allow together.
    pub access: Access,
    /// The leaf's marks.
    pub flags: IoFlags,
}

/// The tables of one device address space.
#[derive(Debug)]
pub struct IoPageTable<F> {
    format: F,
    root: IoTable,
    /// Tables that the host gave and that it has not got back. Written by everybody who maps or
    /// unmaps; says nothing about the order of anything else.
    live: Word,
}

/// Why tables were not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoptError {
    /// The address, or the length of a run, is not a multiple of the format's smallest page.
    #[error("{at} or the memory for it is not page aligned")]
    Unaligned {
        /// The device address.
        at: Iova,
    },
    /// The format does not translate the address, or addresses would wrap.
    #[error("what begins at {at} goes beyond what the tables translate")]
    OutsideAperture {
        /// The device address, or where the run or range begins that goes beyond.
        at: Iova,
    },
    /// Something is mapped there already.
    #[error("{at} is mapped already")]
    Mapped {
        /// The device address.
        at: Iova,
    },
    /// The range ends inside a leaf.
    #[error("the range ends inside the page at {at}")]
    InsideLeaf {
        /// Where that leaf begins.
        at: Iova,
        /// Its size.
        shift: PageShift,
    },
    /// The format has no entry for the memory or the access.
    #[error("no entry for {at}: {why}")]
    Encode {
        /// The device address.
        at: Iova,
        /// What cannot be said.
        why: EncodeError,
    },
    /// The buffer for what is unmapped has no room.
    #[error("the buffer for runs has no room")]
    NoBuffer,
    /// The host has no memory for a table.
    #[error("no memory for a table")]
    NoMemory,
    /// An entry on the way is malformed, or a table is outside memory.
    #[error("the table entry {raw:#x} on the way to {at} is corrupt")]
    Corrupt {
        /// The device address.
        at: Iova,
        /// The entry, in host byte order.
        raw: u64,
    },
}

impl IoptError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unaligned { .. }
            | Self::OutsideAperture { .. }
            | Self::InsideLeaf { .. }
            | Self::NoBuffer
            | Self::Encode { .. } => ErrorKind::InvalidArgument,
            Self::Mapped { .. } => ErrorKind::Busy,
            Self::NoMemory => ErrorKind::NoMemory,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }
}

impl<F: IoFormat> IoPageTable<F> {
    /// Tables that map nothing: the top one, in memory of the host's.
    ///
    /// # Errors
    /// [`IoptError::NoMemory`]; [`IoptError::Corrupt`] if the memory that the host gives is not in its
    /// memory.
    pub fn new<T: IoTables>(format: F, tables: &T) -> Result<Self, IoptError> {
        let live = Word::new(0);
        let shape = format.top(PhysAddr::new(0));
        let (root, _) = tree::allocate(&format, tables, &live, shape, Iova::new(0))?;
        Ok(Self { format, root, live })
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> F {
        self.format
    }

    /// The top table, to be named in the device's root entry.
    #[must_use]
    pub fn root(&self) -> IoTable {
        self.root
    }

    /// Tables that the host gave and that it has not got back.
    #[must_use]
    pub fn tables(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Where `at` leads, `None` where nothing is mapped.
    ///
    /// # Context
    /// Any. No table that has been unmapped meanwhile may be given back before this returns.
    ///
    /// # Errors
    /// [`IoptError::OutsideAperture`], [`IoptError::Corrupt`].
    pub fn translate<T: IoTables>(
        &self,
        tables: &T,
        at: Iova,
    ) -> Result<Option<IoTranslation>, IoptError> {
        if at > self.format.last() {
            return Err(IoptError::OutsideAperture { at });
        }
        let (mut table, mut access) = (self.root, Access::all());
        loop {
            let view = view(tables, &table, at)?;
            match tree::entry(&self.format, &table, &view, at)? {
                IoEntry::Absent => return Ok(None),
                IoEntry::Table(next, most) => (table, access) = (next, access & most),
                IoEntry::Leaf(leaf) => {
                    let addr = leaf.addr.checked_add(at.raw() & leaf.shift.mask());
                    let (shift, flags) = (leaf.shift, leaf.flags);
                    let access = access & leaf.access;
                    return Ok(addr.map(|addr| IoTranslation { addr, shift, access, flags }));
                }
                IoEntry::Malformed => return Err(IoptError::Corrupt { at, raw: 0 }),
            }
        }
    }

    /// Gives back all tables, whatever they map.
    ///
    /// # Context
    /// Any. No IOMMU uses the tables any more.
    ///
    /// # Errors
    /// [`IoptError::Corrupt`]: what is behind a corrupt entry was not given back, everything else was.
    pub fn destroy<T: IoTables>(self, tables: &T) -> Result<(), IoptError> {
        let result = tree::destroy(&self.format, tables, &self.live, &self.root);
        tree::release(tables, &self.live, &self.root);
        result
    }
}

/// The entries of a table.
fn view<'m, T: IoTables>(
    tables: &'m T,
    table: &IoTable,
    at: Iova,
) -> Result<TableView<'m>, IoptError> {
    let entries = usize::try_from(table.entries()).ok();
    let view = entries.and_then(|entries| tables.table(table.base, entries));
    view.ok_or(IoptError::Corrupt { at, raw: table.base.raw() })
}
