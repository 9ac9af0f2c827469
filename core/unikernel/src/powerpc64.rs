//! QEMU's `powernv9`: a POWER9 machine, under its firmware in real mode.

#![expect(unsafe_code, reason = "says where this machine has its memory and registers")]

use core::ptr::{NonNull, with_exposed_provenance_mut};

use pinfold::host::DirectMap;
use pinfold_arch::{PageShift, PhysAddr, Tce};
use pinfold_unikernel::edu::{self, Edu};
use pinfold_unikernel::memory::{self, Memory};
use pinfold_unikernel::pci::{self, Config};
use pinfold_unikernel::registers::Registers;
use pinfold_unikernel::report::Report;
use pinfold_unikernel::scenario::{self, Blind, Stage};

use opal::Bus;
use phb::Phb;

mod opal;
mod phb;

pub(crate) use opal::{Console, exit};

core::arch::global_asm!(include_str!("powerpc64/start.s"));

/// Where memory begins that neither the firmware nor the program uses.
const RAM: u64 = 1 << 30;
/// The first host bridge of the first chip: its number, its registers, and where the CPU finds what PCI
/// knows as the 2 GiB from `DEVICES` on.
const BRIDGE: u64 = 0;
const BRIDGE_REGISTERS: usize = 0x0006_00c3_c000_0000;
const DEVICES: u32 = 0x8000_0000;
const DEVICES_FROM_CPU: usize = 0x0006_00c0_0000_0000;
/// Of the root port: which addresses it passes on, from the first MiB to the last.
const PASSED_ON: u8 = 0x20;
const FIRST_MIB: u32 = DEVICES | DEVICES >> 16;
/// Pages and levels that are tried, in windows of 64 GiB.
const SHAPES: [(u8, u8); 3] = [(16, 1), (21, 2), (12, 4)];
const WINDOW: u8 = 36;

#[unsafe(no_mangle)]
extern "C" fn main(data: u64, entry: u64) -> ! {
    opal::set(data, entry);
    let start = NonNull::new(with_exposed_provenance_mut((RAM + memory::START) as usize));
    let (start, base) = (start.expect("not 0"), PhysAddr::new(RAM + memory::START));
    // SAFETY: the machine has so much memory, and the firmware and the program lie before it.
    let map = unsafe { DirectMap::new(start, base, memory::RAM - memory::START) };
    let memory = Memory::new(map, RAM);

    let mut root = Bus { bridge: BRIDGE, bus: 0 };
    root.write(0, PASSED_ON, FIRST_MIB);
    pci::enable(&mut root, 0, 0);
    let mut bus = Bus { bridge: BRIDGE, bus: 1 };
    let (vendor, number) = edu::IDENTITY;
    let device = pci::find(&mut bus, vendor, number).expect("an edu device");
    let place = DEVICES_FROM_CPU + (pci::enable(&mut bus, device, DEVICES) - DEVICES) as usize;
    let mut edu = Edu::new(registers(place, edu::REGISTERS));

    let mut console = Console;
    let mut stage = Stage::new(&memory, &mut edu, Report::new(&mut console));
    let unit = Phb::new(registers(BRIDGE_REGISTERS, phb::REGISTERS), &bus, device);
    for (page, levels) in SHAPES {
        let shift = |raw| PageShift::new(raw).expect("a size");
        let format = Tce::new(shift(page), shift(WINDOW), levels).expect("a shape that exists");
        stage.report.heading(format_args!("PHB4, pages of 1 << {page}, {levels} levels"));
        // QEMU wraps addresses beyond the window, and keeps no TCEs.
        let blind = Blind { beyond: true, keeps: true };
        scenario::run(&mut stage, &unit, format, blind, 0);
    }
    exit(stage.report.end())
}

/// Registers of this machine's.
fn registers(base: usize, bytes: usize) -> Registers {
    // SAFETY: called with what the machine has, in real mode. The device is given addresses that the bridge
    // translates to memory which `main` gives to `Memory`.
    unsafe { Registers::new(base, bytes) }
}
