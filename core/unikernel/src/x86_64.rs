//! QEMU's `q35`: a PC, with Intel's IOMMU or AMD's.

#![expect(unsafe_code, reason = "says where this machine has its memory and registers")]

use core::ptr::{NonNull, with_exposed_provenance_mut};

use pinfold::host::DirectMap;
use pinfold_arch::{AmdVi, PhysAddr, Vtd};
use pinfold_unikernel::edu::{self, Edu};
use pinfold_unikernel::iommu::Iommu;
use pinfold_unikernel::iommu::amdvi::{self, AmdViUnit};
use pinfold_unikernel::iommu::vtd::{self, Invalidation, VtdUnit};
use pinfold_unikernel::memory::{self, Memory};
use pinfold_unikernel::pci;
use pinfold_unikernel::registers::Registers;
use pinfold_unikernel::report::Report;
use pinfold_unikernel::scenario::{self, Blind, Stage};

mod ports;

pub(crate) use ports::{Console, exit};

core::arch::global_asm!(include_str!("x86_64/start.s"));

/// Where VT-d's registers are.
const VTD: usize = 0xfed9_0000;
/// Where AMD-Vi's registers are. As a PCI device it is known by its class: its number varies in QEMU.
const AMDVI: usize = 0xfed8_0000;
const IOMMU_CLASS: u16 = 0x0806;
/// Where the firmware would put a device's registers.
const DEVICES: u32 = 0xe000_0000;
/// Any width of host addresses that has all memory will do.
const HOST_BITS: u8 = 39;

/// Random calls for each format.
const CALLS: u32 = 80;

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let start = NonNull::new(with_exposed_provenance_mut(memory::START as usize));
    let start = start.expect("not 0");
    // SAFETY: the machine has so much memory, mapped one to one, and the program lies before it.
    let map =
        unsafe { DirectMap::new(start, PhysAddr::new(memory::START), memory::RAM - memory::START) };
    let memory = Memory::new(map, 0);

    let (vendor, number) = edu::IDENTITY;
    let device = pci::find(&mut ports::Ports, vendor, number).expect("an edu device");
    let registers = pci::enable(&mut ports::Ports, device, DEVICES);
    // SAFETY: the device says where its registers are, below 4 GiB, mapped one to one; its DMA is given
    // addresses in the memory above only, or such as the IOMMU translates to that.
    let mut edu = Edu::new(unsafe { Registers::new(registers as usize, edu::REGISTERS) });

    let mut console = Console;
    let mut stage = Stage::new(&memory, &mut edu, Report::new(&mut console));
    stage.without_iommu();
    if pci::find_class(&mut ports::Ports, IOMMU_CLASS).is_some() {
        amdvi(&mut stage, device);
    } else {
        vtd(&mut stage, device);
    }
    exit(stage.report.end())
}

fn vtd(stage: &mut Stage<'_, '_>, device: u8) {
    // SAFETY: the machine has VT-d there, mapped one to one; it reads and writes structures in the memory
    // that is for them.
    let registers = unsafe { Registers::new(VTD, vtd::REGISTERS) };
    let format = |levels| Vtd::new(levels, HOST_BITS).expect("levels that exist");
    let mut unit = VtdUnit::new(registers, stage.memory, device, format(3));
    for levels in [3, 4] {
        if !unit.has(&format(levels)) {
            continue;
        }
        for (invalidation, name) in
            [(Invalidation::Registers, "registers"), (Invalidation::Queued, "a queue")]
        {
            unit.set_invalidation(invalidation);
            stage.report.heading(format_args!("VT-d, {levels} levels, invalidation by {name}"));
            scenario::run(stage, &unit, format(levels), Blind::default(), CALLS);
        }
    }
}

fn amdvi(stage: &mut Stage<'_, '_>, device: u8) {
    // SAFETY: as for VT-d; this machine has AMD-Vi.
    let registers = unsafe { Registers::new(AMDVI, amdvi::REGISTERS) };
    let unit = AmdViUnit::new(registers, stage.memory, device);
    for levels in 3..=6 {
        stage.report.heading(format_args!("AMD-Vi, {levels} levels"));
        let format = AmdVi::new(levels).expect("levels that exist");
        scenario::run(stage, &unit, format, Blind { beyond: true, ..Blind::default() }, CALLS);
    }
}
