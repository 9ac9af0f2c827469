//! What the scenario wants of a device.

use core::fmt::Debug;

/// What one transfer moves, in bytes.
pub const TRANSFER: u64 = 512;

/// A device that moves bytes between memory and a buffer of its own. It need not say whether an access
/// was blocked: then memory, or its buffer, is not what it would be otherwise.
pub trait Dma: Debug {
    /// Reads [`TRANSFER`] bytes at this device address into its buffer.
    fn read(&mut self, at: u64);

    /// Writes its buffer to this device address.
    fn write(&mut self, at: u64);
}
