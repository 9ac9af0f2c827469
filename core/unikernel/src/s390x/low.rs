//! Pages before the program, for blocks that instructions read and write. Everything in them is big endian,
//! like the CPU.

#![expect(unsafe_code, reason = "says that this memory is nobody else's")]

use core::ptr::{NonNull, with_exposed_provenance_mut};

use pinfold::host::TableView;

/// A page for one kind of block, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Page {
    Console = 4,
    Call = 5,
    Function = 6,
    Events = 7,
}

impl Page {
    pub(super) const fn addr(self) -> u64 {
        self as u64 * 4096
    }

    fn words(self) -> TableView<'static> {
        let first = NonNull::new(with_exposed_provenance_mut(self.addr() as usize));
        // SAFETY: memory between what the CPU keeps for itself and the program, which only this
        // type names, aligned.
        unsafe { TableView::from_raw(first.expect("not page 0"), 512) }
    }

    /// The word at a byte that is a multiple of 8.
    pub(super) fn load(self, byte: usize) -> u64 {
        self.words().load(byte / 8).expect("a word of the page")
    }

    /// Words from the start on, and zeroes behind them.
    pub(super) fn fill(self, words: impl Iterator<Item = u64>) {
        for (place, word) in words.chain(core::iter::repeat(0)).take(512).enumerate() {
            self.words().store(place, word);
        }
    }
}
