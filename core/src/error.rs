//! The one list of what can go wrong.

/// The kinds of error, one for each thing that a caller can do about it. C status codes are made
/// from this list; a number is never given another meaning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[repr(u8)]
pub enum ErrorKind {
    /// An argument is wrong whatever the state: a range, a combination of flags.
    InvalidArgument = 1,
    /// Nothing is mapped there, or not with this access.
    NotMapped = 2,
    /// The memory may not be pinned like this.
    Refused = 3,
    /// The memory could not be moved to where it may be pinned; later it may work.
    Unmovable = 4,
    /// Somebody else is at it; later it may work.
    Busy = 5,
    /// The host has no memory.
    NoMemory = 6,
    /// The caller's table memory is too small; the error says what is needed.
    NoSpace = 7,
    /// The account's limit is reached.
    OverLimit = 8,
    /// A count is at its limit.
    Overflow = 9,
    /// `pause` stopped the call.
    Interrupted = 10,
    /// Page tables or table memory do not hold what they must.
    Corrupt = 11,
    /// There is nothing of that name, or not any more.
    NotFound = 12,
    /// A function of the host broke its contract: it reported too little, too much or nonsense.
    BadHost = 13,
    /// It cannot be answered here and now; a way that may sleep can.
    TooHard = 14,
    /// Devices may still reach the memory: a TLB was not flushed, or not in time. The pins stay.
    NotFlushed = 15,
}
