//! Addresses to ask for, and the loops that ask.

use std::hint::black_box;

use pinfold::AddrRange;

use crate::random::Random;
use crate::scene::BASE;

/// Whoever knows where the byte at a virtual address is.
pub trait Locate {
    /// The physical address, or whatever else it takes the address to.
    fn locate(&self, va: u64) -> Option<u64>;
}

/// What the answers to some queries come to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Answers {
    /// All addresses together.
    pub sum: u64,
    /// Queries without an answer.
    pub missed: u64,
}

impl Answers {
    #[inline(always)]
    fn add(&mut self, answer: Option<u64>) {
        self.sum = self.sum.wrapping_add(answer.unwrap_or(0));
        self.missed += u64::from(answer.is_none());
    }
}

/// `count` addresses of bytes inside the range, in random order: the same ones every time.
///
/// # Panics
/// If the range has 2^64 bytes.
#[must_use]
pub fn within(range: &AddrRange, count: usize) -> Vec<u64> {
    let mut random = Random::new();
    let bytes = range.pages().bytes(BASE).expect("less than all of the address space");
    (0..count).map(|_| range.start().raw() + random.below(bytes)).collect()
}

/// Asks one query after the other. None depends on the one before, so that the CPU may be at several.
#[inline(never)]
pub fn independent(locate: &impl Locate, queries: &[u64]) -> Answers {
    let mut answers = Answers::default();
    for va in queries {
        answers.add(locate.locate(*va));
    }
    black_box(answers)
}

/// The same, but a query is not known before the one before it was answered: the time of one is
/// that of its way from the question to the answer.
#[inline(never)]
pub fn dependent(locate: &impl Locate, queries: &[u64]) -> Answers {
    let (mut answers, mut last) = (Answers::default(), 0);
    let nothing = black_box(0);
    for va in queries {
        let answer = locate.locate(*va + (last & nothing));
        last = answer.unwrap_or(0);
        answers.add(answer);
    }
    black_box(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinfold::{PageCount, VirtAddr};

    struct Even;

    impl Locate for Even {
        fn locate(&self, va: u64) -> Option<u64> {
            va.is_multiple_of(2).then_some(va + 1)
        }
    }

    #[test]
    fn both_loops_ask_everything_and_count_what_has_no_answer() {
        let queries = [2, 3, 4, 5, 7];
        let expected = Answers { sum: 3 + 5, missed: 3 };
        assert_eq!(independent(&Even, &queries), expected);
        assert_eq!(dependent(&Even, &queries), expected);
    }

    #[test]
    fn queries_lie_in_the_range_and_reach_all_of_it() {
        let start = VirtAddr::new(0x10_0000);
        let range = AddrRange::new(start, PageCount::new(16), BASE).expect("a range");
        let mut pages: Vec<u64> =
            within(&range, 1000).iter().map(|va| (va - 0x10_0000) >> 12).collect();
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages, (0..16).collect::<Vec<u64>>());
    }
}
