//! Races put exactly where they hurt: between the moment an entry is read and the moment its frame is
//! counted. The page-table format is the only code that runs there, so a format with a hook does it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::host::{Mapping, Mappings, Parts, PhysMem, SpaceId, TableView};
use pinfold::sync::{Ordering, Word};
use pinfold::{
    Access, AddrRange, AddressSpace, Dirtied, Engine, FrameTable, Order, PageCount, PageFormat,
    PageShift, Pfn, PhysAddr, PinError, PinFlags, PinRequest, PinTable, Pinned, Table, VirtAddr,
    X86_64,
};
use pinfold_arch::{EncodeError, Entry};
use pinfold_sim::{HostCall, Layout, Machine, MapSpec, Ram, Want};

const BOTH: Access = Access::READ.union(Access::WRITE);
const AT: u64 = 0x7000_0000_0000;

/// The x86_64 format that does something when a present 4 KiB entry has been read: once, or each time
/// with the entry.
#[derive(Clone, Copy)]
struct Hooked<'a> {
    inner: X86_64,
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
        if at.shift == PageShift::SIZE_4K && raw & 1 != 0 {
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

fn request(pages: u64, flags: PinFlags) -> PinRequest {
    let range = AddrRange::new(VirtAddr::new(AT), PageCount::new(pages), PageShift::SIZE_4K);
    PinRequest { flags, ..PinRequest::longterm(range.unwrap(), BOTH) }
}

/// Pins with the deed done in the middle, checks that the table tells the truth afterwards, unpins.
fn pin_while<'m>(
    machine: &Machine<'m>,
    space: &Arc<AddressSpace<X86_64>>,
    request: &PinRequest,
    deed: &dyn Fn(),
    look: impl FnOnce(&Result<Pinned, PinError>),
) {
    let armed = Cell::new(true);
    let format = Hooked { inner: space.format(), armed: &armed, deed, each: &|_| () };
    let hooked = AddressSpace::new(space.id(), format, space.root());
    let engine = Engine::new(machine, machine.frames());
    let words: Vec<Word> = (0..64).map(|_| Word::new(0)).collect();
    let table = PinTable::new(&words).unwrap();
    let result = engine.pin(&hooked, &table, request);
    assert!(!armed.get(), "it did not happen");
    look(&result);
    if result.is_ok() {
        for i in 0..request.range.pages().raw() {
            let va = AT + (i << 12);
            let mapped = machine.translate(space.id(), va, BOTH);
            assert_eq!(table.lookup(VirtAddr::new(va)).ok(), mapped, "page {i} is another frame");
        }
        engine.unpin(&table, Dirtied::No).unwrap();
    }
    let frames = machine.frames();
    let first = frames.first().raw();
    for pfn in first..first + frames.frames().raw() {
        if let Some(folio) = frames.folio(Pfn::new(pfn)) {
            assert_eq!(frames.counts_of(folio).pins(), 0, "frame {pfn:#x} is still pinned");
        }
    }
}

/// A folio that is freed between the walk and the look at it was moved, not forbidden.
#[test]
fn a_folio_that_moves_between_the_walk_and_the_look_is_looked_for_again() {
    for flags in [PinFlags::empty(), PinFlags::LONGTERM] {
        let ram = Ram::new(&Layout::small());
        let machine = Machine::new(&ram);
        let space = machine.add_space();
        machine.map(space.id(), MapSpec::anonymous(AT, 4)).unwrap();
        machine.touch(space.id(), AT, 4, BOTH).unwrap();
        let deed = || {
            machine.move_page(space.id(), AT, Want::Pinnable).unwrap();
        };
        pin_while(&machine, &space, &request(4, flags), &deed, |result| {
            assert!(result.is_ok(), "{result:?}");
        });
    }
}

/// D6: the entry was replaced after it was read; the count that landed on the old page is undone.
#[test]
fn a_page_that_is_replaced_between_the_walk_and_the_count_is_not_pinned() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    machine.map(space.id(), MapSpec::anonymous(AT, 4)).unwrap();
    machine.touch(space.id(), AT, 4, BOTH).unwrap();
    let deed = || {
        // Somebody keeps the old page alive, so that the count can land there.
        let old = machine.get_page(space.id(), AT).unwrap();
        machine.unmap(space.id(), AT, 1).unwrap();
        machine.map(space.id(), MapSpec::anonymous(AT, 1)).unwrap();
        machine.touch(space.id(), AT, 1, BOTH).unwrap();
        assert_ne!(machine.folio_at(space.id(), AT).unwrap().head(), old);
    };
    pin_while(&machine, &space, &request(4, PinFlags::empty()), &deed, |result| {
        assert!(result.is_ok(), "{result:?}");
    });
}

