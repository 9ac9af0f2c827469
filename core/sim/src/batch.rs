//! Per-CPU lists of new pages, as kernels have them: a page that was just faulted in waits in one
//! of them, with a reference, to be put on the lists of its zone together with others.

use pinfold::Pfn;

use crate::format::TableFormat;
use crate::state::State;

/// CPUs that take turns.
const CPUS: usize = 2;

/// The lists. Off, until they are given a size.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    /// Pages that a list holds before it is emptied by itself.
    size: usize,
    lists: [Vec<Pfn>; CPUS],
    turn: usize,
}

impl Batches {
    /// Frames that wait, one reference each.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Pfn> + '_ {
        self.lists.iter().flatten().copied()
    }
}

impl<F: TableFormat> State<'_, F> {
    pub(crate) fn batch_new_pages(&mut self, size: usize) {
        self.batches.size = size;
        self.drain_caches();
    }

    /// A new page has been mapped: the reference that it came with goes, or waits in a list.
    pub(crate) fn added(&mut self, head: Pfn) {
        if self.batches.size == 0 {
            return self.put(head, 1);
        }
        let turn = self.batches.turn;
        self.batches.turn = (turn + 1) % CPUS;
        self.batches.lists[turn].push(head);
        if self.batches.lists[turn].len() > self.batches.size {
            self.drain(turn);
        }
    }

    fn drain(&mut self, cpu: usize) {
        for head in std::mem::take(&mut self.batches.lists[cpu]) {
            self.put(head, 1);
        }
    }

    /// Empties the lists of all CPUs.
    pub(crate) fn drain_caches(&mut self) {
        (0..CPUS).for_each(|cpu| self.drain(cpu));
    }
}
