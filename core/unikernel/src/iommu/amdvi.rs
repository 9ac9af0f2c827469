//! AMD-Vi ("I/O Virtualization Technology (IOMMU) Specification", 48882: 2.2.2 device table, 2.4 commands, 3.4
//! registers).

use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use pinfold::IovaRange;
use pinfold::host::{FlushError, IoTlb, Kept};
use pinfold_arch::{AmdVi, IoTable, PageShift, PhysAddr};

use super::ring::{ENTRIES, LOG_ENTRIES, Ring};
use super::{Faults, Iommu, are_few, pieces, until};
use crate::memory::Memory;
use crate::registers::Registers;

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
/// How many commands there is room for, where the address of their memory is.
const COMMAND_COUNT: u64 = (LOG_ENTRIES as u64) << 56;
const COMMAND: u64 = 16;
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
    domain: AtomicU16,
    commands: Ring<'m>,
    done: PhysAddr,
    waits: AtomicU64,
}

impl<'m> AmdViUnit<'m> {
    /// The unit with these registers and the device with this requester id, which is blocked. Translation
    /// is on.
    ///
    /// # Panics
    /// If the device table has no room for the device, or the unit does not do as it is told.
    #[must_use]
    pub fn new(registers: Registers, memory: &'m Memory, device: u8) -> Self {
        let table = memory.structure(DEVICES);
        let place = u64::from(device) * ENTRY;
        assert!(place < DEVICES, "device {device:#x} is beyond the table");
        let unit = Self {
            registers,
            memory,
            device,
            entry: PhysAddr::new(table.raw() + place),
            domain: AtomicU16::new(0),
            commands: Ring::new(memory),
            done: memory.structure(8),
            waits: AtomicU64::new(0),
        };
        memory.store(unit.entry, AmdVi::BLOCKED);
        unit.registers.write64(DEVICE_TABLE, table.raw());
        unit.registers.write64(COMMANDS, unit.commands.start().raw() | COMMAND_COUNT);
        unit.registers.write64(COMMAND_HEAD, 0);
        unit.registers.write64(COMMAND_TAIL, 0);
        unit.registers.write64(CONTROL, ENABLE | ENABLE_COMMANDS);
        unit.complete().expect("AMD-Vi takes commands");
        unit
    }

    fn push(&self, command: [u64; 2]) -> Result<(), FlushError> {
        let taken = || self.registers.read64(COMMAND_HEAD) / COMMAND;
        let made = self.commands.push(command, taken)?;
        self.registers.write64(COMMAND_TAIL, made % ENTRIES * COMMAND);
        Ok(())
    }

    /// Begins to forget pages of the domain.
    fn forget(&self, pages: u64) -> Result<(), FlushError> {
        let domain = u64::from(self.domain.load(Ordering::Relaxed));
        self.push([FORGET_PAGES | domain << DOMAIN_PLACE, pages])
    }

    fn write_entry(&self, entry: [u64; 4]) -> Result<(), FlushError> {
        self.memory.store(self.entry, entry);
        self.push([FORGET_DEVICE | u64::from(self.device), 0])?;
        self.forget(ALL | SIZED | TABLES)?;
        self.complete()
    }
}

impl IoTlb for AmdViUnit<'_> {
    fn invalidate(&self, range: IovaRange, kept: Kept) -> Result<(), FlushError> {
        let tables = if kept == Kept::Tables { TABLES } else { 0 };
        let mut pieces = pieces(range, PageShift::SIZE_4K, PageShift::SIZE_1G);
        if !are_few(pieces.clone()) {
            return self.forget(ALL | SIZED | tables);
        }
        pieces.try_for_each(|(at, shift)| {
            // As in an entry: ones from bit 12 to below the top bit of what lies inside.
            let size =
                if shift == PageShift::SIZE_4K { 0 } else { shift.mask() >> 1 & !0xfff | SIZED };
            self.forget(at.raw() | size | tables)
        })
    }

    fn complete(&self) -> Result<(), FlushError> {
        let waits = self.waits.fetch_add(1, Ordering::Relaxed) + 1;
        self.push([COMPLETION_WAIT | self.done.raw() | STORE, waits])?;
        until(|| self.memory.load(self.done) == Some([waits]))
    }
}

impl Iommu for AmdViUnit<'_> {
    type Format = AmdVi;

    fn attach(&self, format: AmdVi, root: IoTable) -> Result<(), FlushError> {
        // What is kept of the domain before goes with it: not every unit looks at the domain of what it keeps.
        self.detach()?;
        let domain = self.domain.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = format.device_table_entry(root.base, domain, false);
        self.write_entry(entry.expect("an address that fits"))
    }

    fn detach(&self) -> Result<(), FlushError> {
        self.write_entry(AmdVi::BLOCKED)
    }

    /// Its log is not read: QEMU does not write it.
    fn faults(&self) -> Faults {
        Faults::Unknown
    }
}
