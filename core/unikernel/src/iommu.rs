//! What the scenario wants of an IOMMU, and the three that there are.

use pinfold::IovaRange;
use pinfold::host::{FlushError, IoTlb};
use pinfold_arch::{IoFormat, IoTable, Iova, PageShift};

use crate::registers::in_time;

pub mod amdvi;
mod ring;
pub mod smmu;
pub mod vtd;

/// Pieces of a range after which it is told to forget a whole domain.
const MANY: usize = 64;

/// An IOMMU that translates for one device.
///
/// The programs have one CPU and no interrupts: no call begins while another is under way. So what an
/// IOMMU's driver counts is in atomics, as sharing it takes, but nobody waits for a lock.
pub trait Iommu: IoTlb {
    /// The format of its tables.
    type Format: IoFormat;

    /// Whether it translates with tables of this format.
    fn has(&self, format: &Self::Format) -> bool {
        let _ = format;
        true
    }

    /// The first address that it translates.
    fn first(&self) -> Iova {
        Iova::new(0)
    }

    /// Gives the device these tables, and forgets everything that was kept of others.
    ///
    /// # Errors
    /// [`FlushError`] if it does not do so in time.
    fn attach(&self, format: Self::Format, root: IoTable) -> Result<(), FlushError>;

    /// Takes the tables from the device: all its accesses are blocked.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    fn detach(&self) -> Result<(), FlushError>;

    /// What it says of accesses that it blocked, and forgets.
    fn faults(&self) -> Faults;
}

/// What an IOMMU says of accesses that it blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    /// It does not say anything.
    Unknown,
    /// There was none since it was last asked.
    None,
    /// The first of them.
    First {
        /// The address; its lowest 12 bits may be missing.
        at: Iova,
        /// Whether the device wanted to write, if it says so.
        write: Option<bool>,
    },
}

/// Waits until an IOMMU has done something.
fn until(done: impl Fn() -> bool) -> Result<(), FlushError> {
    if in_time(done) { Ok(()) } else { Err(FlushError) }
}

/// Divides a range into pieces that are each a power of two and aligned to themselves, of `base` at least and
/// `most` at most.
pub fn pieces(
    range: IovaRange,
    base: PageShift,
    most: PageShift,
) -> impl Iterator<Item = (Iova, PageShift)> + Clone {
    let mut next = Some(range.start());
    core::iter::from_fn(move || {
        let at = next?;
        let fits = |shift: &PageShift| {
            at.is_aligned(*shift) && at.raw() | shift.mask() <= range.last().raw()
        };
        let sizes = (base.raw()..=most.raw()).rev().filter_map(PageShift::new);
        let shift = sizes.into_iter().find(fits).unwrap_or(base);
        let behind = at.checked_add(shift.bytes());
        next = behind.filter(|behind| *behind <= range.last());
        Some((at, shift))
    })
}

/// Whether forgetting them one by one is worth it.
fn are_few(pieces: impl Iterator) -> bool {
    pieces.take(MANY + 1).count() <= MANY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_range_and_nothing_else() {
        let shift = |raw| PageShift::new(raw).unwrap();
        let all = |start, bytes| {
            let range = IovaRange::new(Iova::new(start), bytes).unwrap();
            let mut sum = 0;
            for (at, size) in pieces(range, shift(12), shift(21)) {
                assert!(at.is_aligned(size) && at.raw() == start + sum, "{at} {size:?}");
                sum += size.bytes();
            }
            (sum, pieces(range, shift(12), shift(21)).count())
        };
        assert_eq!(all(0x20_0000, 0x40_0000), (0x40_0000, 2));
        assert_eq!(all(0x1f_f000, 0x20_2000), (0x20_2000, 3));
        assert_eq!(all(0x7000, 0x5000), (0x5000, 2));
        let top = IovaRange::new(Iova::new(u64::MAX - 0xfff), 0x1000).unwrap();
        assert_eq!(pieces(top, shift(12), shift(21)).count(), 1);
    }
}
