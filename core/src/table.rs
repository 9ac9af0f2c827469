//! The pin table.
use crate::error::ErrorKind;
use crate::sync::Word;

/// Why a pin table refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Too small.
    #[error("the table's memory is too small: {need} words are needed")]
    NoSpace {
        /// Words.
        need: usize,
    },
}
impl TableError {
    /// kind
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::NoSpace
    }
}
/// stub
#[derive(Debug)]
pub struct PinTable<'m> {
    #[expect(dead_code, reason = "stub")]
    words: &'m [Word],
}
