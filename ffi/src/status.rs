//! What calls return.

#![expect(unsafe_code, reason = "exports functions to C by name")]

use core::ffi::{CStr, c_char};

use pinfold::ErrorKind;

/// What a call returns: PINFOLD_OK, or one of the negative PINFOLD_ERR_ values. A number is never
/// given another meaning; later versions may add numbers.
pub type Status = i32;

/// It is done.
pub const PINFOLD_OK: i32 = 0;
/// An argument is wrong whatever the state: a null or misaligned pointer, a range that wraps, an
/// unknown flag.
pub const PINFOLD_ERR_INVALID_ARGUMENT: i32 = -1;
/// Nothing is mapped there, or not with this access; or the address is not in the region.
pub const PINFOLD_ERR_NOT_MAPPED: i32 = -2;
/// The memory may not be pinned like this.
pub const PINFOLD_ERR_REFUSED: i32 = -3;
/// The memory could not be moved to where it may be pinned; later it may work.
pub const PINFOLD_ERR_UNMOVABLE: i32 = -4;
/// Somebody else is at it, or still uses it; later it may work.
pub const PINFOLD_ERR_BUSY: i32 = -5;
/// The host has no memory.
pub const PINFOLD_ERR_NO_MEMORY: i32 = -6;
/// The table memory is too small; the call says how many words it takes.
pub const PINFOLD_ERR_NO_SPACE: i32 = -7;
/// The account's limit is reached.
pub const PINFOLD_ERR_OVER_LIMIT: i32 = -8;
/// A count is at its limit.
pub const PINFOLD_ERR_OVERFLOW: i32 = -9;
/// The pause hook stopped the call.
pub const PINFOLD_ERR_INTERRUPTED: i32 = -10;
/// Table memory does not hold what the library wrote there.
pub const PINFOLD_ERR_CORRUPT: i32 = -11;
/// There is nothing of that name, or not any more.
pub const PINFOLD_ERR_NOT_FOUND: i32 = -12;
/// A hook broke its contract: it reported too little, too much or nonsense.
pub const PINFOLD_ERR_BAD_HOST: i32 = -13;
/// It cannot be answered here and now; a way that may sleep can.
pub const PINFOLD_ERR_TOO_HARD: i32 = -14;
/// Devices may still reach the memory: a TLB was not flushed, or not in time. The pins stay.
pub const PINFOLD_ERR_NOT_FLUSHED: i32 = -15;

/// The status of an error of this kind.
pub(crate) fn of(kind: ErrorKind) -> Status {
    -Status::from(kind as u8)
}

/// The status of a call that has written its outputs.
pub(crate) fn done(result: Result<(), Status>) -> Status {
    result.err().unwrap_or(PINFOLD_OK)
}

fn text(status: Status) -> &'static CStr {
    match status {
        PINFOLD_OK => c"ok",
        PINFOLD_ERR_INVALID_ARGUMENT => c"invalid argument",
        PINFOLD_ERR_NOT_MAPPED => c"not mapped, or not with this access",
        PINFOLD_ERR_REFUSED => c"this memory may not be pinned like this",
        PINFOLD_ERR_UNMOVABLE => c"memory could not be moved to where it may be pinned",
        PINFOLD_ERR_BUSY => c"busy",
        PINFOLD_ERR_NO_MEMORY => c"the host is out of memory",
        PINFOLD_ERR_NO_SPACE => c"table memory is too small",
        PINFOLD_ERR_OVER_LIMIT => c"the account's limit is reached",
        PINFOLD_ERR_OVERFLOW => c"a count is at its limit",
        PINFOLD_ERR_INTERRUPTED => c"interrupted",
        PINFOLD_ERR_CORRUPT => c"table memory is corrupt",
        PINFOLD_ERR_NOT_FOUND => c"not found",
        PINFOLD_ERR_BAD_HOST => c"a hook broke its contract",
        PINFOLD_ERR_TOO_HARD => c"too hard here",
        PINFOLD_ERR_NOT_FLUSHED => c"devices may still reach the memory",
        _ => c"unknown status",
    }
}

