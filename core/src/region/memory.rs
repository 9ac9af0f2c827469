//! The registry's own words: free records and nodes, and those that wait until nobody reads them.
//!
//! Records stay records and nodes stay nodes. What is retired is left as it is for those who
//! still read it, and used again when it was reclaimed.

use pinfold_arch::addr::index;

use crate::realmode::layout::{Field, Life, NODE_WORDS, Record, Window};
use crate::sync::{Ordering, Word};

/// The end of a list.
const NONE: u64 = u64::MAX;

/// Words of a node that are not entries.
const NODE_NEXT: u64 = 0;
const NODE_RETIRED: u64 = 1;

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

    fn peek(&self) -> Option<u64> {
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
            free_records: List::EMPTY,
            free_nodes: List::EMPTY,
            retired_records: List::EMPTY,
            retired_nodes: List::EMPTY,
            time: 0,
            regions: 0,
            highest: 0,
        }
    }

    /// Words in all.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// So many words more, behind those that there are.
    pub(super) fn grow(&mut self, more: u64) {
        self.len += more;
    }

    /// Whether so many nodes can be had; else how many words there would have to be.
    pub(super) fn room_for(&self, words: &[Word], nodes: u64) -> Result<(), u64> {
        let mut free = self.free_nodes;
        let mut have = 0;
        while have < nodes && free.pop(|node| node_word(words, node, NODE_NEXT)).is_some() {
            have += 1;
        }
        let need = self.end + (nodes - have) * NODE_WORDS;
        if need <= self.len { Ok(()) } else { Err(need) }
    }

    pub(super) fn take_node(&mut self, words: &[Word]) -> Option<u64> {
        if let Some(node) = self.free_nodes.pop(|node| node_word(words, node, NODE_NEXT)) {
            return Some(node);
        }
        let node = self.end;
        let end = node + NODE_WORDS;
        (end <= self.len).then(|| {
            self.end = end;
            node
        })
    }

    pub(super) fn retire_node(&mut self, words: &[Word], node: u64) {
        set_node_word(words, node, NODE_RETIRED, self.time);
        self.retired_nodes.push(node, |node, next| set_node_word(words, node, NODE_NEXT, next));
    }

    /// A record that is nobody's.
    pub(super) fn take_record(&mut self, words: &[Word], window: &Window) -> Option<u64> {
        let next = |number| {
            Record::of(words, window, number)
                .map_or(NONE, |record| record.load(Field::NEXT, Ordering::Relaxed))
        };
        let number = match self.free_records.pop(next) {
            Some(number) => number,
            None if self.highest < window.records => {
                self.highest += 1;
                self.highest - 1
            }
            None => return None,
        };
        self.regions += 1;
        Some(number)
    }

    /// Gives a record back that no reader has got anything from.
    pub(super) fn free_record(&mut self, words: &[Word], window: &Window, number: u64) {
        self.regions -= 1;
        let link = |number, next| {
            if let Some(record) = Record::of(words, window, number) {
                record.store(Field::NEXT, next);
            }
        };
        if let Some(record) = Record::of(words, window, number) {
            WriterWord { phase: Phase::Free, access: 0, number: 0 }.write(&record);
            // A generation that would come again is not used: the record stays out.
            if Life(record.load(Field::STATE, Ordering::Relaxed)).generation() != Life::MOST {
                self.free_records.push(number, link);
            }
        }
    }

    /// Puts a record aside whose table may still be read.
    pub(super) fn retire_record(&mut self, words: &[Word], window: &Window, number: u64) {
        let link = |number, next| {
            if let Some(record) = Record::of(words, window, number) {
                record.store(Field::NEXT, next);
            }
        };
        if let Some(record) = Record::of(words, window, number) {
            WriterWord { phase: Phase::Retired, access: 0, number: self.time }.write(&record);
            self.retired_records.push(number, link);
        }
    }

    /// Ends the present time: what was retired so far was retired at the time that is returned, or
    /// before.
    pub(super) fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time - 1
    }

    /// Frees a node that was retired at this time or before; whether there was one.
    pub(super) fn reclaim_node(&mut self, words: &[Word], time: u64) -> bool {
        let due = |node| node_word(words, node, NODE_RETIRED) <= time;
        if !self.retired_nodes.peek().is_some_and(due) {
            return false;
        }
        let Some(node) = self.retired_nodes.pop(|node| node_word(words, node, NODE_NEXT)) else {
            return false;
        };
        self.free_nodes.push(node, |node, next| set_node_word(words, node, NODE_NEXT, next));
        true
    }

    /// Frees a record that was retired at this time or before; its number.
    pub(super) fn reclaim_record(
        &mut self,
        words: &[Word],
        window: &Window,
        time: u64,
    ) -> Option<u64> {
        let record = |number| Record::of(words, window, number);
        let due =
            |number| record(number).is_some_and(|record| WriterWord::read(&record).number <= time);
        self.retired_records.peek().filter(|number| due(*number))?;
        let next = |number| {
            record(number).map_or(NONE, |record| record.load(Field::NEXT, Ordering::Relaxed))
        };
        let number = self.retired_records.pop(next)?;
        self.free_record(words, window, number);
        Some(number)
    }
}

fn node_word(words: &[Word], node: u64, at: u64) -> u64 {
    words.get(index(node + at)).map_or(NONE, |word| word.load(Ordering::Relaxed))
}

fn set_node_word(words: &[Word], node: u64, at: u64, value: u64) {
    if let Some(word) = words.get(index(node + at)) {
        word.store(value, Ordering::Relaxed);
    }
}
