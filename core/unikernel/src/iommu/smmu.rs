//! Arm's SMMUv3, stage 1 ("System Memory Management Unit Architecture Specification, SMMU architecture
//! version 3", IHI 0070: 6.3 registers, 4 commands, 7 events, 5.2 and 5.4 the device's entry).

use core::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use pinfold::IovaRange;
use pinfold::host::{FlushError, IoTlb, Kept};
use pinfold_arch::{IoFormat, IoTable, Iova, PageShift, PhysAddr, Smmu, SmmuRoot};

use super::ring::{ENTRIES, LOG_ENTRIES, Ring};
use super::{Faults, Iommu, are_few, pieces, until};
use crate::memory::Memory;
use crate::registers::{Registers, wait};

/// Bytes of registers.
pub const REGISTERS: usize = 0x20000;

const CONTROL: usize = 0x20;
const CONTROL_DONE: usize = 0x24;
const ATTRIBUTES: usize = 0x28;
const STREAMS: usize = 0x80;
const STREAMS_SHAPE: usize = 0x88;
const COMMANDS: usize = 0x90;
const COMMANDS_MADE: usize = 0x98;
const COMMANDS_TAKEN: usize = 0x9c;
const EVENTS: usize = 0xa0;
const EVENTS_MADE: usize = 0x100a8;
const EVENTS_TAKEN: usize = 0x100ac;

/// Control.
const TRANSLATE: u32 = 1 << 0;
const TAKE_EVENTS: u32 = 1 << 2;
const TAKE_COMMANDS: u32 = 1 << 3;
/// Tables and queues are reached through the caches, write-back and inner shareable.
const CACHED: u32 = 0xd75;
/// In the address of a table or queue: it may be kept.
const HINT: u64 = 1 << 62;

/// How many there are, as a power of two.
const LOG_STREAMS: u32 = 8;
const LOG_EVENTS: u32 = 10;

/// Commands, by their number; the device is in the upper half, and so are tags.
const FORGET_STREAM: u64 = 0x03;
const FORGET_CONTEXTS: u64 = 0x06;
const FORGET_ALL_PAGES: u64 = 0x10;
const FORGET_TAG: u64 = 0x11;
const FORGET_PAGES: u64 = 0x12;
const SYNC: u64 = 0x46;
const TAG_PLACE: u32 = 48;
/// In `FORGET_PAGES`: twice as many pages for each, and the granule that they are counted in.
const SCALE_PLACE: u32 = 20;
const GRANULE_PLACE: u32 = 10;
/// Beside the address: tables that lead to them are as they were.
const LEAVES: u64 = 1 << 0;
/// In the second doubleword of an event.
const EVENT_READ: u64 = 1 << 35;

/// The unit, with a stream table for bus 0 and one context descriptor.
#[derive(Debug)]
pub struct SmmuUnit<'m> {
    registers: Registers,
    memory: &'m Memory,
    device: u8,
    /// Its stream table entry, and the context that this points to.
    stream: PhysAddr,
    context: PhysAddr,
    tag: AtomicU16,
    /// Of the tables, as a shift.
    granule: AtomicU8,
    commands: Ring<'m>,
    events: PhysAddr,
}

impl<'m> SmmuUnit<'m> {
    /// The unit with these registers and the device with this requester id, which is blocked. Translation
    /// is on.
    ///
    /// # Panics
    /// If the unit does not do as it is told.
    #[must_use]
    pub fn new(registers: Registers, memory: &'m Memory, device: u8) -> Self {
        let streams = memory.structure(64 << LOG_STREAMS);
        let unit = Self {
            registers,
            memory,
            device,
            stream: PhysAddr::new(streams.raw() + u64::from(device) * 64),
            context: memory.structure(64),
            tag: AtomicU16::new(0),
            granule: AtomicU8::new(PageShift::SIZE_4K.raw()),
            commands: Ring::new(memory),
            events: memory.structure(32 << LOG_EVENTS),
        };
        let registers = &unit.registers;
        registers.write32(ATTRIBUTES, CACHED);
        registers.write64(STREAMS, streams.raw() | HINT);
        registers.write32(STREAMS_SHAPE, LOG_STREAMS);
        registers.write64(COMMANDS, unit.commands.start().raw() | u64::from(LOG_ENTRIES));
        registers.write64(EVENTS, unit.events.raw() | u64::from(LOG_EVENTS));
        for index in [COMMANDS_MADE, COMMANDS_TAKEN, EVENTS_MADE, EVENTS_TAKEN] {
            registers.write32(index, 0);
        }
        unit.control(TAKE_COMMANDS | TAKE_EVENTS);
        unit.detach().expect("SMMU takes commands");
        unit.control(TAKE_COMMANDS | TAKE_EVENTS | TRANSLATE);
        unit
    }

