//! What it takes to *build* tables of a format, beside reading them.

use pinfold::{PageFormat, PageShift, PhysAddr, Table, VirtAddr, X86_64};

/// A page-table format that the machine can build tables of.
pub trait TableFormat: PageFormat + Send + Sync + core::fmt::Debug + 'static {
    /// A root table whose entry 0 stands at `base`.
    fn root_at(&self, base: PhysAddr) -> Table;

    /// The table at `base` that an entry of `at` can point to; `None` at the last level.
    fn below(&self, at: &Table, base: PhysAddr) -> Option<Table>;

    /// The smallest leaf above the base page: what a transparent huge page is mapped with.
    fn huge(&self) -> PageShift;

    /// The absent entry that names a swap slot, which is not 0.
    fn swap_entry(&self, slot: u64) -> u64 {
        slot << self.base().raw()
    }

    /// The first address of the lower half that is not translated any more.
    fn end(&self) -> VirtAddr;
}

/// Index bits of every x86-64 table.
const BITS: u8 = 9;

impl TableFormat for X86_64 {
    fn root_at(&self, base: PhysAddr) -> Table {
        self.root(base.raw()).expect("a frame of the machine is a valid root")
    }

    fn below(&self, at: &Table, base: PhysAddr) -> Option<Table> {
        let shift = at.shift.raw().checked_sub(BITS).filter(|shift| *shift >= 12)?;
        Some(Table { base, shift: PageShift::new(shift)?, ..*at })
    }

    fn huge(&self) -> PageShift {
        PageShift::SIZE_2M
    }

    fn end(&self) -> VirtAddr {
        let top = self.root_at(PhysAddr::new(0));
        VirtAddr::new(1 << (top.shift.raw() + top.bits - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_levels_translate_47_bits_of_the_lower_half() {
        let format = X86_64::new(4, 46).unwrap();
        assert_eq!(format.end().raw(), 1 << 47);
        let mut levels = vec![format.root_at(PhysAddr::new(0x1000))];
        while let Some(next) = format.below(levels.last().unwrap(), PhysAddr::new(0x2000)) {
            levels.push(next);
        }
        let shifts: Vec<u8> = levels.iter().map(|table| table.shift.raw()).collect();
        assert_eq!(shifts, [39, 30, 21, 12]);
    }
}
