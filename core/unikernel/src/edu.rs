//! QEMU's `edu` device: moves bytes between memory and a buffer of its own.
//!
//! It does not say whether an access was blocked. Its addresses are cut to 28 bits unless it is made with
//! `dma_mask=0xffffffffffffffff`.

use core::hint::black_box;

use crate::dma::{Dma, TRANSFER};
use crate::registers::{Registers, wait};

/// Vendor and device number.
pub const IDENTITY: (u16, u16) = (0x1234, 0x11e8);
/// Bytes of its registers.
pub const REGISTERS: usize = 1 << 20;

const SOURCE: usize = 0x80;
const TARGET: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
const START: u64 = 1;
const TO_MEMORY: u64 = 1 << 1;
/// Where the device's side of a transfer begins.
const BUFFER: u64 = 0x40000;

/// Turns of an empty loop that are about as long as a transfer, where time is counted in instructions
/// (`-icount`): an emulator takes longer for one look at a register than for thousands of them.
const PAUSE: u32 = 30000;

/// The device.
#[derive(Debug)]
pub struct Edu {
    registers: Registers,
}

impl Edu {
    /// The device with these registers, in a machine that lets it use the bus.
    #[must_use]
    pub const fn new(registers: Registers) -> Self {
        Self { registers }
    }

    fn transfer(&self, source: u64, target: u64, command: u64) {
        self.registers.write64(SOURCE, source);
        self.registers.write64(TARGET, target);
        self.registers.write64(COUNT, TRANSFER);
        self.registers.write64(COMMAND, command);
        for turn in 0..PAUSE {
            black_box(turn);
        }
        wait("edu's transfer", || self.registers.read64(COMMAND) & START == 0);
    }
}

impl Dma for Edu {
    fn read(&mut self, at: u64) {
        self.transfer(at, BUFFER, START);
    }

    fn write(&mut self, at: u64) {
        self.transfer(BUFFER, at, START | TO_MEMORY);
    }
}