    fn control(&self, bits: u32) {
        self.registers.write32(CONTROL, bits);
        wait("SMMU's control", || self.registers.read32(CONTROL_DONE) == bits);
    }

    fn push(&self, command: [u64; 2]) -> Result<(), FlushError> {
        let taken = || u64::from(self.registers.read32(COMMANDS_TAKEN));
        let made = self.commands.push(command, taken)?;
        self.registers.write32(COMMANDS_MADE, index(made));
        Ok(())
    }

    fn write_stream(&self, entry: [u64; 8]) -> Result<(), FlushError> {
        self.memory.store(self.stream, entry);
        let device = u64::from(self.device) << 32;
        self.push([FORGET_STREAM | device, 1])?;
        self.push([FORGET_CONTEXTS | device, 0])?;
        self.push([FORGET_ALL_PAGES, 0])?;
        self.complete()
    }
}

/// Commands that were made, as the registers count them: in two rounds, so that an empty queue and a full
/// one differ.
const fn index(made: u64) -> u32 {
    (made % (2 * ENTRIES)) as u32
}

impl IoTlb for SmmuUnit<'_> {
    fn invalidate(&self, range: IovaRange, kept: Kept) -> Result<(), FlushError> {
        let tag = u64::from(self.tag.load(Ordering::Relaxed)) << TAG_PLACE;
        let granule = self.granule.load(Ordering::Relaxed);
        let base = PageShift::new(granule).ok_or(FlushError)?;
        let mut pieces = pieces(range, base, PageShift::SIZE_1G);
        if !are_few(pieces.clone()) {
            return self.push([FORGET_TAG | tag, 0]);
        }
        let hint = if kept == Kept::Leaves { LEAVES } else { 0 };
        let unit = u64::from((granule - 10) / 2) << GRANULE_PLACE;
        pieces.try_for_each(|(at, shift)| {
            let scale = u64::from(shift.raw() - granule);
            let unit = if scale == 0 { 0 } else { unit };
            self.push([FORGET_PAGES | tag | scale << SCALE_PLACE, at.raw() | unit | hint])
        })
    }

    fn complete(&self) -> Result<(), FlushError> {
        self.push([SYNC, 0])?;
        // An error is shown in the same register, and then the queue stands still.
        until(|| self.registers.read32(COMMANDS_TAKEN) == index(self.commands.made()))
    }
}

impl Iommu for SmmuUnit<'_> {
    type Format = Smmu;

    fn attach(&self, format: Smmu, root: IoTable) -> Result<(), FlushError> {
        let tag = self.tag.fetch_add(1, Ordering::Relaxed) + 1;
        self.granule.store(format.base().raw(), Ordering::Relaxed);
        // No device may see it half written.
        self.detach()?;
        match format.root(root.base, tag).expect("an address that fits") {
            SmmuRoot::Context(context) => {
                self.memory.store(self.context, context);
                let entry = format.stream_of_context(self.context);
                self.write_stream(entry.expect("an address that fits"))
            }
            SmmuRoot::Stream(entry) => self.write_stream(entry),
        }
    }

    fn detach(&self) -> Result<(), FlushError> {
        self.write_stream(Smmu::BLOCKED)
    }

    fn faults(&self) -> Faults {
        let made = self.registers.read32(EVENTS_MADE);
        let taken = self.registers.read32(EVENTS_TAKEN);
        if made == taken {
            return Faults::None;
        }
        let place = u64::from(taken % (1 << LOG_EVENTS));
        let event = self.memory.load(PhysAddr::new(self.events.raw() + place * 32));
        let [_, second, at, _] = event.expect("an event in memory");
        self.registers.write32(EVENTS_TAKEN, made);
        Faults::First { at: Iova::new(at), write: Some(second & EVENT_READ == 0) }
    }
}
