//! What must arrive, and what must not.
//!
//! [`Stage`] has what all tables share: memory, the device and the report. A space is one set of tables
//! with the device behind it, and what can be asked of it. [`run`] asks.

use core::fmt::{self, Display};

use pinfold_arch::{IoFormat, PageShift, PhysAddr};

use crate::iommu::Iommu;

mod changes;
mod holes;
mod leaves;
mod probe;
mod random;
mod rights;
mod space;
mod stage;
mod walls;

pub use probe::WINDOW;
use space::Space;
pub use stage::Stage;

/// Leaves that are larger than memory cannot be tried.
const LARGEST: PageShift = match PageShift::new(30) {
    Some(shift) => shift,
    None => panic!("a size"),
};

/// What an emulated IOMMU does not check, though the real one does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Blind {
    /// Addresses beyond what the tables translate.
    pub beyond: bool,
    /// That something must be flushed: it keeps no translations.
    pub keeps: bool,
}

/// All checks of one format on one IOMMU, with so many random calls. The device is blocked afterwards.
pub fn run<U: Iommu>(
    stage: &mut Stage<'_, '_>,
    unit: &U,
    format: U::Format,
    blind: Blind,
    calls: u32,
) {
    let before = stage.memory.tables();
    let mut space = Space::new(stage, unit, format);
    leaves::each_size(&mut space, blind);
    rights::one_at_a_time(&mut space);
    holes::in_the_middle(&mut space);
    walls::first_and_last(&mut space, blind);
    changes::split(&mut space);
    changes::replace(&mut space);
    if calls > 0 {
        random::calls(&mut space, calls);
    }
    changes::grow(&mut space);
    walls::without_tables(space);
    let left = stage.memory.tables();
    stage.report.check(left == before, format_args!("every table was given back"));
}

/// The sizes of leaves that fit memory, small ones first.
fn sizes<F: IoFormat>(format: F) -> impl Iterator<Item = PageShift> {
    let fits = move |shift: &PageShift| {
        let mut table = format.top(PhysAddr::new(0));
        loop {
            if format.leaf_sizes(&table).contains(*shift) {
                return true;
            }
            match format.below(&table, PhysAddr::new(0)) {
                Some(below) => table = below,
                None => return false,
            }
        }
    };
    (format.base().raw()..=LARGEST.raw()).filter_map(PageShift::new).filter(fits)
}

/// The size of a leaf one level above the smallest.
fn block<F: IoFormat>(format: F) -> Option<PageShift> {
    // Tables are as large as a page, with 8 bytes an entry.
    let shift = PageShift::new(2 * format.base().raw() - 3)?;
    sizes(format).find(|size| *size == shift)
}

/// A size as people say it: `2M`.
struct Size(PageShift);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0.raw() {
            30.. => (30, 'G'),
            20.. => (20, 'M'),
            _ => (10, 'K'),
        };
        write!(f, "{}{name}", self.0.bytes() >> unit)
    }
}

#[cfg(test)]
mod tests {
    use pinfold_arch::{AmdVi, Vtd};

    use super::*;

    #[test]
    fn sizes_of_the_formats() {
        let vtd = Vtd::new(3, 39).unwrap();
        assert!(sizes(vtd).map(PageShift::raw).eq([12, 21, 30]));
        assert!(sizes(AmdVi::new(4).unwrap()).map(PageShift::raw).eq(12..=30));
    }
}
