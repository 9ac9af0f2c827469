//! PCI as s390 has it: a function's handle, its spaces, and its translation.

use pinfold::IovaRange;
use pinfold::host::{FlushError, IoTlb, Kept};
use pinfold_arch::{IoFormat, IoTable, Iova, Zpci};
use pinfold_unikernel::iommu::{Faults, Iommu};

use super::instructions::{chsc, clp, mpcifc, pcilg, pcistg, rpcit, stpcifc};
use super::low::Page;

/// Requests to logical processors, by their number; each block has 32 bytes, then comes the answer.
const LIST: u64 = 2;
const SET: u64 = 5;
const REQUEST: usize = 32;
/// The answer's length, for which its first two bytes are preset, and its good code.
const ONE_ENTRY: u64 = 32 + 16;
const PLAIN: u64 = 32;
const GOOD: u64 = 0x10;
/// Of SET: enable (0 in the byte above), with one space for DMA.
const ENABLE: u64 = 1;
/// Changes of a function, by their number.
const REGISTER: u64 = 4;
const DEREGISTER: u64 = 5;
const END_ERROR: u64 = 7;
/// What a function says of itself in byte 8 of its block.
const ERROR: u64 = 0x20;
const REGISTERED: u64 = 0x10;
/// Configuration among a function's spaces.
const CONFIG: u64 = 15;
const COMMAND: u64 = 4;
const MASTER: u64 = 6;
/// Where device addresses begin: what CLP says of a function in QEMU.
const FIRST: u64 = 1 << 32;
/// Event information of PCI functions.
const EVENTS: [u64; 2] = [0x0010_000e_0000_0000, 1 << 61];

/// A function that is enabled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    /// In the upper half.
    handle: u64,
}

impl Function {
    /// The first function of the machine, enabled and able to use the bus.
    pub(super) fn first() -> Self {
        call([LIST << 32 | 32 << 48, 0, 0, 0, ONE_ENTRY << 48]);
        let disabled = Page::Call.load(REQUEST + 32 + 8) << 32;
        call([SET << 32 | 32 << 48, 0, disabled | ENABLE, 0, PLAIN << 48]);
        let handle = Page::Call.load(REQUEST + 16) >> 32 << 32;
        let function = Self { handle };
        function.store(CONFIG, COMMAND, 2, MASTER);
        function
    }

    /// Stores a value of so many bytes, little-endian as PCI is.
    pub(super) fn store(self, space: u64, offset: u64, bytes: u64, value: u64) {
        assert!(self.try_store(space, offset, bytes, value), "store at {offset:#x}");
    }

    /// The same; `false` if the function is in error, or comes to be by this.
    pub(super) fn try_store(self, space: u64, offset: u64, bytes: u64, value: u64) -> bool {
        pcistg(swapped(value, bytes), self.handle | space << 16 | bytes, offset) == 0
    }

    /// Loads a value of so many bytes.
    pub(super) fn load(self, space: u64, offset: u64, bytes: u64) -> u64 {
        let (code, value) = pcilg(self.handle | space << 16 | bytes, offset);
        assert_eq!(code, 0, "load at {offset:#x}");
        swapped(value, bytes)
    }

    /// Whether it is in error, and whether it has tables.
    pub(super) fn is(self, state: u64) -> bool {
        assert_eq!(stpcifc(self.handle, Page::Function.addr()), 0, "a function's state");
        Page::Function.load(8) >> 56 & state != 0
    }

    pub(super) fn is_in_error(self) -> bool {
        self.is(ERROR)
    }

    fn change(self, what: u64, block: [u64; 5]) {
        Page::Function.fill(block.into_iter());
        assert_eq!(mpcifc(self.handle | what, Page::Function.addr()), 0, "change {what}");
    }
}

fn swapped(value: u64, bytes: u64) -> u64 {
    value.swap_bytes() >> (64 - 8 * bytes)
}

fn call(block: [u64; 5]) {
    Page::Call.fill(block.into_iter());
    assert_eq!(clp(Page::Call.addr()), 0, "a call about PCI");
    assert_eq!(Page::Call.load(REQUEST) >> 32 & 0xffff, GOOD, "an answer about PCI {block:x?}");
}

impl IoTlb for Function {
    /// QEMU keeps all that there is, and reads no table otherwise.
    fn keeps_absent(&self) -> bool {
        true
    }

    fn invalidate(&self, range: IovaRange, _: Kept) -> Result<(), FlushError> {
        let (start, last) = (range.start().raw().max(FIRST), range.last().raw());
        // Without tables nothing is kept, nor below the first address.
        if last < start || !self.is(REGISTERED) {
            return Ok(());
        }
        if rpcit(self.handle, start, last - start + 1) == 0 { Ok(()) } else { Err(FlushError) }
    }

    /// The instruction has waited.
    fn complete(&self) -> Result<(), FlushError> {
        Ok(())
    }
}

impl Iommu for Function {
    type Format = Zpci;

    /// Only region-third tables at the top, which is what a group of functions says in QEMU.
    fn has(&self, format: &Zpci) -> bool {
        format.levels() == 3
    }

    fn first(&self) -> Iova {
        Iova::new(FIRST)
    }

    fn attach(&self, format: Zpci, root: IoTable) -> Result<(), FlushError> {
        self.detach()?;
        let anchor = format.anchor(root.base).expect("an address that fits");
        self.change(REGISTER, [0, 0, FIRST, format.last().raw(), anchor]);
        Ok(())
    }

    fn detach(&self) -> Result<(), FlushError> {
        if self.is(REGISTERED) {
            self.change(DEREGISTER, [0; 5]);
        }
        Ok(())
    }

    fn faults(&self) -> Faults {
        if !self.is_in_error() {
            return Faults::None;
        }
        let mut first = None;
        loop {
            Page::Events.fill(EVENTS.into_iter());
            chsc(Page::Events.addr());
            // The answer is behind the 16 bytes of the question.
            if Page::Events.load(16) >> 32 & 0xffff != 1 {
                break;
            }
            first = first.or(Some(Iova::new(Page::Events.load(16 + 64 + 16))));
        }
        self.change(END_ERROR, [0; 5]);
        first.map_or(Faults::Unknown, |at| Faults::First { at, write: None })
    }
}