/// D5: a fork has begun after the walk did, and has not come to this page yet. The entry still says
/// writable when it is compared; only the fork's own sequence tells.
#[test]
fn a_fork_that_begins_between_the_walk_and_the_count_is_waited_for() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    machine.map(space.id(), MapSpec::anonymous(AT, 4)).unwrap();
    machine.touch(space.id(), AT, 4, BOTH).unwrap();
    let armed = Cell::new(true);
    let forked: &Cell<Option<&AddressSpace<Hooked<'_>>>> = &Cell::new(None);
    let deed = || forked.get().unwrap().fork_start();
    let format = Hooked { inner: space.format(), armed: &armed, deed: &deed, each: &|_| () };
    let hooked = AddressSpace::new(space.id(), format, space.root());
    forked.set(Some(&hooked));
    let engine = Engine::new(&machine, machine.frames());
    let words: Vec<Word> = (0..64).map(|_| Word::new(0)).collect();
    let table = PinTable::new(&words).unwrap();
    // Nobody ends the fork: the call waits, a bounded number of times, and gives up.
    let before = machine.calls(HostCall::Pause);
    let error = engine.pin(&hooked, &table, &request(4, PinFlags::empty())).unwrap_err();
    assert_eq!(error.kind(), pinfold::ErrorKind::Busy, "{error}");
    assert!(machine.calls(HostCall::Pause) > before + 100, "it did not wait");
    hooked.fork_end();
    engine.pin(&hooked, &table, &request(4, PinFlags::empty())).unwrap();
    engine.unpin(&table, Dirtied::No).unwrap();
}

/// However many batches a call takes, an entry is decoded once; the re-check only compares.
#[test]
fn every_entry_is_decoded_once() {
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(pinfold_sim::mib(32)));
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    let pages = 6000;
    machine.map(space.id(), MapSpec::anonymous(AT, pages)).unwrap();
    // Touched in two strides, so that neighbours are not always neighbours in memory.
    for start in [0, 1] {
        for i in (start..pages).step_by(2) {
            machine.touch(space.id(), AT + (i << 12), 1, BOTH).unwrap();
        }
    }
    let seen = RefCell::new(BTreeMap::new());
    let each = |raw| *seen.borrow_mut().entry(raw).or_insert(0) += 1;
    let armed = Cell::new(false);
    let format = Hooked { inner: space.format(), armed: &armed, deed: &|| (), each: &each };
    let hooked = AddressSpace::new(space.id(), format, space.root());
    let engine = Engine::new(&machine, machine.frames());
    let words: Vec<Word> = (0..7000).map(|_| Word::new(0)).collect();
    let table = PinTable::new(&words).unwrap();
    let pinned = engine.pin(&hooked, &table, &request(pages, PinFlags::LONGTERM)).unwrap();
    assert_eq!((pinned.faults, pinned.migrated), (0, 0));
    assert_eq!(seen.borrow().len() as u64, pages);
    assert!(seen.borrow().values().all(|times| *times == 1), "an entry was decoded twice");
    engine.unpin(&table, Dirtied::No).unwrap();
}

/// Five tables from 0 on; the memory of a machine whose tables the test changes by hand.
#[derive(Clone)]
struct Memory(Rc<Vec<Word>>);

impl PhysMem for Memory {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = usize::try_from(base.raw()).ok()? / 8;
        Some(TableView::from_words(self.0.get(first..first.checked_add(entries)?)?))
    }
}

struct Nothing;

impl Mappings for Nothing {
    fn mapping(&self, _: SpaceId, _: VirtAddr) -> Option<Mapping> {
        None
    }
}

