//! Memory for words that C gives.

#![expect(unsafe_code, reason = "makes words out of the memory that C gives")]

use core::slice;

use pinfold::sync::Word;

use crate::pointer;
use crate::status::{PINFOLD_ERR_INVALID_ARGUMENT, Status};

/// Where some words are: not null, aligned, as many as an address space can hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    first: *mut Word,
    count: usize,
}

impl Words {
    /// What C calls `count` words from `first` on; `None` if they are none.
    pub(crate) fn new(first: *mut u64, count: u64) -> Result<Option<Self>, Status> {
        if count == 0 {
            return Ok(None);
        }
        let first = pointer::check(first)?.as_ptr();
        let count = usize::try_from(count).map_err(|_| PINFOLD_ERR_INVALID_ARGUMENT)?;
        let possible = count.checked_mul(size_of::<Word>()).is_some_and(|bytes| {
            isize::try_from(bytes).is_ok() && first.addr().checked_add(bytes).is_some()
        });
        if possible {
            Ok(Some(Self::at(first.cast(), count)))
        } else {
            Err(PINFOLD_ERR_INVALID_ARGUMENT)
        }
    }

    /// What [`first`](Self::first) and [`count`](Self::count) said.
    pub(crate) const fn at(first: *mut Word, count: usize) -> Self {
        Self { first, count }
    }

    pub(crate) const fn first(self) -> *mut Word {
        self.first
    }

    pub(crate) const fn count(self) -> usize {
        self.count
    }

    const fn bytes(self) -> usize {
        self.count.saturating_mul(size_of::<Word>())
    }

    /// Whether it shares a byte with the `bytes` bytes from `start`.
    pub(crate) fn overlaps(self, start: usize, bytes: usize) -> bool {
        let first = self.first.addr();
        first < start.saturating_add(bytes) && start < first.saturating_add(self.bytes())
    }

    /// Whether it shares a byte with other words.
    pub(crate) fn overlaps_words(self, other: Self) -> bool {
        self.overlaps(other.first.addr(), other.bytes())
    }

    /// Whether it shares a byte with a value.
    pub(crate) fn overlaps_value<T>(self, value: &T, bytes: usize) -> bool {
        self.overlaps(core::ptr::from_ref(value).addr(), bytes)
    }

    /// The words.
    ///
    /// # Safety
    /// It came from [`new`](Self::new), or is what such a one said; the words are mapped, readable and
    /// writable, and nobody but the library touches them as long as the result is used.
    pub(crate) unsafe fn words<'a>(self) -> &'a [Word] {
        // SAFETY: aligned, of a possible size, mapped and the library's own by this function's
        // contract; accessed only through atomics.
        unsafe { slice::from_raw_parts(self.first, self.count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_touches_is_not_shared() {
        let mut array = [0_u64; 16];
        let words = Words::new(array.as_mut_ptr(), 16).unwrap().unwrap();
        let (start, bytes) = (words.first().addr(), words.bytes());
        assert!(words.overlaps(start, 1) && words.overlaps(start + bytes - 1, 1));
        assert!(!words.overlaps(start + bytes, 1) && !words.overlaps(start - 1, 1));
        assert!(words.overlaps(start - 1, 2) && !words.overlaps(start, 0));
    }

    #[test]
    fn impossible_words_are_refused() {
        let mut array = [0_u64; 2];
        let first = array.as_mut_ptr();
        assert!(matches!(Words::new(core::ptr::null_mut(), 0), Ok(None)));
        let wrong = [
            (core::ptr::null_mut(), 1),
            (first.wrapping_byte_add(4), 1),
            (first, u64::MAX),
            (first, 1 << 60),
            (core::ptr::without_provenance_mut(usize::MAX - 7), 2),
        ];
        for (first, count) in wrong {
            assert_eq!(Words::new(first, count).err(), Some(PINFOLD_ERR_INVALID_ARGUMENT));
        }
    }
}
