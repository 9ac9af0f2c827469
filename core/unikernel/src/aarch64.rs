//! QEMU's `virt` with an SMMUv3.

#![expect(
    unsafe_code,
    reason = "says where this machine has its memory and registers, and ends it"
)]

use core::fmt::{self, Write};
use core::ptr::{NonNull, with_exposed_provenance_mut};

use pinfold::host::DirectMap;
use pinfold_arch::{Granule, PhysAddr, Smmu};
use pinfold_unikernel::edu::{self, Edu};
use pinfold_unikernel::iommu::smmu::{self, SmmuUnit};
use pinfold_unikernel::memory::{self, Memory};
use pinfold_unikernel::pci::{self, Config};
use pinfold_unikernel::registers::Registers;
use pinfold_unikernel::report::Report;
use pinfold_unikernel::scenario::{self, Blind, Stage};

core::arch::global_asm!(include_str!("aarch64/start.s"));

/// Where memory begins.
const RAM: u64 = 0x4000_0000;
/// A serial port, PL011: data, and flags of which one says that there is no room.
const SERIAL: usize = 0x0900_0000;
const SERIAL_FLAGS: usize = 0x18;
const FULL: u32 = 1 << 5;
const SMMU: usize = 0x0905_0000;
/// PCI configuration of bus 0: 4 KiB a function.
const CONFIG: usize = 0x40_1000_0000;
const CONFIG_BYTES: usize = 1 << 20;
/// Where there is room for a PCI device's registers; no firmware gave it any.
const DEVICES: u32 = 0x1000_0000;
/// What QEMU's SMMU can give out: SMMU_IDR5.OAS.
const HOST_BITS: u8 = 44;
/// The granules, each with the widths of device addresses that are tried.
const SHAPES: [(Granule, [u8; 2]); 3] =
    [(Granule::Size4K, [39, 48]), (Granule::Size16K, [39, 47]), (Granule::Size64K, [42, 48])];

/// Random calls for each format.
const CALLS: u32 = 80;

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let start = NonNull::new(with_exposed_provenance_mut((RAM + memory::START) as usize));
    let (start, base) = (start.expect("not 0"), PhysAddr::new(RAM + memory::START));
    // SAFETY: the machine has so much memory, and the program lies before it.
    let map = unsafe { DirectMap::new(start, base, memory::RAM - memory::START) };
    let memory = Memory::new(map, RAM);

    let mut functions = Functions { registers: registers(CONFIG, CONFIG_BYTES) };
    let (vendor, number) = edu::IDENTITY;
    let device = pci::find(&mut functions, vendor, number).expect("an edu device");
    let place = pci::enable(&mut functions, device, DEVICES);
    let mut edu = Edu::new(registers(place as usize, edu::REGISTERS));

    let mut console = Console;
    let mut stage = Stage::new(&memory, &mut edu, Report::new(&mut console));
    stage.without_iommu();
    let unit = SmmuUnit::new(registers(SMMU, smmu::REGISTERS), &memory, device);
    for (granule, widths) in SHAPES {
        for bits in widths {
            stage.report.heading(format_args!("SMMU, {granule:?}, {bits} bits"));
            let format = Smmu::stage1(granule, bits, HOST_BITS).expect("a shape that exists");
            // QEMU 7.2 takes addresses beyond 48 bits for lower ones.
            let blind = Blind { beyond: bits == 48, ..Blind::default() };
            scenario::run(&mut stage, &unit, format, blind, CALLS);
        }
    }
    exit(stage.report.end())
}

/// Registers of this machine's.
fn registers(base: usize, bytes: usize) -> Registers {
    // SAFETY: called with what the machine has, and the MMU is off. Devices that use memory are given
    // addresses in that which `main` gives to `Memory`, or such as the SMMU translates to it.
    unsafe { Registers::new(base, bytes) }
}

struct Functions {
    registers: Registers,
}

impl Config for Functions {
    fn read(&mut self, function: u8, offset: u8) -> u32 {
        self.registers.read32(usize::from(function) << 12 | usize::from(offset))
    }

    fn write(&mut self, function: u8, offset: u8, value: u32) {
        self.registers.write32(usize::from(function) << 12 | usize::from(offset), value);
    }
}

#[derive(Debug)]
pub(crate) struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let serial = registers(SERIAL, 0x1000);
        for byte in text.bytes() {
            while serial.read32(SERIAL_FLAGS) & FULL != 0 {}
            serial.write32(0, u32::from(byte));
        }
        Ok(())
    }
}

#[unsafe(no_mangle)]
extern "C" fn exception(syndrome: u64, at: u64, address: u64) -> ! {
    panic!("exception at {at:#x}: ESR {syndrome:#x}, FAR {address:#x}");
}

/// Ends QEMU with 0 or 1, by semihosting: SYS_EXIT with ADP_Stopped_ApplicationExit and the code.
pub(crate) fn exit(good: bool) -> ! {
    let block = [0x20026_u64, u64::from(!good)];
    // SAFETY: ends the machine; reads the block, which is there.
    unsafe {
        core::arch::asm!("hlt #0xf000", in("x0") 0x20, in("x1") &raw const block, options(noreturn))
    }
}
