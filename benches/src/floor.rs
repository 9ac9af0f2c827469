//! The least that anybody would have to do to memory for the same result.
//!
//! No checks: neither policy, nor a count that refuses, nor a second look at the entry. What is
//! left is the traffic, which is why a ratio of 1 cannot be expected and a ratio of 3 is work that
//! can be saved.

use pinfold::sync::{Ordering, Word};
use pinfold_arch::cpu::prefetch;

use crate::memory::Flat;

/// How many entries ahead a frame's words are asked for.
const AHEAD: usize = 24;
/// Address bits of an x86-64 entry.
const ADDRESS: u64 = ((1 << 52) - 1) & !0xfff;

/// A frame descriptor for each frame, and a slot for each entry.
#[derive(Debug)]
pub struct Floor {
    frames: Flat,
    slots: Flat,
    /// Where frame 0 of `frames` lies.
    base: u64,
    /// Words of a frame's descriptor.
    stride: usize,
}

impl Floor {
    /// For `frames` frames from the physical address `base` on, whose descriptors have `stride`
    /// words, and for so many entries.
    #[must_use]
    pub fn new(base: u64, frames: usize, stride: usize, entries: usize) -> Self {
        let (frames, slots) = (Flat::new(frames * stride), Flat::new(entries));
        Self { frames, slots, base, stride }
    }

    /// The slots, filled by [`pin`](Lane::pin).
    #[must_use]
    pub fn slots(&self) -> &[Word] {
        self.slots.words()
    }

    /// The sum of all counts.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.frames.words().iter().map(|word| word.load(Ordering::Relaxed)).sum()
    }

    /// All of it, to work on.
    #[must_use]
    pub fn lane(&self) -> Lane<'_> {
        let (frames, slots) = (self.frames.words(), self.slots.words());
        Lane { frames, slots, base: self.base, stride: self.stride }
    }
}

/// Slots to be filled, and all frames: what one thread works on.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    frames: &'a [Word],
    slots: &'a [Word],
    base: u64,
    stride: usize,
}

impl Lane<'_> {
    /// The first half of the slots, and the second.
    #[must_use]
    pub fn halves(self) -> [Self; 2] {
        let (first, second) = self.slots.split_at(self.slots.len() / 2);
        [Self { slots: first, ..self }, Self { slots: second, ..self }]
    }

    /// Reads every entry, counts its frame, stores its address.
    #[inline(never)]
    pub fn pin(&self, entries: &[Word]) {
        for (at, (entry, slot)) in entries.iter().zip(self.slots).enumerate() {
            self.fetch(entries.get(at + AHEAD));
            let addr = entry.load(Ordering::Relaxed) & ADDRESS;
            if let Some(count) = self.count(addr) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            slot.store(addr, Ordering::Relaxed);
        }
    }

    /// The same for folios that `entries` entries each map: reads every entry, counts and stores
    /// once a folio. Returns how many entries did not continue the one before.
    #[inline(never)]
    #[must_use]
    pub fn pin_folios(&self, entries: &[Word], each: usize) -> u64 {
        let mut breaks = 0;
        for (folio, slot) in entries.chunks_exact(each).zip(self.slots) {
            let first = folio.first().map_or(0, |entry| entry.load(Ordering::Relaxed));
            for (entry, expected) in folio.iter().zip((first..).step_by(4096)) {
                breaks += u64::from(entry.load(Ordering::Relaxed) != expected);
            }
            if let Some(count) = self.count(first & ADDRESS) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            slot.store(first & ADDRESS, Ordering::Relaxed);
        }
        breaks
    }

    /// Reads every slot and takes the count back.
    #[inline(never)]
    pub fn unpin(&self) {
        for (at, slot) in self.slots.iter().enumerate() {
            self.fetch(self.slots.get(at + AHEAD));
            if let Some(count) = self.count(slot.load(Ordering::Relaxed)) {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    #[inline(always)]
    fn count(&self, addr: u64) -> Option<&Word> {
        let frame = pinfold_arch::addr::index((addr - self.base) >> 12);
        self.frames.get(frame * self.stride)
    }

    #[inline(always)]
    fn fetch(&self, entry: Option<&Word>) {
        if let Some(entry) = entry
            && let Some(count) = self.count(entry.load(Ordering::Relaxed) & ADDRESS)
        {
            prefetch(count);
        }
    }
}
