//! A domain among IOMMUs and devices that keep what they have read for as long as they may.

use heapless::Vec as Buffer;
use pinfold::host::Kept;
use pinfold::iopt::{IoPageTable, IoRun, UnmappedRun};
use pinfold::{Access, Domain, IovaRange, PhysAddr};
use pinfold_arch::{IoFlags, Iova, Vtd};
use pinfold_sim::TableMemory;
use pinfold_sim::tlb::{AtsDevice, Fault, Iommu, Journal};

mod asked;
mod behind;
mod counted;
mod flushes;
mod harvests;
mod hosts;
mod late;
mod names;
mod pins;
mod random;
mod stopped;
mod timeouts;
mod trims;

const RW: Access = Access::all();
const NONE: IoFlags = IoFlags::empty();
/// Where things are mapped, and their memory: multiples of 2 MiB.
const AT: u64 = 0x4000_0000;
const MEMORY: u64 = 0x8000_0000;
const HUGE: u64 = 2 << 20;

fn format() -> Vtd {
    Vtd::new(4, 46).unwrap().with_marks(true).unwrap()
}

fn iova(inside: u64) -> Iova {
    Iova::new(AT + inside)
}

fn range(inside: u64, bytes: u64) -> IovaRange {
    IovaRange::new(iova(inside), bytes).unwrap()
}

fn run(inside: u64, bytes: u64) -> IoRun {
    IoRun { addr: PhysAddr::new(MEMORY + inside), bytes }
}

fn blocked(at: Iova) -> Result<PhysAddr, Fault> {
    Err(Fault::Blocked { at })
}

/// Two IOMMUs, and a device with a TLB of its own behind each.
struct Hardware<'t> {
    iommus: [Iommu<'t, Vtd>; 2],
}

impl<'t> Hardware<'t> {
    fn new(memory: &'t TableMemory, journal: &'t Journal, absent: bool) -> Self {
        let iommu = |name| {
            let iommu = Iommu::new(name, memory, journal);
            if absent { iommu.keeping_absent() } else { iommu }
        };
        Self { iommus: ["iommu 1", "iommu 2"].map(iommu) }
    }

    fn devices(&self) -> [AtsDevice<'_, Vtd>; 2] {
        let [one, two] = &self.iommus;
        [AtsDevice::new("device 1", one), AtsDevice::new("device 2", two)]
    }

    fn enter(&self, domain: &Domain<'_, Vtd>) {
        for iommu in &self.iommus {
            iommu.enter(domain.table().format(), domain.table().root());
        }
    }
}

fn made(memory: &TableMemory) -> Domain<'static, Vtd> {
    Domain::new(IoPageTable::new(format(), memory).unwrap())
}

/// The same tables for somebody who does not go by the domain.
fn past(domain: &Domain<'_, Vtd>, memory: &TableMemory) -> IoPageTable<Vtd> {
    IoPageTable::open(format(), memory, domain.table().root().base).unwrap()
}

/// Everybody's answer for an address.
fn answers(
    hardware: &Hardware<'_>,
    devices: &[AtsDevice<'_, Vtd>; 2],
    at: Iova,
) -> Vec<Result<PhysAddr, Fault>> {
    let iommus = hardware.iommus.iter().map(|iommu| iommu.access(at, true));
    iommus.chain(devices.iter().map(|device| device.access(at, true))).collect()
}

type Runs = Buffer<UnmappedRun, 512>;
