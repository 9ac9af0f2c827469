//! A PCI host bridge of POWER9 (PHB4): one window of DMA addresses for one device.

use pinfold::IovaRange;
use pinfold::host::{FlushError, IoTlb, Kept};
use pinfold_arch::{IoTable, Tce};
use pinfold_unikernel::iommu::{Faults, Iommu};
use pinfold_unikernel::registers::Registers;

use super::opal::{Bus, SET_PE, TCE_KILL, call};

/// Bytes of registers that are used here.
pub(super) const REGISTERS: usize = 0x1000;

/// Access to the bridge's inner tables: which one and where, and what is there.
const TABLE: usize = 0x220;
const TABLE_DATA: usize = 0x228;
/// The table of windows (TVT); its number's place.
const WINDOWS: u64 = 9 << 48;
/// Firmware keeps the others.
const PE: u64 = 1;
/// Of a group of devices (PE) the first window: of addresses whose bit 59 is 0.
const WINDOW: u64 = PE * 2;
/// Compare the whole requester id; and add the group.
const WHOLE: [u64; 4] = [7, 1, 1, 1];
/// What to forget: all that is kept for a PE.
const ALL_OF_PE: u64 = 1;

/// The bridge.
#[derive(Debug)]
pub(super) struct Phb {
    registers: Registers,
    bridge: u64,
}

impl Phb {
    /// The bridge with these registers. The device is alone in its group, and blocked.
    pub(super) fn new(registers: Registers, bus: &Bus, device: u8) -> Self {
        let [compare_bus, compare_device, compare_function, add] = WHOLE;
        let group = [
            bus.bridge,
            PE,
            bus.requester(device),
            compare_bus,
            compare_device,
            compare_function,
            add,
        ];
        assert_eq!(call(SET_PE, group), 0, "a group for the device");
        let bridge = Self { registers, bridge: bus.bridge };
        bridge.detach().expect("an empty window");
        bridge
    }

    fn set_window(&self, entry: u64) -> Result<(), FlushError> {
        self.registers.write64(TABLE, WINDOWS | WINDOW);
        self.registers.write64(TABLE_DATA, entry);
        self.forget()
    }

    fn forget(&self) -> Result<(), FlushError> {
        let code = call(TCE_KILL, [self.bridge, ALL_OF_PE, PE, 4096, 0, 0]);
        if code == 0 { Ok(()) } else { Err(FlushError) }
    }
}

impl IoTlb for Phb {
    /// Firmware takes pages for all of the group on this bridge; so all is what it is told.
    fn invalidate(&self, _: IovaRange, _: Kept) -> Result<(), FlushError> {
        self.forget()
    }

    /// Firmware has waited.
    fn complete(&self) -> Result<(), FlushError> {
        Ok(())
    }
}

impl Iommu for Phb {
    type Format = Tce;

    fn attach(&self, format: Tce, root: IoTable) -> Result<(), FlushError> {
        let entry = format.window_entry(root.base);
        self.set_window(entry.expect("an address and a page size that it has"))
    }

    fn detach(&self) -> Result<(), FlushError> {
        self.set_window(0)
    }

    /// A blocked access would freeze the group; QEMU lets it pass and says nothing.
    fn faults(&self) -> Faults {
        Faults::Unknown
    }
}
