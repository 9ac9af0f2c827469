//! The registry's own words: free records and nodes, and those that wait until nobody reads them.
//!
//! Records stay records and nodes stay nodes. What is retired is left as it is for those who
//! still read it, and used again when it was reclaimed.

use pinfold_arch::addr::index;

use crate::realmode::RealMode;
use crate::realmode::layout::{Field, Life, NODE_HEAD, NODE_WORDS, Record};
use crate::sync::Ordering;

/// The end of a list.
const NONE: u64 = u64::MAX;

/// Words in front of a node's entries, counted back from these.
const NODE_NEXT: u64 = NODE_HEAD;
const NODE_RETIRED: u64 = NODE_HEAD - 1;

/// A first-in first-out list of records or nodes, linked through their own words.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u64,
    last: u64,
}

impl List {
    const EMPTY: Self = Self { first: NONE, last: NONE };

    /// Appends; `link` stores the second as the one that follows the first.
    fn push(&mut self, item: u64, link: impl Fn(u64, u64)) {
        link(item, NONE);
        if self.first == NONE {
            self.first = item;
        } else {
            link(self.last, item);
        }
        self.last = item;
    }

    /// Takes the first; `next` reads what follows an item.
    fn pop(&mut self, next: impl Fn(u64) -> u64) -> Option<u64> {
        let item = self.first;
        if item == NONE {
            return None;
        }
        self.first = next(item);
        Some(item)
    }

    fn first(&self) -> Option<u64> {
        (self.first != NONE).then_some(self.first)
    }
}

/// What a record is to the registry; the low byte of its seventh word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    /// In the list of free records.
    Free = 0,
    /// Being registered.
    Coming = 1,
    /// Registered.
    Here = 2,
    /// Being removed.
    Going = 3,
    /// Waits until nobody reads its table any more.
    Retired = 4,
}

/// The seventh word of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WriterWord {
    pub(super) phase: Phase,
    /// Access bits of the pins.
    pub(super) access: u8,
    /// How often it was registered; of a retired record, when it was retired.
    pub(super) number: u64,
}

impl WriterWord {
    pub(super) fn read(record: &Record<'_>) -> Self {
        let raw = record.load(Field::WRITER, Ordering::Relaxed);
        let phase = match raw & 0xff {
            1 => Phase::Coming,
            2 => Phase::Here,
            3 => Phase::Going,
            4 => Phase::Retired,
            _ => Phase::Free,
        };
        Self { phase, access: (raw >> 8 & 0xff) as u8, number: raw >> 16 }
    }

    pub(super) fn write(self, record: &Record<'_>) {
        let raw = self.phase as u64 | u64::from(self.access) << 8 | self.number << 16;
        record.store(Field::WRITER, raw);
    }
}

/// What belongs to the registry's writers, under its lock.
#[derive(Debug)]
pub(super) struct Memory {
    /// Where the next node would be made.
    end: u64,
    /// Words in all.
    len: u64,
    /// Words that are about to be added.
    more: u64,
    free_records: List,
    free_nodes: List,
    retired_records: List,
    retired_nodes: List,
    /// Number of the present time; it counts the calls of `retired`.
    time: u64,
    /// Records in use, or waiting.
    pub(super) regions: u64,
    /// Records that were ever in use are below this number.
    pub(super) highest: u64,
}

impl Memory {
    /// All records free, no node made.
    pub(super) const fn new(end: u64, len: u64) -> Self {
        Self {
            end,
            len,
            more: 0,
            free_records: List::EMPTY,
            free_nodes: List::EMPTY,
            retired_records: List::EMPTY,
            retired_nodes: List::EMPTY,
            time: 0,
            regions: 0,
            highest: 0,
        }
    }

    /// Words in all, with those that are about to be added.
    pub(super) const fn promised(&self) -> u64 {
        self.len + self.more
    }

    /// Announces so many words more, behind those that there are. `false` if others were announced.
    pub(super) fn promise(&mut self, more: u64) -> bool {
        let first = self.more == 0;
        if first {
            self.more = more;
        }
        first
    }

    /// Adds the words that were announced, or does without.
    pub(super) fn settle(&mut self, add: bool) {
        if add {
            self.len += self.more;
        }
        self.more = 0;
    }

