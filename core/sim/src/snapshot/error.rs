//! What can be wrong with a snapshot's bytes, and where.

use std::fmt;

/// Name of a section of the file: four ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SectionTag(pub [u8; 4]);

impl fmt::Display for SectionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for SectionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SectionTag({self})")
    }
}

/// Why bytes are not a snapshot that can be used. Offsets count from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The first eight bytes are not those of a snapshot.
    #[error("not a snapshot: the file does not begin with PINFSNAP")]
    BadMagic,
    /// Written by a later version than this one.
    #[error("snapshot format version {found}; this reader knows version 1")]
    UnsupportedVersion {
        /// The version in the file.
        found: u32,
    },
    /// The architecture's number is not known.
    #[error("snapshot of an unknown architecture (number {found})")]
    UnknownArch {
        /// The number in the file.
        found: u32,
    },
    /// The file, or a section of it, ends too early.
    #[error("section {section} ends too early, at offset {at}")]
    Truncated {
        /// The section that is cut off; `HEAD` for the header.
        section: SectionTag,
        /// Where something was to be read.
        at: usize,
    },
    /// The checksum at the end is not that of the bytes before it.
    #[error("checksum is {stored:#010x} in the file and {computed:#010x} by its bytes")]
    BadChecksum {
        /// The file's last four bytes.
        stored: u32,
        /// What they should have been.
        computed: u32,
    },
    /// A section that must be there is not.
    #[error("section {section} is missing")]
    MissingSection {
        /// Which one.
        section: SectionTag,
    },
    /// A section is there twice.
    #[error("section {section} is there again at offset {at}")]
    DuplicateSection {
        /// Which one.
        section: SectionTag,
        /// Where the second one begins.
        at: usize,
    },
    /// A count is larger than the format allows, or than the bytes behind it can hold.
    #[error("count {count} in section {section} at offset {at}: at most {limit}")]
    BadCount {
        /// The section it is in.
        section: SectionTag,
        /// Where the count begins.
        at: usize,
        /// The count.
        count: u64,
        /// The largest one possible there.
        limit: u64,
    },
    /// A value has no meaning, or does not fit the ones before it.
    #[error("bad {what} in section {section} at offset {at}")]
    BadValue {
        /// The section it is in.
        section: SectionTag,
        /// Where the value begins.
        at: usize,
        /// What it should have been.
        what: &'static str,
    },
    /// A section goes on behind its last item.
    #[error("section {section} has bytes behind its end, at offset {at}")]
    TrailingBytes {
        /// Which one.
        section: SectionTag,
        /// Where its last item ends.
        at: usize,
    },
}
