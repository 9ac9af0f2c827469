//! One set of tables with the device behind it.

use pinfold::IovaRange;
use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun};
use pinfold_arch::{Access, IoFlags, IoFormat, Iova};

use super::probe::Probe;
use super::stage::Stage;
use crate::iommu::Iommu;

/// Runs that come back from one call.
const RUNS: usize = 16;
/// The same, where it shall take many calls.
const FEW_RUNS: usize = 2;
/// Where the page is mapped through which the device's buffer is filled and emptied.
pub const WINDOW: Iova = Iova::new(0x2_4680_0000);

/// A device address space. Whatever is called on pinfold's tables is called here.
pub(super) struct Space<'s, 'm, 'c, U: Iommu> {
    pub(super) probe: Probe<'s, 'm, 'c, U>,
    table: IoPageTable<U::Format>,
}

impl<'s, 'm, 'c, U: Iommu> Space<'s, 'm, 'c, U> {
    /// New tables for the device, with the window mapped.
    pub(super) fn new(stage: &'s mut Stage<'m, 'c>, unit: &'s mut U, format: U::Format) -> Self {
        let table = IoPageTable::new(format, stage.memory).expect("memory for tables");
        unit.attach(&table);
        let page = IoRun { addr: stage.memory.window(), bytes: format.base().bytes() };
        let mut space = Self { probe: Probe { stage, unit }, table };
        space.map(WINDOW, &[page], Access::all()).expect("a window");
        space
    }

    pub(super) fn format(&self) -> U::Format {
        self.table.format()
    }

    /// Maps runs one behind the other.
    pub(super) fn map(
        &mut self,
        at: Iova,
        runs: &[IoRun],
        access: Access,
    ) -> Result<(), IoptError> {
        let Probe { stage, unit } = &mut self.probe;
        self.table.map(stage.memory, at, runs, access, IoFlags::empty())?;
        if unit.keeps_absence() {
            unit.flush(range(at, runs));
        }
        Ok(())
    }

    /// Checks that one leaf maps a run, with this access.
    pub(super) fn is_one_leaf(&mut self, at: Iova, run: IoRun, access: Access) {
        let stage = &mut *self.probe.stage;
        let found = self.table.translate(stage.memory, at).ok().flatten();
        let holds = found.is_some_and(|found| {
            found.addr == run.addr && found.shift.bytes() == run.bytes && found.access == access
        });
        stage.report.check(holds, format_args!("one leaf at {at} leads to {}", run.addr));
    }

    /// Unmaps what was mapped so, and asks the device between that and the flush.
    pub(super) fn unmap(
        &mut self,
        at: Iova,
        mapped: &[IoRun],
        before_flush: impl FnOnce(&mut Probe<'s, 'm, 'c, U>),
    ) {
        let probe = &mut self.probe;
        let memory = probe.stage.memory;
        let mut back = heapless::Vec::<UnmappedRun, RUNS>::new();
        let mut unmap = self.table.unmap(memory, range(at, mapped)).expect("whole leaves");
        let step = unmap.step(memory, &mut back).expect("tables in order");
        let unmapped = step.expect("something to unmap");
        before_flush(probe);
        probe.unit.flush(unmapped.range());
        let quiesced = unmapped.flushed(memory);
        let back = quiesced.runs().iter().map(|run| IoRun { addr: run.addr, bytes: run.bytes });
        let all = back.eq(mapped.iter().copied());
        let mut none = heapless::Vec::<UnmappedRun, RUNS>::new();
        let last = unmap.step(memory, &mut none);
        let all = all && matches!(last, Ok(None));
        probe.stage.report.check(all, format_args!("unmapping at {at} gives the memory back"));
    }

    /// Unmaps and flushes a range, and says how many bytes came back.
    pub(super) fn take(&mut self, at: Iova, bytes: u64) -> Result<u64, IoptError> {
        let Probe { stage, unit } = &mut self.probe;
        let range = IovaRange::new(at, bytes).expect("a range");
        let (memory, mut sum) = (stage.memory, 0);
        let mut unmap = self.table.unmap(memory, range)?;
        let mut back = heapless::Vec::<UnmappedRun, FEW_RUNS>::new();
        while let Some(unmapped) = unmap.step(memory, &mut back)? {
            unit.flush(unmapped.range());
            sum += unmapped.flushed(memory).runs().iter().map(|run| run.bytes).sum::<u64>();
        }
        Ok(sum)
    }

    /// Splits what reaches over an end of these bytes, and flushes nothing.
    pub(super) fn split(&mut self, at: Iova, bytes: u64) -> Result<(), IoptError> {
        let range = IovaRange::new(at, bytes).expect("a range");
        self.table.split(self.probe.stage.memory, range)
    }

    /// Maps runs in place of others, and flushes.
    pub(super) fn replace(&mut self, at: Iova, new: &[IoRun], old: &[IoRun]) {
        let Probe { stage, unit } = &mut self.probe;
        let (memory, mut back) = (stage.memory, heapless::Vec::<IoRun, RUNS>::new());
        let replace = self.table.replace(memory, at, new, Access::all(), IoFlags::empty());
        let mut replace = replace.expect("whole leaves");
        let mut buffer = heapless::Vec::<UnmappedRun, RUNS>::new();
        while let Some(unmapped) = replace.step(memory, &mut buffer).expect("tables in order") {
            unit.flush(unmapped.range());
            let quiesced = unmapped.flushed(memory);
            let runs = quiesced.runs().iter();
            back.extend(runs.map(|run| IoRun { addr: run.addr, bytes: run.bytes }));
        }
        let what = format_args!("replacing at {at} gives the memory back that was there");
        stage.report.check(back == old, what);
    }

    /// Adds levels until `last` is translated, and gives the device the taller tables.
    pub(super) fn grow(&mut self, last: Iova) {
        let Probe { stage, unit } = &mut self.probe;
        self.table.grow(stage.memory, last).expect("memory for tables");
        unit.attach(&self.table);
    }

    /// Takes the tables from the device and gives their memory back.
    pub(super) fn end(self, ask: impl FnOnce(&mut Probe<'s, 'm, 'c, U>)) {
        let Self { mut probe, table } = self;
        probe.unit.detach();
        ask(&mut probe);
        table.destroy(probe.stage.memory).expect("tables in order");
    }
}

fn range(at: Iova, runs: &[IoRun]) -> IovaRange {
    IovaRange::new(at, runs.iter().map(|run| run.bytes).sum()).expect("a range")
}
