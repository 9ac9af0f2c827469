//! Memory for tables that is looked at: what an IOMMU sees that does not look into the CPU's caches, and how much
//! a call does between two pauses.

use std::collections::BTreeMap;
use std::sync::Mutex;

use pinfold::PhysAddr;
use pinfold::host::{Flow, IoTables, PhysMem, Progress, TableView, Wait};
use pinfold_sim::TableMemory;

/// A table: what was in it at the last look, and what was written back of it.
#[derive(Debug)]
struct Seen {
    at_last: Vec<u64>,
    in_memory: Vec<Option<u64>>,
}

#[derive(Debug, Default)]
struct State {
    tables: BTreeMap<u64, Seen>,
    /// Lines that were named in this call.
    named: Vec<u64>,
    /// What was done since the last pause, the most that it came to, and in all.
    since: u64,
    most: u64,
    all: u64,
    /// Pages done, and in all, where a pause knew.
    progress: Vec<(u64, u64)>,
}

#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) memory: TableMemory,
    state: Mutex<State>,
}

impl Watched {
    pub(crate) fn new(step: u64) -> Self {
        let memory = TableMemory::new(64 << 20);
        memory.set_step(step);
        Self { memory, state: Mutex::default() }
    }

    fn words(&self, base: u64, entries: usize) -> Vec<u64> {
        let view = self.memory.table(PhysAddr::new(base), entries).unwrap();
        (0..entries).map(|entry| view.load(entry).unwrap()).collect()
    }

    /// Counts entries that were handled otherwise than by being written; a table that goes back is one, too.
    pub(crate) fn handled(&self, entries: u64) {
        self.state.lock().unwrap().since += entries;
    }

    /// Counts the entries that were written since the last look.
    fn look(&self) {
        let mut state = self.state.lock().unwrap();
        let State { tables, since, most, all, .. } = &mut *state;
        for (base, table) in tables {
            let now = self.words(*base, table.at_last.len());
            let changed = now.iter().zip(&table.at_last).filter(|(new, old)| new != old);
            *since += changed.count() as u64;
            table.at_last = now;
        }
        (*most, *all) = ((*most).max(*since), *all + *since);
        *since = 0;
    }

    /// How much was handled between two pauses at most since this was asked last, and how much in all.
    pub(crate) fn handled_at_once(&self) -> (u64, u64) {
        self.look();
        let mut state = self.state.lock().unwrap();
        (std::mem::take(&mut state.most), std::mem::take(&mut state.all))
    }

    /// What pauses were told of since this was asked last: pages that were done, and all.
    pub(crate) fn progress(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.state.lock().unwrap().progress)
    }

    /// A device wrote to tables: what it wrote is in memory, and the CPU's caches know it.
    pub(crate) fn device_wrote(&self) {
        for (base, table) in &mut self.state.lock().unwrap().tables {
            let now = self.words(*base, table.at_last.len());
            table.in_memory = now.into_iter().map(Some).collect();
        }
    }

    /// All that was written has been written back. Gives the lines that were named since the last time.
    pub(crate) fn all_said(&self) -> Vec<u64> {
        let mut state = self.state.lock().unwrap();
        for (base, table) in &state.tables {
            let now = self.words(*base, table.at_last.len());
            for (entry, (now, seen)) in now.iter().zip(&table.in_memory).enumerate() {
                assert_eq!(Some(*now), *seen, "entry {entry} of the table at {base:#x}");
            }
        }
        std::mem::take(&mut state.named)
    }
}

impl PhysMem for Watched {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        self.memory.table(base, entries)
    }
}

impl Wait for Watched {
    fn step(&self) -> u64 {
        self.memory.step()
    }

    fn pause(&self, progress: Progress) -> Flow {
        self.look();
        let (done, total) = (progress.done.raw(), progress.total.raw());
        if total != 0 {
            self.state.lock().unwrap().progress.push((done, total));
        }
        self.memory.pause(progress)
    }
}

impl IoTables for Watched {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let base = self.memory.allocate(bytes)?;
        let entries = usize::try_from(bytes / 8).unwrap();
        let at_last = self.words(base.raw(), entries);
        let table = Seen { at_last, in_memory: vec![None; entries] };
        self.state.lock().unwrap().tables.insert(base.raw(), table);
        Some(base)
    }

    fn free(&self, table: PhysAddr, bytes: u64) {
        let mut state = self.state.lock().unwrap();
        state.tables.remove(&table.raw());
        state.since += 1;
        self.memory.free(table, bytes);
    }

    fn written(&self, at: PhysAddr, bytes: u64) {
        let mut state = self.state.lock().unwrap();
        let (base, table) = state.tables.range_mut(..=at.raw()).next_back().unwrap();
        let first = usize::try_from((at.raw() - base) / 8).unwrap();
        let now = self.words(*base, table.at_last.len());
        let entries = first..first + usize::try_from(bytes / 8).unwrap();
        for (seen, now) in table.in_memory[entries.clone()].iter_mut().zip(&now[entries]) {
            *seen = Some(*now);
        }
        state.named.extend(at.raw() / 64..(at.raw() + bytes).div_ceil(64));
    }
}
