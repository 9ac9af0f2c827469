//! Pinning on the simulated machine: what succeeds, what is moved first, what is refused, and that
//! whatever fails leaves nothing behind. Numbers such as D9 are rows of `DEFECTS.md`.

use pinfold::folio::FolioFlags;
use pinfold::frames::Counts;
use pinfold::sync::Word;
use pinfold::table::TableError;
use pinfold::{
    Access, AccountId, AddrRange, AddressSpace, Dirtied, Engine, PageCount, PageShift, Pfn,
    PinCause, PinError, PinRequest, PinTable, Pinned, UnpinError, VirtAddr, X86_64,
};
use pinfold_sim::{Machine, MapSpec};
use std::sync::Arc;

const BOTH: Access = Access::READ.union(Access::WRITE);
const AT: u64 = 0x7000_0000_0000;
const HUGE: u64 = 512;

/// A machine with one space, and the engine on it.
struct Bench<'a, 'm> {
    machine: &'a Machine<'m>,
    space: Arc<AddressSpace<X86_64>>,
}

fn bench<'a, 'm>(machine: &'a Machine<'m>) -> Bench<'a, 'm> {
    Bench { machine, space: machine.add_space() }
}

/// A machine with this memory, and a space on it.
macro_rules! scene {
    ($machine:ident, $bench:ident, $layout:expr) => {
        let ram = pinfold_sim::Ram::new(&$layout);
        let $machine = pinfold_sim::Machine::new(&ram);
        let $bench = crate::bench(&$machine);
    };
}

fn words(n: usize) -> Vec<Word> {
    (0..n).map(|_| Word::new(0)).collect()
}

fn range(at: u64, pages: u64) -> AddrRange {
    AddrRange::new(VirtAddr::new(at), PageCount::new(pages), PageShift::SIZE_4K).unwrap()
}

fn request(at: u64, pages: u64, access: Access) -> PinRequest {
    PinRequest { account: AccountId(7), ..PinRequest::longterm(range(at, pages), access) }
}

impl<'a, 'm> Bench<'a, 'm> {
    fn engine(&self) -> Engine<'m, &'a Machine<'m>> {
        Engine::new(self.machine, self.machine.frames())
    }

    fn map(&self, spec: MapSpec) {
        self.machine.map(self.space.id(), spec).unwrap();
    }

    fn touch(&self, at: u64, pages: u64, access: Access) {
        self.machine.touch(self.space.id(), at, pages, access).unwrap();
    }

    fn pin(&self, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError> {
        self.engine().pin(&self.space, table, request)
    }

    fn counts(&self, at: u64) -> Counts {
        self.machine.frames().counts_of(self.folio(at))
    }

    fn folio(&self, at: u64) -> pinfold::folio::Folio {
        self.machine.folio_at(self.space.id(), at).expect("something is mapped there")
    }

    fn read(&self, at: u64) -> u8 {
        let mut byte = [0];
        self.machine.read(self.space.id(), at, &mut byte).unwrap();
        byte[0]
    }

    fn write(&self, at: u64, byte: u8) {
        self.machine.write(self.space.id(), at, &[byte]).unwrap();
    }

    /// Pins, hands the table over, unpins, and checks that every count and charge is back.
    fn while_pinned(
        &self,
        request: &PinRequest,
        look: impl FnOnce(&PinTable<'_>, Pinned),
    ) -> Result<(), PinError> {
        let memory = words(4096);
        let table = PinTable::new(&memory).unwrap();
        let pinned = self.pin(&table, request)?;
        assert_eq!(pinned.pages, request.range.pages());
        assert_eq!(self.machine.charged(request.account), request.range.pages().raw());
        look(&table, pinned);
        let unpinned = self.engine().unpin(&table, Dirtied::No).unwrap();
        assert_eq!(unpinned.pages, request.range.pages());
        self.nothing_is_held(request);
        Ok(())
    }

    fn nothing_is_held(&self, request: &PinRequest) {
        assert_eq!(self.machine.charged(request.account), 0);
        assert_eq!(self.machine.breaches(), []);
        let first = request.range.start().raw();
        for i in 0..request.range.pages().raw().min(10_000) {
            if let Some(folio) = self.machine.folio_at(self.space.id(), first + (i << 12)) {
                let counts = self.machine.frames().counts_of(folio);
                assert_eq!(counts.pins(), 0, "page {i} is still pinned");
                assert!(!counts.is_claimed(), "page {i} is still claimed");
            }
        }
    }

    /// The pin fails for this reason, and changes nothing that is counted.
    fn refused(&self, request: &PinRequest) -> PinCause {
        let free = self.machine.free_frames();
        let memory = words(4096);
        let table = PinTable::new(&memory).unwrap();
        let error = self.pin(&table, request).expect_err("this must not be pinned");
        self.nothing_is_held(request);
        assert_eq!(table.lookup(request.range.start()), Err(pinfold::table::TooHard));
        // D56: what failed was given back once, and cannot be given back again.
        let again = self.engine().unpin(&table, Dirtied::No);
        assert_eq!(again, Err(UnpinError::Table(TableError::Empty)));
        assert!(self.machine.free_frames() <= free);
        error.cause
    }
}

/// The address that the table gives is where the CPU's bytes are, in both directions.
fn coherent(bench: &Bench<'_, '_>, table: &PinTable<'_>, at: u64) {
    let device = bench.machine.device();
    let addr = table.lookup(VirtAddr::new(at)).unwrap();
    bench.write(at, 0xa5);
    let mut byte = [0];
    device.read(addr, &mut byte).unwrap();
    assert_eq!(byte[0], 0xa5, "the device does not see what the CPU wrote at {at:#x}");
    device.write(addr, &[0x5a]).unwrap();
    assert_eq!(bench.read(at), 0x5a, "the CPU does not see what the device wrote at {at:#x}");
}

/// No frame of a pinned range lies where nothing may be pinned for long.
fn nothing_misplaced(bench: &Bench<'_, '_>, table: &PinTable<'_>) {
    for run in table.runs() {
        for i in 0..run.pages.raw() {
            let pfn = Pfn::new(run.pfn.raw() + i);
            let folio = bench.machine.frames().folio(pfn).unwrap();
            let bad = FolioFlags::CMA | FolioFlags::MOVABLE | FolioFlags::ISOLATED;
            assert!(folio.is_zero_frame() || !folio.info().flags.intersects(bad), "{folio:?}");
        }
    }
}

mod life;
mod moved;
mod private;
mod refused;
mod shapes;
