//! AMD-Vi ("I/O Virtualization Technology (IOMMU) Specification", 48882: 2.2.2 device table, 2.4 commands, 3.4
//! registers).

use pinfold::IovaRange;
use pinfold::iopt::IoPageTable;
use pinfold_arch::{AmdVi, PageShift, PhysAddr};

use super::{Faults, Iommu, pieces};
use crate::memory::Memory;
use crate::registers::{Registers, wait};

/// Bytes of registers.
pub const REGISTERS: usize = 0x4000;

const DEVICE_TABLE: usize = 0x00;
const COMMANDS: usize = 0x08;
const CONTROL: usize = 0x18;
const COMMAND_HEAD: usize = 0x2000;
const COMMAND_TAIL: usize = 0x2008;

/// Control: translate, and take commands.
const ENABLE: u64 = 1 << 0;
const ENABLE_COMMANDS: u64 = 1 << 12;
/// 256 commands, where the address of their memory is.
const COMMAND_COUNT: u64 = 256;
const COMMAND_COUNT_CODE: u64 = 8 << 56;
/// Commands, by their number.
const COMPLETION_WAIT: u64 = 1 << 60;
const FORGET_DEVICE: u64 = 2 << 60;
const FORGET_PAGES: u64 = 3 << 60;
const DOMAIN_PLACE: u32 = 32;
/// Of a wait: write the second doubleword to this address.
const STORE: u64 = 1;
/// Of pages: more than one, and entries that point to tables, too.
const SIZED: u64 = 1;
const TABLES: u64 = 1 << 1;
/// All pages.
const ALL: u64 = 0x7fff_ffff_ffff_f000;
/// Bytes of a device table whose size field is 0, and of one entry.
const DEVICES: u64 = 4096;
const ENTRY: u64 = 32;

/// The unit, with a device table for the first devices of bus 0.
#[derive(Debug)]
pub struct AmdViUnit<'m> {
    registers: Registers,
    memory: &'m Memory,
    device: u8,
    /// Its entry.
    entry: PhysAddr,
    domain: u16,
    commands: PhysAddr,
    done: PhysAddr,
    tail: u64,
    waits: u64,
}

impl<'m> AmdViUnit<'m> {
    /// The unit with these registers and the device with this requester id, which is blocked. Translation is on.
    ///
    /// # Panics
    /// If the device table has no room for the device, or the unit does not do as it is told.
    #[must_use]
    pub fn new(registers: Registers, memory: &'m Memory, device: u8) -> Self {
        let table = memory.structure(DEVICES);
        let place = u64::from(device) * ENTRY;
        assert!(place < DEVICES, "device {device:#x} is beyond the table");
        let mut unit = Self {
            registers,
            memory,
            device,
            entry: PhysAddr::new(table.raw() + place),
            domain: 0,
            commands: memory.structure(COMMAND_COUNT * 16),
            done: memory.structure(8),
            tail: 0,
            waits: 0,
        };
        memory.store(unit.entry, AmdVi::BLOCKED);
        unit.registers.write64(DEVICE_TABLE, table.raw());
        unit.registers.write64(COMMANDS, unit.commands.raw() | COMMAND_COUNT_CODE);
        unit.registers.write64(COMMAND_HEAD, 0);
        unit.registers.write64(COMMAND_TAIL, 0);
        unit.registers.write64(CONTROL, ENABLE | ENABLE_COMMANDS);
        unit.wait_for_commands();
        unit
    }

    fn push(&mut self, command: [u64; 2]) {
        self.memory.store(PhysAddr::new(self.commands.raw() + self.tail * 16), command);
        self.tail = (self.tail + 1) % COMMAND_COUNT;
        self.registers.write64(COMMAND_TAIL, self.tail * 16);
    }

    fn wait_for_commands(&mut self) {
        self.waits += 1;
        let (waits, done, memory) = (self.waits, self.done, self.memory);
        self.push([COMPLETION_WAIT | done.raw() | STORE, waits]);
        wait("AMD-Vi's commands", || memory.load(done) == Some([waits]));
    }

    fn pages(&self) -> u64 {
        FORGET_PAGES | u64::from(self.domain) << DOMAIN_PLACE
    }

    fn write_entry(&mut self, entry: [u64; 4]) {
        self.memory.store(self.entry, entry);
        self.push([FORGET_DEVICE | u64::from(self.device), 0]);
        self.push([self.pages(), ALL | SIZED | TABLES]);
        self.wait_for_commands();
    }
}

impl Iommu for AmdViUnit<'_> {
    type Format = AmdVi;

    fn attach(&mut self, table: &IoPageTable<AmdVi>) {
        // What is kept of the domain before goes with it: not every unit looks at the domain of what it keeps.
        self.detach();
        self.domain += 1;
        let entry = table.format().device_table_entry(table.root().base, self.domain, false);
        self.write_entry(entry.expect("an address that fits"));
    }

    fn detach(&mut self) {
        self.write_entry(AmdVi::BLOCKED);
    }

    fn flush(&mut self, range: IovaRange) {
        let most = PageShift::SIZE_1G;
        for (at, shift) in pieces(range, PageShift::SIZE_4K, most) {
            // As in an entry: ones from bit 12 to below the top bit of what lies inside.
            let size =
                if shift == PageShift::SIZE_4K { 0 } else { shift.mask() >> 1 & !0xfff | SIZED };
            self.push([self.pages(), at.raw() | size | TABLES]);
        }
        self.wait_for_commands();
    }

    /// Its log is not read: QEMU does not write it.
    fn faults(&mut self) -> Faults {
        Faults::Unknown
    }
}
