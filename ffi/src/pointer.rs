//! Pointers that come from C, checked before anything is read.

#![expect(unsafe_code, reason = "reads and writes through pointers that C gives")]

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::status::{PINFOLD_ERR_INVALID_ARGUMENT, Status};

/// A structure that grows at its end must stay below this size: a stray size is an error.
const LARGEST: usize = 4096;
const WORD: usize = size_of::<u64>();

/// A pointer that is neither null nor misaligned.
#[inline(always)]
pub(crate) fn check<T>(pointer: *const T) -> Result<NonNull<T>, Status> {
    NonNull::new(pointer.cast_mut())
        .filter(|pointer| pointer.is_aligned())
        .ok_or(PINFOLD_ERR_INVALID_ARGUMENT)
}

/// A structure whose first field is its size as the caller knows it.
///
/// # Safety
/// The type is `repr(C)`, aligned to eight, without padding; it begins with a `usize`; every field
/// is valid whatever its bits, or is an optional function.
pub(crate) unsafe trait Grown: Copy {}

/// The size that a caller gave a structure, unless it is a stray one.
///
/// # Safety
/// The first field is readable.
unsafe fn size_of_grown<T: Grown>(structure: NonNull<T>) -> Result<usize, Status> {
    // SAFETY: aligned, and readable by this function's contract.
    let size = unsafe { structure.cast::<usize>().read() };
    let stray = size < WORD || size % WORD != 0 || size > LARGEST;
    if stray { Err(PINFOLD_ERR_INVALID_ARGUMENT) } else { Ok(size) }
}

/// Reads a structure of any version: fields beyond the caller's size are null, and what the caller
/// gave beyond the fields known here must be.
///
/// # Safety
/// `from` is null, or points to as many readable bytes as its first field says.
pub(crate) unsafe fn read<T: Grown>(from: *const T) -> Result<T, Status> {
    let from = check(from)?;
    // SAFETY: the first field is readable by this function's contract.
    let size = unsafe { size_of_grown(from) }?;
    for at in size_of::<T>() / WORD..size / WORD {
        // SAFETY: inside the `size` bytes that are readable.
        let word = unsafe { from.cast::<u64>().add(at) };
        // SAFETY: as above, and aligned because the structure is.
        if unsafe { word.read() } != 0 {
            return Err(PINFOLD_ERR_INVALID_ARGUMENT);
        }
    }
    let mut value = MaybeUninit::<T>::zeroed();
    let bytes = size.min(size_of::<T>());
    let (source, target) = (from.as_ptr().cast::<u8>(), value.as_mut_ptr().cast::<u8>());
    // SAFETY: `bytes` are readable at the source and fit the target, which is a local.
    unsafe { core::ptr::copy_nonoverlapping(source, target, bytes) };
    // SAFETY: zeroed, then overwritten by whole words; all bits are valid for its fields.
    Ok(unsafe { value.assume_init() })
}

/// Where a structure of any version goes.
#[derive(Debug)]
pub(crate) struct Output<T> {
    to: NonNull<T>,
    size: usize,
}

/// A structure that is to be written, of which only the size is filled in.
///
/// # Safety
/// `to` is null, or points to as many bytes as its first field says, which is readable.
pub(crate) unsafe fn output<T: Grown>(to: *mut T) -> Result<Output<T>, Status> {
    let to = check(to)?;
    // SAFETY: the first field is readable by this function's contract.
    let size = unsafe { size_of_grown(to) }?;
    Ok(Output { to, size })
}

impl<T: Grown> Output<T> {
    /// Writes all fields but the size, as far as the caller has room; what the caller knows more is
    /// null.
    ///
    /// # Safety
    /// There is writable memory, as large as its first field said.
    pub(crate) unsafe fn write(self, value: T) {
        let from = core::ptr::from_ref(&value).cast::<u64>();
        for at in 1..self.size / WORD {
            let mut word = 0;
            if at < size_of::<T>() / WORD {
                // SAFETY: inside the value.
                let from = unsafe { from.add(at) };
                // SAFETY: aligned, and initialised, for there is no padding.
                word = unsafe { from.read() };
            }
            // SAFETY: inside the `size` bytes that are writable.
            let to = unsafe { self.to.cast::<u64>().add(at) };
            // SAFETY: as above, and aligned because the structure is.
            unsafe { to.write(word) };
        }
    }
}

/// Writes an output.
///
/// # Safety
/// `to` points to writable memory for a `T`; [`check`] saw to its alignment.
#[inline(always)]
pub(crate) unsafe fn write<T>(to: NonNull<T>, value: T) {
    // SAFETY: writable by this function's contract, and aligned.
    unsafe { to.write(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Two {
        size: usize,
        one: u64,
        two: u64,
    }
    // SAFETY: integers of eight bytes.
    unsafe impl Grown for Two {}

    fn read_words(words: &[u64; 5]) -> Result<Two, Status> {
        // SAFETY: the sizes used here are at most that of the array, or refused.
        unsafe { read(words.as_ptr().cast::<Two>()) }
    }

    #[test]
    fn a_structure_may_be_older_or_newer() {
        assert_eq!(read_words(&[24, 1, 2, 3, 4]), Ok(Two { size: 24, one: 1, two: 2 }));
        assert_eq!(read_words(&[16, 1, 2, 3, 4]), Ok(Two { size: 16, one: 1, two: 0 }));
        assert_eq!(read_words(&[8, 1, 2, 3, 4]), Ok(Two { size: 8, one: 0, two: 0 }));
        assert_eq!(read_words(&[40, 1, 2, 0, 0]), Ok(Two { size: 40, one: 1, two: 2 }));
    }

    #[test]
    fn what_is_not_known_and_not_null_is_refused() {
        for words in [[40, 1, 2, 0, 4], [32, 1, 2, 3, 0]] {
            assert_eq!(read_words(&words), Err(PINFOLD_ERR_INVALID_ARGUMENT));
        }
        for size in [0, 4, 7, 20, 4104, u64::MAX] {
            assert_eq!(read_words(&[size, 1, 2, 0, 0]), Err(PINFOLD_ERR_INVALID_ARGUMENT));
        }
    }

    #[test]
    fn what_is_written_ends_where_the_caller_says() {
        for (size, expected) in
            [(8, [8, 9, 9, 9]), (16, [16, 1, 9, 9]), (24, [24, 1, 2, 9]), (32, [32, 1, 2, 0])]
        {
            let mut words: [u64; 4] = [size, 9, 9, 9];
            // SAFETY: the sizes used here are at most that of the array.
            let output = unsafe { output(words.as_mut_ptr().cast::<Two>()) }.unwrap();
            // SAFETY: the same.
            unsafe { output.write(Two { size: 0, one: 1, two: 2 }) };
            assert_eq!(words, expected);
        }
        for size in [0, 4, 7, 20, 4104, u64::MAX] {
            let mut words = [size, 9, 9, 9];
            // SAFETY: the first field can be read.
            assert!(unsafe { output(words.as_mut_ptr().cast::<Two>()) }.is_err());
        }
    }

    #[test]
    fn null_and_misaligned_pointers_are_refused() {
        assert!(check(core::ptr::null::<u64>()).is_err());
        let words = [0u64; 2];
        assert!(check(words.as_ptr().wrapping_byte_add(4)).is_err());
        assert!(check(words.as_ptr()).is_ok());
    }
}