/// D6: the table above was given another page table after the entry was read. The old one, detached,
/// still says what it said; only the entry above it tells.
#[test]
fn a_page_table_that_was_detached_is_not_believed() {
    let ram = Memory(Rc::new((0..5 * 512).map(|_| Word::new(0)).collect()));
    let set = |at: usize, raw| ram.0[at].store(raw, Ordering::Relaxed);
    for (at, raw) in [(0, 0x1007), (512, 0x2007), (1024, 0x3007)] {
        set(at, raw);
    }
    for i in 0..4u64 {
        set(1536 + i as usize, (8 + i) << 12 | 0x67);
        set(2048 + i as usize, (12 + i) << 12 | 0x67);
    }
    let frame_words: Vec<Word> = (0..16).map(|_| Word::new(0)).collect();
    let frames = FrameTable::new(&frame_words, Pfn::new(8), PageShift::SIZE_4K).unwrap();
    let (order, flags) = (Order::ZERO, FolioFlags::EXCLUSIVE);
    for pfn in 8..16 {
        let info = FolioInfo { order, kind: FolioKind::Anonymous, flags };
        frames.add_memory(Pfn::new(pfn), info).unwrap().unfreeze(1);
    }
    let deed = || set(1024, 0x4007);
    let armed = Cell::new(true);
    let inner = X86_64::new(4, 40).unwrap();
    let format = Hooked { inner, armed: &armed, deed: &deed, each: &|_| () };
    let space = AddressSpace::new(SpaceId(0), format, inner.root(0).unwrap());
    let engine = Engine::new(Parts::new(ram.clone(), Nothing), frames);
    let words: Vec<Word> = (0..64).map(|_| Word::new(0)).collect();
    let table = PinTable::new(&words).unwrap();
    let range = AddrRange::new(VirtAddr::new(0), PageCount::new(4), PageShift::SIZE_4K).unwrap();
    let error = engine.pin(&space, &table, &PinRequest::longterm(range, BOTH)).unwrap_err();
    // The change was noticed; this host knows of no mapping to look again with.
    assert_eq!(error.kind(), pinfold::ErrorKind::NotMapped);
    for pfn in 8..16 {
        assert_eq!(frames.counts_of(frames.folio(Pfn::new(pfn)).unwrap()).pins(), 0, "{pfn}");
    }
    engine.pin(&space, &table, &PinRequest::longterm(range, BOTH)).unwrap();
    assert_eq!(table.lookup(VirtAddr::new(0)), Ok(PhysAddr::new(12 << 12)));
    engine.unpin(&table, Dirtied::No).unwrap();
}

/// D24: "nothing to move" was read as "all may stay", so that of two callers of the same movable
/// folio one got it where it was. Here both get it, moved once, whoever comes first.
#[test]
fn two_callers_of_the_same_movable_memory_both_get_it() {
    for _ in 0..20 {
        let ram = Ram::new(&Layout::small());
        let machine = Machine::new(&ram);
        let space = machine.add_space();
        let pages = 64;
        machine.map(space.id(), MapSpec::anonymous(AT, pages)).unwrap();
        machine.touch(space.id(), AT, pages, BOTH).unwrap();
        let pin = || {
            let engine = Engine::new(&machine, machine.frames());
            let words: Vec<Word> = (0..128).map(|_| Word::new(0)).collect();
            let table = PinTable::new(&words).unwrap();
            let pinned = engine.pin(&space, &table, &request(pages, PinFlags::LONGTERM)).unwrap();
            for run in table.runs() {
                let flags = machine.frames().folio(run.pfn).unwrap().info().flags;
                assert!(!flags.contains(FolioFlags::MOVABLE), "{run:?}");
            }
            engine.unpin(&table, Dirtied::No).unwrap();
            pinned.migrated
        };
        let moved = std::thread::scope(|scope| {
            let other = scope.spawn(pin);
            pin() + other.join().unwrap()
        });
        assert_eq!(moved, pages, "a folio was moved twice, or not at all");
    }
}

/// D25: a new page waits in a list of its CPU's, which holds a reference, so it could not be moved
/// although nobody used it. The lists are drained once, before anybody gives up.
#[test]
fn new_pages_that_wait_in_per_cpu_lists_are_moved_at_the_first_pin() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    machine.batch_new_pages(15);
    machine.map(space.id(), MapSpec::anonymous(AT, 8)).unwrap();
    machine.touch(space.id(), AT, 8, BOTH).unwrap();
    pin_while(&machine, &space, &request(8, PinFlags::LONGTERM), &|| (), |result| {
        assert_eq!(result.as_ref().unwrap().migrated, 8);
    });
    assert_eq!(machine.calls(HostCall::Drain), 1);
}