    /// Whether so many nodes can be had; else how many words there would have to be.
    pub(super) fn room_for(&self, view: &RealMode<'_>, nodes: u64) -> Result<(), u64> {
        let mut free = self.free_nodes;
        let mut have = 0;
        while have < nodes && free.pop(|node| node_word(view, node, NODE_NEXT)).is_some() {
            have += 1;
        }
        let need = self.end + (nodes - have) * NODE_WORDS;
        if need <= self.len { Ok(()) } else { Err(need) }
    }

    /// A node that nobody reads: where its entries begin.
    pub(super) fn take_node(&mut self, view: &RealMode<'_>) -> Option<u64> {
        if let Some(node) = self.free_nodes.pop(|node| node_word(view, node, NODE_NEXT)) {
            return Some(node);
        }
        let node = self.end + NODE_HEAD;
        let end = self.end + NODE_WORDS;
        (end <= self.len).then(|| {
            self.end = end;
            node
        })
    }

    /// Puts a node aside that may still be read.
    pub(super) fn retire_node(&mut self, view: &RealMode<'_>, node: u64) {
        set_node_word(view, node, NODE_RETIRED, self.time);
        self.retired_nodes.push(node, |node, next| set_node_word(view, node, NODE_NEXT, next));
    }

    /// A record that is nobody's.
    pub(super) fn take_record<'m>(&mut self, view: &RealMode<'m>) -> Option<(u64, Record<'m>)> {
        let fresh = self.highest;
        let number = self.free_records.pop(|number| next_of(view, number)).unwrap_or(fresh);
        let record = view.record(number)?;
        self.highest = fresh.max(number + 1);
        self.regions += 1;
        Some((number, record))
    }

    /// Gives a record back that no reader has got anything from.
    pub(super) fn free_record(&mut self, view: &RealMode<'_>, number: u64) {
        let Some(record) = view.record(number) else { return };
        self.regions -= 1;
        WriterWord { phase: Phase::Free, access: 0, number: 0 }.write(&record);
        // After its last generation a record stays out: its names would come again.
        if Life(record.load(Field::STATE, Ordering::Relaxed)).next().is_some() {
            self.free_records.push(number, |number, next| set_next_of(view, number, next));
        }
    }

    /// Puts a record aside whose table may still be read.
    pub(super) fn retire_record(&mut self, view: &RealMode<'_>, number: u64) {
        let Some(record) = view.record(number) else { return };
        WriterWord { phase: Phase::Retired, access: 0, number: self.time }.write(&record);
        self.retired_records.push(number, |number, next| set_next_of(view, number, next));
    }

    /// Ends the present time: what was retired so far was retired at the time that is returned, or
    /// before.
    pub(super) fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time - 1
    }

    /// Frees a node that was retired at this time or before; whether there was one.
    pub(super) fn reclaim_node(&mut self, view: &RealMode<'_>, time: u64) -> bool {
        let due = |node| node_word(view, node, NODE_RETIRED) <= time;
        if !self.retired_nodes.first().is_some_and(due) {
            return false;
        }
        if let Some(node) = self.retired_nodes.pop(|node| node_word(view, node, NODE_NEXT)) {
            self.free_nodes.push(node, |node, next| set_node_word(view, node, NODE_NEXT, next));
        }
        true
    }

    /// Frees a record that was retired at this time or before.
    pub(super) fn reclaim_record<'m>(
        &mut self,
        view: &RealMode<'m>,
        time: u64,
    ) -> Option<Record<'m>> {
        let record = view.record(self.retired_records.first()?)?;
        if WriterWord::read(&record).number > time {
            return None;
        }
        let number = self.retired_records.pop(|number| next_of(view, number))?;
        self.free_record(view, number);
        Some(record)
    }
}

fn next_of(view: &RealMode<'_>, number: u64) -> u64 {
    view.record(number).map_or(NONE, |record| record.load(Field::NEXT, Ordering::Relaxed))
}

fn set_next_of(view: &RealMode<'_>, number: u64, next: u64) {
    if let Some(record) = view.record(number) {
        record.store(Field::NEXT, next);
    }
}

fn node_word(view: &RealMode<'_>, node: u64, back: u64) -> u64 {
    let word = view.words().get(index(node.wrapping_sub(back)));
    word.map_or(NONE, |word| word.load(Ordering::Relaxed))
}

fn set_node_word(view: &RealMode<'_>, node: u64, back: u64, value: u64) {
    if let Some(word) = view.words().get(index(node.wrapping_sub(back))) {
        word.store(value, Ordering::Relaxed);
    }
}
