//! QEMU's `s390-ccw-virtio` with a PCI function: a disk.

#![expect(unsafe_code, reason = "says where this machine has its memory")]

use core::ptr::{NonNull, with_exposed_provenance_mut};

use pinfold::host::DirectMap;
use pinfold_arch::{PhysAddr, Zpci};
use pinfold_unikernel::memory::{self, Memory};
use pinfold_unikernel::report::Report;
use pinfold_unikernel::scenario::{self, Blind, Stage, WINDOW};

use block::Disk;
use zpci::Function;

mod block;
mod console;
mod instructions;
mod low;
mod zpci;

pub(crate) use console::Console;
pub(crate) use instructions::stop as exit;

core::arch::global_asm!(include_str!("s390x/start.s"));

/// Random calls for each format.
const CALLS: u32 = 200;

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    console::open();
    let start = NonNull::new(with_exposed_provenance_mut(memory::START as usize));
    let (start, base) = (start.expect("not 0"), PhysAddr::new(memory::START));
    // SAFETY: the machine has so much memory, and the program lies before it.
    let map = unsafe { DirectMap::new(start, base, memory::RAM - memory::START) };
    let memory = Memory::new(map, 0);

    let function = Function::first();
    let mut disk = Disk { function, memory: &memory, window: WINDOW };
    let mut console = Console;
    let mut stage = Stage::new(&memory, &mut disk, Report::new(&mut console));
    stage.report.heading(format_args!("zPCI, 3 levels"));
    let format = Zpci::new(3).expect("levels that exist");
    // QEMU drops what is beyond without a word.
    let blind = Blind { beyond: true, ..Blind::default() };
    scenario::run(&mut stage, &function, format, blind, CALLS);
    exit(stage.report.end())
}

#[unsafe(no_mangle)]
extern "C" fn exception(code: u64, at: u64) -> ! {
    panic!("program check {code:#x} before {at:#x}");
}
