//! One set of tables with the device behind it.

use pinfold::domain::TlbId;
use pinfold::iopt::{IoPageTable, IoRun, IoptError, OfDomain, Quiesced, Unmapped, UnmappedRun};
use pinfold::{Domain, DomainError, IovaRange};
use pinfold_arch::{Access, IoFlags, IoFormat, Iova};

use super::probe::{Probe, WINDOW};
use super::stage::Stage;
use crate::iommu::Iommu;
use crate::memory::Memory;

/// Runs that come back from one call.
const RUNS: usize = 16;
/// The same, where it shall take many calls.
const FEW_RUNS: usize = 2;

/// A device address space. Whatever is called on pinfold's tables is called here.
pub(super) struct Space<'s, 'm, 'c, U: Iommu> {
    pub(super) probe: Probe<'s, 'm, 'c, U>,
    domain: Domain<'s, U::Format>,
    iommu: TlbId,
}

impl<'s, 'm, 'c, U: Iommu> Space<'s, 'm, 'c, U> {
    /// New tables for the device, with the window mapped.
    pub(super) fn new(stage: &'s mut Stage<'m, 'c>, unit: &'s U, format: U::Format) -> Self {
        let table = IoPageTable::new(format, stage.memory).expect("memory for tables");
        let mut domain = Domain::new(table);
        let iommu = domain.attach_iommu(unit).expect("room for an IOMMU");
        unit.attach(format, domain.table().root()).expect("an IOMMU that answers");
        let page = IoRun { addr: stage.memory.window(), bytes: format.base().bytes() };
        let mut space = Self { probe: Probe { stage, unit }, domain, iommu };
        space.map(WINDOW, &[page], Access::all()).expect("a window");
        space
    }

    pub(super) fn format(&self) -> U::Format {
        self.domain.table().format()
    }

    /// Maps runs one behind the other.
    pub(super) fn map(
        &mut self,
        at: Iova,
        runs: &[IoRun],
        access: Access,
    ) -> Result<(), IoptError> {
        let memory = self.probe.stage.memory;
        match self.domain.map(memory, at, runs, access, IoFlags::empty()) {
            Ok(()) => Ok(()),
            Err(DomainError::Table(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    }

    /// Checks that one leaf maps a run, with this access.
    pub(super) fn is_one_leaf(&mut self, at: Iova, run: IoRun, access: Access) {
        let stage = &mut *self.probe.stage;
        let found = self.domain.table().translate(stage.memory, at).ok().flatten();
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
        let mut unmap = self.domain.table().unmap(memory, range(at, mapped)).expect("whole leaves");
        let step = unmap.step(memory, &mut back).expect("tables in order");
        let unmapped = step.expect("something to unmap");
        before_flush(probe);
        let quiesced = finish(&self.domain, memory, unmapped);
        let back = quiesced.runs().iter().map(|run| IoRun { addr: run.addr, bytes: run.bytes });
        let all = back.eq(mapped.iter().copied());
        let mut none = heapless::Vec::<UnmappedRun, RUNS>::new();
        let last = unmap.step(memory, &mut none);
        let all = all && matches!(last, Ok(None));
        probe.stage.report.check(all, format_args!("unmapping at {at} gives the memory back"));
    }

    /// Unmaps and flushes a range, and says how many bytes came back.
    pub(super) fn take(&mut self, at: Iova, bytes: u64) -> Result<u64, IoptError> {
        let range = IovaRange::new(at, bytes).expect("a range");
        let (memory, mut sum) = (self.probe.stage.memory, 0);
        let mut unmap = self.domain.table().unmap(memory, range)?;
        let mut back = heapless::Vec::<UnmappedRun, FEW_RUNS>::new();
        while let Some(unmapped) = unmap.step(memory, &mut back)? {
            let quiesced = finish(&self.domain, memory, unmapped);
            sum += quiesced.runs().iter().map(|run| run.bytes).sum::<u64>();
        }
        Ok(sum)
    }

    /// Splits what reaches over an end of these bytes, and flushes nothing.
    pub(super) fn split(&mut self, at: Iova, bytes: u64) -> Result<(), IoptError> {
        let range = IovaRange::new(at, bytes).expect("a range");
        self.domain.table().split(self.probe.stage.memory, range)
    }

    /// Maps runs in place of others, and flushes.
    pub(super) fn replace(&mut self, at: Iova, new: &[IoRun], old: &[IoRun]) {
        let stage = &mut *self.probe.stage;
        let (memory, mut back) = (stage.memory, heapless::Vec::<IoRun, RUNS>::new());
        let table = self.domain.table();
        let replace = table.replace(memory, at, new, Access::all(), IoFlags::empty());
        let mut replace = replace.expect("whole leaves");
        let mut buffer = heapless::Vec::<UnmappedRun, RUNS>::new();
        while let Some(unmapped) = replace.step(memory, &mut buffer).expect("tables in order") {
            let quiesced = finish(&self.domain, memory, unmapped);
            let runs = quiesced.runs().iter();
            back.extend(runs.map(|run| IoRun { addr: run.addr, bytes: run.bytes }));
        }
        let what = format_args!("replacing at {at} gives the memory back that was there");
        stage.report.check(back == old, what);
    }

    /// Adds levels until `last` is translated, and gives the device the taller tables.
    pub(super) fn grow(&mut self, last: Iova) {
        let Probe { stage, unit } = &mut self.probe;
        let retarget = |format, root| unit.attach(format, root);
        self.domain.grow(stage.memory, last, retarget).expect("memory for tables");
    }

    /// Takes the tables from the device and gives their memory back.
    pub(super) fn end(self, ask: impl FnOnce(&mut Probe<'s, 'm, 'c, U>)) {
        let Self { mut probe, mut domain, iommu } = self;
        probe.unit.detach().expect("an IOMMU that answers");
        domain.detach(iommu).expect("an IOMMU that answers");
        ask(&mut probe);
        domain.destroy(probe.stage.memory).expect("tables in order");
    }
}

/// Flushes what was unmapped.
fn finish<'b, F: IoFormat>(
    domain: &Domain<'_, F>,
    memory: &Memory,
    unmapped: Unmapped<'_, 'b, F, OfDomain>,
) -> Quiesced<'b> {
    domain.finish(memory, unmapped).unwrap_or_else(|unflushed| panic!("{}", unflushed.error()))
}

fn range(at: Iova, runs: &[IoRun]) -> IovaRange {
    IovaRange::new(at, runs.iter().map(|run| run.bytes).sum()).expect("a range")
}