/// A status as English text: a string that lives forever and never is null, also for numbers that
/// are no status.
///
/// # Context
/// Any.
#[unsafe(no_mangle)]
pub extern "C" fn pinfold_status_str(status: Status) -> *const c_char {
    text(status).as_ptr()
}

/// A status as an errno value in Linux numbering, positive; 0 for PINFOLD_OK, EINVAL for numbers
/// that are no status.
///
/// | status | errno |
/// |---|---|
/// | INVALID_ARGUMENT | EINVAL 22 |
/// | NOT_MAPPED | EFAULT 14 |
/// | REFUSED | EACCES 13 |
/// | UNMOVABLE, TOO_HARD | EAGAIN 11 |
/// | BUSY, NOT_FLUSHED | EBUSY 16 |
/// | NO_MEMORY, OVER_LIMIT | ENOMEM 12 |
/// | NO_SPACE | ENOSPC 28 |
/// | OVERFLOW | EOVERFLOW 75 |
/// | INTERRUPTED | EINTR 4 |
/// | CORRUPT | EIO 5 |
/// | NOT_FOUND | ENOENT 2 |
/// | BAD_HOST | EPROTO 71 |
///
/// # Context
/// Any.
#[unsafe(no_mangle)]
pub extern "C" fn pinfold_status_errno(status: Status) -> i32 {
    match status {
        PINFOLD_OK => 0,
        PINFOLD_ERR_NOT_MAPPED => 14,
        PINFOLD_ERR_REFUSED => 13,
        PINFOLD_ERR_UNMOVABLE | PINFOLD_ERR_TOO_HARD => 11,
        PINFOLD_ERR_BUSY | PINFOLD_ERR_NOT_FLUSHED => 16,
        PINFOLD_ERR_NO_MEMORY | PINFOLD_ERR_OVER_LIMIT => 12,
        PINFOLD_ERR_NO_SPACE => 28,
        PINFOLD_ERR_OVERFLOW => 75,
        PINFOLD_ERR_INTERRUPTED => 4,
        PINFOLD_ERR_CORRUPT => 5,
        PINFOLD_ERR_NOT_FOUND => 2,
        PINFOLD_ERR_BAD_HOST => 71,
        _ => 22,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_number_and_its_text() {
        let kinds = [
            (ErrorKind::InvalidArgument, PINFOLD_ERR_INVALID_ARGUMENT),
            (ErrorKind::NotMapped, PINFOLD_ERR_NOT_MAPPED),
            (ErrorKind::Refused, PINFOLD_ERR_REFUSED),
            (ErrorKind::Unmovable, PINFOLD_ERR_UNMOVABLE),
            (ErrorKind::Busy, PINFOLD_ERR_BUSY),
            (ErrorKind::NoMemory, PINFOLD_ERR_NO_MEMORY),
            (ErrorKind::NoSpace, PINFOLD_ERR_NO_SPACE),
            (ErrorKind::OverLimit, PINFOLD_ERR_OVER_LIMIT),
            (ErrorKind::Overflow, PINFOLD_ERR_OVERFLOW),
            (ErrorKind::Interrupted, PINFOLD_ERR_INTERRUPTED),
            (ErrorKind::Corrupt, PINFOLD_ERR_CORRUPT),
            (ErrorKind::NotFound, PINFOLD_ERR_NOT_FOUND),
            (ErrorKind::BadHost, PINFOLD_ERR_BAD_HOST),
            (ErrorKind::TooHard, PINFOLD_ERR_TOO_HARD),
            (ErrorKind::NotFlushed, PINFOLD_ERR_NOT_FLUSHED),
        ];
        for (kind, status) in kinds {
            assert_eq!(of(kind), status);
            assert_ne!(text(status), text(1), "{status}");
            assert_ne!(pinfold_status_errno(status), 0, "{status}");
        }
        // The next number is free: a kind that is added is added here.
        assert_eq!(text(-16), text(1));
    }
}
