//! Where roots stand: in process tables, which stand in partition tables, which a register names.
//!
//! Power ISA 3.0B, Book III, section 5.7.6: 5.7.6.1 "Partition Table" and 5.7.6.2 "Process Table".
//! Both have entries of two doublewords, most significant byte first. The first doubleword of a
//! partition's entry names the tree or hash table that translates its real addresses, the second
//! its process table; the first doubleword of a process's entry names its tree.

use super::NEXT_BITS;
use crate::addr::PhysAddr;
use crate::format::FormatError;

/// Set in either doubleword of a partition-table entry where radix trees are used.
pub(super) const RADIX: u64 = 1 << 63;
/// Beside the root's address and size, and the size of the address space.
pub(super) const ROOT_RESERVED: u64 = 1 << 63 | 1 << 60;
/// Address of a partition or process table: bits 59:12.
const TABLE: u64 = (1 << 60) - 0x1000;
/// The largest size field of such a table.
const MAX_SIZE: u64 = 24;
/// An entry has two doublewords.
const ENTRY_BYTES: u64 = 16;

/// How many address bits the tree of a root translates: 31 more than a field says whose upper two
/// bits stand in 62:61 and whose lower three in 7:5.
pub(super) const fn space(root: u64) -> u8 {
    31 + (root >> 61 & 3) as u8 * 8 + (root >> 5 & 7) as u8
}

/// A partition table or a process table: where the entry of each number stands.
///
/// ```
/// use pinfold_arch::PowerRadix;
/// use pinfold_arch::format::power_radix::RootTable;
/// use pinfold_arch::PageShift;
///
/// // As one reads it from memory, big-endian: the second doubleword of partition 0's entry.
/// let processes = RootTable::processes(0x8000_0000_fe00_000c)?;
/// let entry = processes.entry(1).unwrap();
/// assert_eq!(entry.raw(), 0xfe00_0010);
/// // The first doubleword of process 1's entry, read from there.
/// let base = PageShift::new(16).unwrap();
/// let (format, root) = PowerRadix::from_process_entry(base, 0x4000_0000_0123_00ad)?;
/// assert_eq!((root.base.raw(), root.shift.raw(), root.bits), (0x0123_0000, 39, 13));
/// # Ok::<(), pinfold_arch::FormatError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RootTable {
    base: PhysAddr,
    /// The table has `1 << size` entries.
    size: u8,
}

impl RootTable {
    /// The partition table, from the register PTCR: an entry for each logical partition number.
    ///
    /// # Errors
    /// [`FormatError::Root`] if reserved bits are set.
    pub const fn partitions(ptcr: u64) -> Result<Self, FormatError> {
        Self::new(ptcr, ptcr)
    }

    /// A partition's process table, from the second doubleword of its partition-table entry in host
    /// byte order: an entry for each process number. Its address is one that the partition uses, a
    /// guest's real address in a guest.
    ///
    /// # Errors
    /// [`FormatError::NotRadix`] if the partition's processes use a hash table,
    /// [`FormatError::Root`] if reserved bits are set.
    pub const fn processes(raw: u64) -> Result<Self, FormatError> {
        if raw & RADIX == 0 {
            return Err(FormatError::NotRadix { raw });
        }
        Self::new(raw, raw & !RADIX)
    }

    const fn new(raw: u64, fields: u64) -> Result<Self, FormatError> {
        let size = fields & NEXT_BITS;
        if fields & !(TABLE | NEXT_BITS) != 0 || size > MAX_SIZE {
            return Err(FormatError::Root { raw });
        }
        // The field counts from 4 KiB, which is 256 entries.
        Ok(Self { base: PhysAddr::new(fields & TABLE), size: 8 + size as u8 })
    }

    /// Where the entry with this number stands; `None` beyond the end of the table.
    #[must_use]
    pub const fn entry(&self, number: u32) -> Option<PhysAddr> {
        let number = number as u64;
        if number >> self.size != 0 {
            return None;
        }
        self.base.checked_add(number * ENTRY_BYTES)
    }
}
