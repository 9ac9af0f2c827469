//! Races put exactly where they hurt: between the moment an entry is read and the moment its frame is
//! counted. The page-table format is the only code that runs there, so a format with a hook does it.
//! Numbers such as D6 are rows of `DEFECTS.md`.

use std::cell::Cell;

use pinfold::host::SpaceId;
use pinfold::sync::Word;
use pinfold::{
    Access, AddrRange, AddressSpace, Dirtied, Engine, PageCount, PageFormat, PageShift, PinError,
    PinFlags, PinRequest, PinTable, Pinned, Table, VirtAddr, X86_64,
};
use pinfold_arch::{EncodeError, Entry};
use pinfold_sim::model::Model;
use pinfold_sim::{Machine, MapSpec};

mod entries;
mod mappings;
mod moves;
mod tables;
mod threads;

const BOTH: Access = Access::READ.union(Access::WRITE);
const AT: u64 = 0x7000_0000_0000;
const HUGE: u64 = 512;

/// The x86_64 format that does something when a present entry of some level has been read: once, or
/// each time with the entry.
#[derive(Clone, Copy)]
struct Hooked<'a> {
    inner: X86_64,
    level: PageShift,
    armed: &'a Cell<bool>,
    deed: &'a dyn Fn(),
    each: &'a dyn Fn(u64),
}

impl PageFormat for Hooked<'_> {
    fn name(&self) -> &'static str {
        "hooked"
    }
    fn big_endian(&self) -> bool {
        self.inner.big_endian()
    }
    fn base(&self) -> PageShift {
        self.inner.base()
    }
    fn valid(&self, range: &AddrRange) -> bool {
        self.inner.valid(range)
    }
    fn decode(&self, at: &Table, raw: u64) -> Entry {
        if at.shift == self.level && raw & 1 != 0 {
            (self.each)(raw);
            if self.armed.replace(false) {
                (self.deed)();
            }
        }
        self.inner.decode(at, raw)
    }
    fn encode(&self, at: &Table, entry: Entry) -> Result<u64, EncodeError> {
        self.inner.encode(at, entry)
    }
    fn volatile_bits(&self) -> u64 {
        self.inner.volatile_bits()
    }
}

/// The same space for the engine, with a hook in its format.
fn hook<'a>(
    space: &AddressSpace<X86_64>,
    level: PageShift,
    armed: &'a Cell<bool>,
    deed: &'a dyn Fn(),
) -> AddressSpace<Hooked<'a>> {
    let format = Hooked { inner: space.format(), level, armed, deed, each: &|_| () };
    AddressSpace::new(space.id(), format, space.root())
}

fn words(n: usize) -> Vec<Word> {
    (0..n).map(|_| Word::new(0)).collect()
}

fn request(pages: u64, flags: PinFlags) -> PinRequest {
    PinRequest { flags, ..longterm(AT, pages) }
}

fn longterm(at: u64, pages: u64) -> PinRequest {
    let range = AddrRange::new(VirtAddr::new(at), PageCount::new(pages), PageShift::SIZE_4K);
    PinRequest::longterm(range.unwrap(), BOTH)
}

/// A space with so many base pages, all of them there, each with its number in its first byte.
fn filled(machine: &Machine<'_>, pages: u64) -> std::sync::Arc<AddressSpace<X86_64>> {
    let space = machine.add_space();
    machine.map(space.id(), MapSpec::anonymous(AT, pages)).unwrap();
    number(machine, space.id(), pages);
    space
}

fn number(machine: &Machine<'_>, id: SpaceId, pages: u64) {
    for page in 0..pages {
        machine.write(id, AT + (page << 12), &[page as u8]).unwrap();
    }
}

/// What happens in the middle of a pin.
#[derive(Clone, Copy)]
struct Race<'a> {
    /// The size of the entry that has just been read.
    level: PageShift,
    /// How often such an entry is read before it is this one.
    skip: u64,
    deed: &'a dyn Fn(),
}

impl<'a> Race<'a> {
    /// As soon as the first small entry has been read.
    fn new(deed: &'a dyn Fn()) -> Self {
        Self { level: PageShift::SIZE_4K, skip: 0, deed }
    }
}

/// Pins with the deed done in the middle, announced to the engine as a change of mappings; looks at
/// the result; checks that device and process see the same memory; unpins; checks every count of
/// the machine.
fn pin_while(
    machine: &Machine<'_>,
    space: &AddressSpace<X86_64>,
    request: &PinRequest,
    race: Race<'_>,
    look: impl FnOnce(&Result<Pinned, PinError>),
) {
    let armed = Cell::new(true);
    let skip = Cell::new(race.skip);
    let announced: &Cell<Option<&AddressSpace<Hooked<'_>>>> = &Cell::new(None);
    let deed = || {
        if let Some(left) = skip.get().checked_sub(1) {
            skip.set(left);
            armed.set(true);
            return;
        }
        let space = announced.get().unwrap();
        space.invalidate_start();
        (race.deed)();
        space.invalidate_end();
    };
    let hooked = hook(space, race.level, &armed, &deed);
    announced.set(Some(&hooked));
    let engine = Engine::new(machine, machine.frames());
    let memory = words(2048);
    let table = PinTable::new(&memory).unwrap();
    let result = engine.pin(&hooked, &table, request);
    assert!(!armed.get(), "it did not happen");
    look(&result);
    if result.is_ok() {
        for i in 0..request.range.pages().raw() {
            let va = request.range.start().raw() + (i << 12);
            // A copy that is due is made now: what is pinned for long must not be left behind.
            if request.flags.contains(PinFlags::LONGTERM) {
                let _ = machine.write(space.id(), va + 8, &[1]);
            }
            let mapped = machine.translate(space.id(), va, request.access);
            assert_eq!(table.lookup(VirtAddr::new(va)).ok(), mapped, "page {i} is another frame");
        }
        engine.unpin(&table, Dirtied::No).unwrap();
    }
    Model::new().check(machine).unwrap();
}
