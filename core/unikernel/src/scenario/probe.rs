//! What the device is asked to do, and whether memory is then as it must be.

use core::fmt::Arguments;

use pinfold_arch::{Iova, PageShift, PhysAddr};

use super::stage::{Stage, Words};
use crate::dma::TRANSFER;
use crate::iommu::{Faults, Iommu};

/// Where the page is mapped through which the device's buffer is filled and emptied.
pub const WINDOW: Iova = Iova::new(0x2_4680_0000);

/// The device behind its IOMMU.
pub(super) struct Probe<'s, 'm, 'c, U> {
    pub(super) stage: &'s mut Stage<'m, 'c>,
    pub(super) unit: &'s U,
}

/// Whether the IOMMU must say that it blocked an access.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Must,
    /// It keeps an entry that does not allow the access: not every model says something then.
    May,
}

impl<U: Iommu> Probe<'_, '_, '_, U> {
    /// Device reads and writes at `at` reach `addr`.
    pub(super) fn reaches(&mut self, at: Iova, addr: PhysAddr, what: Arguments<'_>) {
        self.writes(at, addr, what);
        self.reads(at, addr, what);
    }

    /// Device reads and writes at `at` are blocked; if they were not, they would reach `addr`.
    pub(super) fn blocked(&mut self, at: Iova, addr: PhysAddr, what: Arguments<'_>) {
        self.blocks_write(at, addr, Said::Must, what);
        self.blocks_read(at, addr, Said::Must, what);
    }

    /// Device writes to `at` arrive at `addr` and not beside it.
    pub(super) fn writes(&mut self, at: Iova, addr: PhysAddr, what: Arguments<'_>) {
        let holds = self.can_write(at, addr);
        self.stage.report.check(holds, format_args!("{what}: the device writes"));
    }

    /// Device reads at `at` get what is at `addr`.
    pub(super) fn reads(&mut self, at: Iova, addr: PhysAddr, what: Arguments<'_>) {
        let holds = self.can_read(at, addr);
        self.stage.report.check(holds, format_args!("{what}: the device reads"));
    }

    /// Device writes to `at` do not arrive; if they did, it would be at `addr`.
    pub(super) fn blocks_write(
        &mut self,
        at: Iova,
        addr: PhysAddr,
        said: Said,
        what: Arguments<'_>,
    ) {
        let holds = self.cannot_write(at, addr, said);
        self.stage.report.check(holds, format_args!("{what}: a write is blocked"));
    }

    /// Device reads at `at` do not get what is at `addr`.
    pub(super) fn blocks_read(
        &mut self,
        at: Iova,
        addr: PhysAddr,
        said: Said,
        what: Arguments<'_>,
    ) {
        let holds = self.cannot_read(at, addr, said);
        self.stage.report.check(holds, format_args!("{what}: a read is blocked"));
    }

    /// What [`writes`](Self::writes) reports.
    pub(super) fn can_write(&mut self, at: Iova, addr: PhysAddr) -> bool {
        let words = self.fill_buffer();
        let beside = beside(addr);
        let quiet = beside.map(|addr| self.put(addr));
        self.stage.device.write(at.raw());
        let arrived = self.get(addr) == Some(words);
        let alone = beside.map(|addr| self.get(addr)) == quiet;
        let silent = !matches!(self.unit.faults(), Faults::First { .. });
        arrived && alone && silent
    }

    /// What [`reads`](Self::reads) reports.
    pub(super) fn can_read(&mut self, at: Iova, addr: PhysAddr) -> bool {
        let words = self.put(addr);
        self.stage.device.read(at.raw());
        let silent = !matches!(self.unit.faults(), Faults::First { .. });
        words.is_some() && self.empty_buffer() == words && silent
    }

    /// What [`blocks_write`](Self::blocks_write) reports.
    pub(super) fn cannot_write(&mut self, at: Iova, addr: PhysAddr, said: Said) -> bool {
        self.fill_buffer();
        self.unit.faults();
        let before = self.put(addr);
        self.stage.device.write(at.raw());
        self.get(addr) == before && self.said(at, true, said)
    }

    /// What [`blocks_read`](Self::blocks_read) reports.
    pub(super) fn cannot_read(&mut self, at: Iova, addr: PhysAddr, said: Said) -> bool {
        self.fill_buffer();
        let secret = self.put(addr);
        self.stage.device.read(at.raw());
        self.said(at, false, said) && self.empty_buffer() != secret
    }

    /// Whether the IOMMU says what it must of an access that it blocked.
    fn said(&mut self, at: Iova, write: bool, said: Said) -> bool {
        let page = |at: Iova| at.align_down(PageShift::SIZE_4K);
        match self.unit.faults() {
            Faults::Unknown => true,
            Faults::None => said == Said::May,
            Faults::First { at: found, write: wrote } => {
                page(found) == page(at) && wrote.is_none_or(|wrote| wrote == write)
            }
        }
    }

    /// Fills the device's buffer with new words, through the window.
    fn fill_buffer(&mut self) -> Words {
        let words = self.stage.fresh();
        self.stage.memory.store(self.stage.memory.window(), words);
        self.stage.device.read(WINDOW.raw());
        words
    }

    /// What is in the device's buffer, through the window; `None` if nothing comes.
    fn empty_buffer(&mut self) -> Option<Words> {
        let window = self.stage.memory.window();
        let before = self.put(window);
        self.stage.device.write(WINDOW.raw());
        self.get(window).filter(|words| Some(*words) != before)
    }

    /// Puts new words into memory; `None` where there is none.
    fn put(&mut self, addr: PhysAddr) -> Option<Words> {
        let words = self.stage.fresh();
        self.get(addr)?;
        self.stage.memory.store(addr, words);
        Some(words)
    }

    fn get(&self, addr: PhysAddr) -> Option<Words> {
        self.stage.memory.load(addr)
    }
}

/// What a transfer would hit that begins a little too early, or too late.
fn beside(addr: PhysAddr) -> [PhysAddr; 2] {
    [addr.raw().wrapping_sub(TRANSFER), addr.raw().wrapping_add(TRANSFER)].map(PhysAddr::new)
}
