//! Intel VT-d in legacy mode ("Virtualization Technology for Directed I/O", revision 4.1: 11.4 registers, 6.5
//! invalidation, 9.1 and 9.3 root and context entries).

use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use pinfold::IovaRange;
use pinfold::host::{FlushError, IoTlb, Kept};
use pinfold_arch::{IoFormat, IoTable, Iova, PageShift, PhysAddr, Vtd};

use super::ring::{ENTRIES, Ring};
use super::{Faults, Iommu, are_few, pieces, until};
use crate::memory::Memory;
use crate::registers::{Registers, field, wait};

/// Bytes of registers that are used here.
pub const REGISTERS: usize = 0x1000;

const CAPABILITY: usize = 0x08;
const MORE_CAPABILITIES: usize = 0x10;
const COMMAND: usize = 0x18;
const STATUS: usize = 0x1c;
const ROOT: usize = 0x20;
const CONTEXT_COMMAND: usize = 0x28;
const FAULT_STATUS: usize = 0x34;
const QUEUE_HEAD: usize = 0x80;
const QUEUE_TAIL: usize = 0x88;
const QUEUE: usize = 0x90;

/// Command and status bits.
const TRANSLATE: u32 = 1 << 31;
const SET_ROOT: u32 = 1 << 30;
const QUEUED: u32 = 1 << 26;
/// Status bits that stay as they are when another is changed; the rest are one-shot.
const STAYS: u32 = 0x96ff_ffff;

const LEVELS_PLACE: u8 = 8;
const CACHING_MODE: u64 = 1 << 7;
/// Do it: in the registers for invalidation.
const GO: u64 = 1 << 63;
const CONTEXT_ALL: u64 = 1 << 61;
const IOTLB_ALL: u64 = 1 << 60;
const IOTLB_DOMAIN: u64 = 2 << 60;
const IOTLB_PAGES: u64 = 3 << 60;
const IOTLB_DOMAIN_PLACE: u32 = 32;
/// Descriptors of the queue.
const QUEUE_CONTEXT_ALL: u64 = 1 | 1 << 4;
const QUEUE_IOTLB_ALL: u64 = 2 | 1 << 4;
const QUEUE_IOTLB_DOMAIN: u64 = 2 | 2 << 4;
const QUEUE_IOTLB_PAGES: u64 = 2 | 3 << 4;
const QUEUE_DOMAIN_PLACE: u32 = 16;
/// Write what the upper half says to where the second doubleword says.
const QUEUE_WAIT: u64 = 5 | 1 << 5;
const QUEUE_ENTRY: u64 = 16;
/// With the address of pages, both ways: tables that lead to them are as they were.
const LEAVES: u64 = 1 << 6;
/// In a fault record's second doubleword.
const FAULT: u64 = 1 << 63;
const FAULT_READ: u64 = 1 << 62;
const FAULT_CLEAR: u32 = 1 << 31;
const FAULT_PENDING: u32 = 1 << 1;

/// How it is told what to forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalidation {
    /// By registers.
    Registers,
    /// By a queue in memory.
    Queued,
}

/// The unit, with one root table and one context table.
#[derive(Debug)]
pub struct VtdUnit<'m> {
    registers: Registers,
    memory: &'m Memory,
    /// The device's context entry.
    context: PhysAddr,
    domain: AtomicU16,
    queue: Ring<'m>,
    done: PhysAddr,
    waits: AtomicU32,
    invalidation: Invalidation,
}

impl<'m> VtdUnit<'m> {
    /// The unit with these registers and the device with this requester id, which is blocked. Translation is
    /// on. Of the format only the width of addresses counts.
    ///
    /// # Panics
    /// If the unit does not do as it is told.
    #[must_use]
    pub fn new(registers: Registers, memory: &'m Memory, device: u8, format: Vtd) -> Self {
        let (roots, contexts) = (memory.structure(4096), memory.structure(4096));
        memory.store(roots, format.root_entry(contexts).expect("an address that fits"));
        let unit = Self {
            registers,
            memory,
            context: PhysAddr::new(contexts.raw() + u64::from(device) * 16),
            domain: AtomicU16::new(0),
            queue: Ring::new(memory),
            done: memory.structure(8),
            waits: AtomicU32::new(0),
            invalidation: Invalidation::Registers,
        };
        unit.registers.write64(ROOT, roots.raw());
        unit.command(SET_ROOT);
        unit.command(TRANSLATE);
        unit
    }

