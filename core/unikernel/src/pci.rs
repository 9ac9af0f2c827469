//! Finding devices on the first PCI bus. No bridges.

/// Configuration space of bus 0.
///
/// A function is named by its device number and function number together (5 and 3 bits). That is also
/// its requester id, by which IOMMUs know it.
pub trait Config {
    /// Reads 32 bits at an offset that is a multiple of 4.
    fn read(&mut self, function: u8, offset: u8) -> u32;

    /// Writes 32 bits at an offset that is a multiple of 4.
    fn write(&mut self, function: u8, offset: u8, value: u32);
}

const IDENTITY: u8 = 0;
const COMMAND: u8 = 4;
/// Memory space, and being the master of the bus.
const ENABLE: u32 = 1 << 1 | 1 << 2;
const CLASS: u8 = 8;
const BAR0: u8 = 0x10;

/// The function with this vendor and device number.
pub fn find(config: &mut dyn Config, vendor: u16, device: u16) -> Option<u8> {
    let wanted = u32::from(device) << 16 | u32::from(vendor);
    (0..=u8::MAX).find(|function| config.read(*function, IDENTITY) == wanted)
}

/// The function of this class and subclass.
pub fn find_class(config: &mut dyn Config, class: u16) -> Option<u8> {
    (0..=u8::MAX).find(|function| config.read(*function, CLASS) >> 16 == u32::from(class))
}

/// Lets a function answer at its first memory area and use the bus. Returns the address of that area:
/// where the firmware put it, or else at `place`.
pub fn enable(config: &mut dyn Config, function: u8, place: u32) -> u32 {
    let address = |raw: u32| raw & !0xf;
    if address(config.read(function, BAR0)) == 0 {
        config.write(function, BAR0, place);
    }
    let command = config.read(function, COMMAND);
    config.write(function, COMMAND, command & 0xffff | ENABLE);
    address(config.read(function, BAR0))
}
