//! The least that a program can do to map: stores of entries that are ready, into tables that somebody
//! has found already.

use pinfold::sync::{Ordering, Word};

/// Entries of consecutive leaves, in the order of tables.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    /// The first one, as the CPU has it.
    pub first: u64,
    /// What comes on top from one leaf to the next.
    pub step: u64,
    /// Equal entries that make a leaf.
    pub equal: usize,
    /// Whether they stand in memory most significant byte first.
    pub big_endian: bool,
    /// What stands where nothing is mapped, as the CPU has it.
    pub absent: u64,
}

impl Entries {
    /// Entries like these, of two leaves or more, where nothing is mapped by `absent`.
    ///
    /// # Panics
    /// If they are the entries of one leaf only.
    #[must_use]
    pub fn like(words: &[Word], big_endian: bool, absent: u64) -> Self {
        let load = |at: usize| {
            let raw = words[at].load(Ordering::Relaxed);
            if big_endian { u64::from_be(raw) } else { u64::from_le(raw) }
        };
        let first = load(0);
        let equal = (1..words.len()).find(|at| load(*at) != first).expect("a second leaf");
        Self { first, step: load(equal).wrapping_sub(first), equal, big_endian, absent }
    }

    fn in_memory(&self, raw: u64) -> u64 {
        if self.big_endian { raw.to_be() } else { raw.to_le() }
    }

    /// Stores them.
    #[inline(never)]
    pub fn store(&self, words: &[Word]) {
        self.store_if(words, |_| true);
    }

    /// Stores them, and looks first whether nothing stands there.
    ///
    /// # Panics
    /// If something does.
    #[inline(never)]
    pub fn store_checked(&self, words: &[Word]) {
        let absent = self.in_memory(self.absent);
        self.store_if(words, |word| word.load(Ordering::Relaxed) == absent);
    }

    #[inline(always)]
    fn store_if(&self, words: &[Word], may: impl Fn(&Word) -> bool) {
        // A loop of its own for each, as a program has it that knows its format.
        match (self.big_endian, self.equal) {
            (false, 1) => each(words, 1, *self, u64::to_le, may),
            (true, 1) => each(words, 1, *self, u64::to_be, may),
            (false, equal) => each(words, equal, *self, u64::to_le, may),
            (true, equal) => each(words, equal, *self, u64::to_be, may),
        }
    }

    /// Takes them out.
    pub fn clear(&self, words: &[Word]) {
        let absent = self.in_memory(self.absent);
        words.iter().for_each(|word| word.store(absent, Ordering::Relaxed));
    }
}

#[inline(always)]
fn each(
    words: &[Word],
    equal: usize,
    entries: Entries,
    in_memory: impl Fn(u64) -> u64,
    may: impl Fn(&Word) -> bool,
) {
    let mut raw = entries.first;
    for group in words.chunks_exact(equal) {
        assert!(group.iter().all(&may), "something is mapped");
        let entry = in_memory(raw);
        group.iter().for_each(|word| word.store(entry, Ordering::Relaxed));
        raw = raw.wrapping_add(entries.step);
    }
}
