//! What is reached by ports: the console, PCI configuration, and the end.

#![expect(unsafe_code, reason = "ports")]

use core::fmt::{self, Write};

use pinfold_unikernel::pci::Config;
use x86_64::instructions::port::Port;

/// The first serial port: data, and a status whose bit 5 says that there is room.
const SERIAL: u16 = 0x3f8;
const SERIAL_STATUS: u16 = SERIAL + 5;
const ROOM: u8 = 1 << 5;
/// PCI configuration: which register, and what is in it.
const REGISTER: u16 = 0xcf8;
const VALUE: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
/// QEMU's `isa-debug-exit`: makes an exit code of twice what is written and 1. A triple fault would end QEMU
/// with 0.
const EXIT: u16 = 0xf4;
const SUCCESS: u32 = 0x10;
const FAILURE: u32 = 1;

fn read<T: x86_64::structures::port::PortRead>(port: u16) -> T {
    // SAFETY: the ports here do nothing to memory.
    unsafe { Port::new(port).read() }
}

fn write<T: x86_64::structures::port::PortWrite>(port: u16, value: T) {
    // SAFETY: as above; PCI devices begin no DMA before their registers say so.
    unsafe { Port::new(port).write(value) }
}

#[derive(Debug)]
pub(crate) struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while read::<u8>(SERIAL_STATUS) & ROOM == 0 {}
            write(SERIAL, byte);
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Ports;

impl Config for Ports {
    fn read(&mut self, function: u8, offset: u8) -> u32 {
        write(REGISTER, place(function, offset));
        read(VALUE)
    }

    fn write(&mut self, function: u8, offset: u8, value: u32) {
        write(REGISTER, place(function, offset));
        write(VALUE, value);
    }
}

fn place(function: u8, offset: u8) -> u32 {
    ENABLE | u32::from(function) << 8 | u32::from(offset)
}

/// Ends QEMU.
pub(crate) fn exit(good: bool) -> ! {
    write(EXIT, if good { SUCCESS } else { FAILURE });
    loop {
        x86_64::instructions::hlt();
    }
}
