//! Physical memory: what the frames hold, and the words in which the frame table is kept.
//!
//! Contents come into being, zeroed, when they are first touched, so a machine of many GiB costs
//! its frame table and what is used. All access is by whole words, atomically, as a CPU and a
//! device would.

use std::sync::OnceLock;

use pinfold::frames::FrameTable;
use pinfold::sync::{Ordering, Word};
use pinfold::{PageShift, Pfn, PhysAddr};

use crate::layout::{FrameRange, Layout};

/// Contents come into being in pieces of this size, so that every table lies in one piece: the
/// largest of any format has 64 KiB.
const PIECE: PageShift = match PageShift::new(16) {
    Some(shift) => shift,
    None => panic!("16 is a shift"),
};
const WORD: u64 = 8;

/// The memory of a machine. Everything else borrows it.
#[derive(Debug)]
pub struct Ram {
    layout: Layout,
    frames: FrameRange,
    /// Number of the piece that holds the first frame.
    first: u64,
    pieces: Vec<OnceLock<Box<[Word]>>>,
    table: Vec<Word>,
}

impl Ram {
    /// The memory of this layout, all of it zero.
    ///
    /// # Panics
    /// If the layout does not fit a 64-bit physical address, or not into this process.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        let frames = layout.frames();
        let end = frames.end().addr(layout.base).expect("frames fit 64-bit addresses").raw();
        let start = frames.start.addr(layout.base).expect("below the end").raw();
        let first = start >> PIECE.raw();
        let pieces = if end == start { 0 } else { ((end - 1) >> PIECE.raw()) - first + 1 };
        let words = FrameTable::words_for(frames.pages).expect("a frame table fits in memory");
        Self {
            layout: layout.clone(),
            frames,
            first,
            pieces: (0..pieces).map(|_| OnceLock::new()).collect(),
            table: zeroes(words),
        }
    }

    /// What it was made from.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The base page size.
    #[must_use]
    pub fn base(&self) -> PageShift {
        self.layout.base
    }

    /// All frames.
    #[must_use]
    pub fn frames(&self) -> FrameRange {
        self.frames
    }

    /// The frame table over this memory's words. There is one: every call gives the same.
    #[must_use]
    pub fn frame_table(&self) -> FrameTable<'_> {
        FrameTable::new(&self.table, self.layout.first, self.layout.base)
            .expect("the layout was checked when the memory was made")
    }

    /// The `count` words from `at` on; `None` outside memory, for an address that is not a
    /// multiple of 8, and for what does not lie in one naturally aligned 64 KiB.
    #[must_use]
    pub fn words(&self, at: PhysAddr, count: usize) -> Option<&[Word]> {
        let end = at.raw().checked_add((count as u64).checked_mul(WORD)?)?;
        let last = PhysAddr::new(end.max(at.raw() + 1) - 1);
        let frames = self.frames();
        if !frames.contains(at.pfn(self.base())) || !frames.contains(last.pfn(self.base())) {
            return None;
        }
        let piece = self.pieces.get(index((at.raw() >> PIECE.raw()) - self.first))?;
        let words = piece.get_or_init(|| zeroes(index(PIECE.bytes() / WORD)).into());
        let offset = at.offset(PIECE);
        if !offset.is_multiple_of(WORD) {
            return None;
        }
        words.get(index(offset / WORD)..)?.get(..count)
    }

    fn word(&self, at: PhysAddr) -> Option<&Word> {
        self.words(PhysAddr::new(at.raw() & !(WORD - 1)), 1)?.first()
    }

    /// Reads bytes, in memory order. `None` if any of them is outside memory.
    #[must_use]
    pub fn read(&self, at: PhysAddr, bytes: &mut [u8]) -> Option<()> {
        for (i, byte) in bytes.iter_mut().enumerate() {
            let at = at.checked_add(i as u64)?;
            let word = self.word(at)?.load(Ordering::SeqCst).to_ne_bytes();
            *byte = word[index(at.raw() % WORD)];
        }
        Some(())
    }

    /// Writes bytes, in memory order. `None` if one of them is outside memory; those before it
    /// are written.
    #[must_use]
    pub fn write(&self, at: PhysAddr, bytes: &[u8]) -> Option<()> {
        for (i, byte) in bytes.iter().enumerate() {
            let at = at.checked_add(i as u64)?;
            let word = self.word(at)?;
            let mut old = word.load(Ordering::SeqCst);
            loop {
                let mut new = old.to_ne_bytes();
                new[index(at.raw() % WORD)] = *byte;
                let new = u64::from_ne_bytes(new);
                match word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => break,
                    Err(seen) => old = seen,
                }
            }
        }
        Some(())
    }

    /// The contents of a frame if it was ever touched.
    fn touched(&self, pfn: Pfn) -> Option<&[Word]> {
        let at = pfn.addr(self.base())?;
        let piece = (at.raw() >> PIECE.raw()).checked_sub(self.first)?;
        self.pieces.get(index(piece))?.get()?;
        self.frame(pfn)
    }

    /// The contents of a frame, no more than 64 KiB of it.
    fn frame(&self, pfn: Pfn) -> Option<&[Word]> {
        self.words(pfn.addr(self.base())?, index(self.base().bytes() / WORD))
    }

    /// Fills a frame with zeroes.
    pub(crate) fn clear(&self, pfn: Pfn) {
        // What was never touched is zero.
        for word in self.touched(pfn).unwrap_or_default() {
            word.store(0, Ordering::SeqCst);
        }
    }

    /// Copies a frame.
    pub(crate) fn copy(&self, from: Pfn, to: Pfn) {
        let Some(source) = self.touched(from) else {
            return self.clear(to);
        };
        for (from, to) in source.iter().zip(self.frame(to).unwrap_or_default()) {
            to.store(from.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }
}

/// A `u64` as an index: the machine runs on 64-bit hosts only, as pinfold does.
pub(crate) fn index(raw: u64) -> usize {
    pinfold_arch::addr::index(raw)
}

fn zeroes(count: usize) -> Vec<Word> {
    (0..count).map(|_| Word::new(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::mib;

    #[test]
    fn bytes_come_back_across_words_and_pieces() {
        let ram = Ram::new(&Layout::new(Pfn::new(3)).normal(mib(1)));
        let at = PhysAddr::new(0xfffd);
        ram.write(at, b"pinfold").unwrap();
        let mut back = [0; 7];
        ram.read(at, &mut back).unwrap();
        assert_eq!(&back, b"pinfold");
    }

    #[test]
    fn memory_ends_where_the_layout_ends() {
        let ram = Ram::new(&Layout::new(Pfn::new(3)).normal(mib(1)));
        let end = (3 << 12) + (1 << 20);
        assert!(ram.words(PhysAddr::new(0x3000), 512).is_some());
        assert!(ram.words(PhysAddr::new(0x2ff8), 1).is_none());
        assert!(ram.words(PhysAddr::new(end - 8), 1).is_some());
        assert!(ram.words(PhysAddr::new(end - 8), 2).is_none());
        assert!(ram.words(PhysAddr::new(0x3004), 1).is_none());
        assert!(ram.words(PhysAddr::new(u64::MAX - 7), 1).is_none());
        assert!(ram.words(PhysAddr::new(u64::MAX - 7), usize::MAX).is_none());
    }
}