    /// How it is told what to forget from now on.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn set_invalidation(&mut self, invalidation: Invalidation) {
        if invalidation == self.invalidation {
            return;
        }
        if invalidation == Invalidation::Queued {
            self.queue.restart();
            self.registers.write64(QUEUE_TAIL, 0);
            self.registers.write64(QUEUE, self.queue.start().raw());
            self.command(QUEUED);
        } else {
            let kept = self.registers.read32(STATUS) & STAYS;
            self.registers.write32(COMMAND, kept & !QUEUED);
            wait("VT-d ends its queue", || self.registers.read32(STATUS) & QUEUED == 0);
        }
        self.invalidation = invalidation;
    }

    fn command(&self, bit: u32) {
        let kept = self.registers.read32(STATUS) & STAYS;
        self.registers.write32(COMMAND, kept | bit);
        wait("VT-d takes a command", || self.registers.read32(STATUS) & bit != 0);
    }

    /// The registers that tell the IOTLB what to forget.
    fn iotlb(&self) -> usize {
        field(self.registers.read64(MORE_CAPABILITIES), 8, 10) * 16
    }

    fn fault_record(&self) -> usize {
        field(self.registers.read64(CAPABILITY), 24, 10) * 16
    }

    /// Pages that it forgets at once, at most.
    fn largest(&self) -> PageShift {
        let mask = field(self.registers.read64(CAPABILITY), 48, 6);
        let shift = u8::try_from(mask).ok().and_then(|mask| PageShift::new(12 + mask));
        shift.expect("a size of pages")
    }

    /// Waits for the last command in a register.
    fn idle(&self, register: usize) -> Result<(), FlushError> {
        until(|| self.registers.read64(register) & GO == 0)
    }

    fn run(&self, register: usize, command: u64) -> Result<(), FlushError> {
        self.registers.write64(register, GO | command);
        self.idle(register)
    }

    fn push(&self, descriptor: [u64; 2]) -> Result<(), FlushError> {
        let taken = || self.registers.read64(QUEUE_HEAD) / QUEUE_ENTRY;
        let made = self.queue.push(descriptor, taken)?;
        self.registers.write64(QUEUE_TAIL, made % ENTRIES * QUEUE_ENTRY);
        Ok(())
    }

    fn wait_for_queue(&self) -> Result<(), FlushError> {
        let waits = u64::from(self.waits.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
        self.push([QUEUE_WAIT | waits << 32, self.done.raw()])?;
        until(|| self.memory.load(self.done) == Some([waits]))
    }

    fn write_context(&self, entry: [u64; 2]) -> Result<(), FlushError> {
        // Not valid while it is half old and half new.
        self.memory.store(self.context, Vtd::NO_ENTRY);
        self.memory.store(self.context, entry);
        match self.invalidation {
            Invalidation::Registers => {
                self.run(CONTEXT_COMMAND, CONTEXT_ALL)?;
                self.run(self.iotlb() + 8, IOTLB_ALL)
            }
            Invalidation::Queued => {
                self.push([QUEUE_CONTEXT_ALL, 0])?;
                self.push([QUEUE_IOTLB_ALL, 0])?;
                self.wait_for_queue()
            }
        }
    }

    /// Begins to forget some pages of the domain, or all.
    fn forget(&self, pages: Option<u64>) -> Result<(), FlushError> {
        let domain = u64::from(self.domain.load(Ordering::Relaxed));
        let which = |some, all| if pages.is_some() { some } else { all };
        match self.invalidation {
            Invalidation::Registers => {
                let what = which(IOTLB_PAGES, IOTLB_DOMAIN) | domain << IOTLB_DOMAIN_PLACE;
                // It takes one at a time.
                self.idle(self.iotlb() + 8)?;
                self.registers.write64(self.iotlb(), pages.unwrap_or(0));
                self.registers.write64(self.iotlb() + 8, GO | what);
                Ok(())
            }
            Invalidation::Queued => {
                let what = which(QUEUE_IOTLB_PAGES, QUEUE_IOTLB_DOMAIN);
                self.push([what | domain << QUEUE_DOMAIN_PLACE, pages.unwrap_or(0)])
            }
        }
    }
}

impl IoTlb for VtdUnit<'_> {
    fn keeps_absent(&self) -> bool {
        self.registers.read64(CAPABILITY) & CACHING_MODE != 0
    }

    fn invalidate(&self, range: IovaRange, kept: Kept) -> Result<(), FlushError> {
        let mut pieces = pieces(range, PageShift::SIZE_4K, self.largest());
        if !are_few(pieces.clone()) {
            return self.forget(None);
        }
        let hint = if kept == Kept::Leaves { LEAVES } else { 0 };
        pieces.try_for_each(|(at, shift)| {
            self.forget(Some(at.raw() | hint | u64::from(shift.raw() - 12)))
        })
    }

    fn complete(&self) -> Result<(), FlushError> {
        match self.invalidation {
            Invalidation::Registers => self.idle(self.iotlb() + 8),
            Invalidation::Queued => self.wait_for_queue(),
        }
    }
}

impl Iommu for VtdUnit<'_> {
    type Format = Vtd;

    fn has(&self, format: &Vtd) -> bool {
        // SAGAW: bit 1 for 3 levels.
        self.registers.read64(CAPABILITY) >> (LEVELS_PLACE + format.levels() - 2) & 1 == 1
    }

    fn attach(&self, format: Vtd, root: IoTable) -> Result<(), FlushError> {
        let domain = self.domain.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = format.context_entry(root.base, domain, false);
        self.write_context(entry.expect("an address that fits"))
    }

    fn detach(&self) -> Result<(), FlushError> {
        self.write_context(Vtd::NO_ENTRY)
    }

    fn faults(&self) -> Faults {
        let record = self.fault_record();
        let (at, why) = (self.registers.read64(record), self.registers.read64(record + 8));
        if self.registers.read32(FAULT_STATUS) & FAULT_PENDING == 0 || why & FAULT == 0 {
            return Faults::None;
        }
        self.registers.write32(record + 12, FAULT_CLEAR);
        self.registers.write32(FAULT_STATUS, self.registers.read32(FAULT_STATUS));
        Faults::First { at: Iova::new(at), write: Some(why & FAULT_READ == 0) }
    }
}
