//! What an embedder owes, one test for each duty on the page `pinfold::host::duties`: the same scene with
//! the duty kept, where nothing is wrong, and with the duty neglected, where the damage is plain.

use pinfold::sync::Word;
use pinfold::{
    Access, AddrRange, Engine, PageCount, PageShift, PinError, PinFlags, PinRequest, PinTable,
    Pinned, VirtAddr,
};
use pinfold_sim::{Layout, Machine, MapSpec, Ram};

use careless::{Careless, Space};

mod calls;
mod careless;
mod counts;
mod devices;
mod forks;
mod kit;
mod moves;
mod page;
mod paging;
mod source;

const AT: u64 = 0x4000_0000;
const PAGE: u64 = 0x1000;
const RW: Access = Access::READ.union(Access::WRITE);

/// Memory for a pin table.
fn words() -> Vec<Word> {
    (0..64).map(|_| Word::new(0)).collect()
}

fn range(pages: u64) -> AddrRange {
    AddrRange::new(VirtAddr::new(AT), PageCount::new(pages), PageShift::SIZE_4K).expect("a range")
}

fn longterm(pages: u64) -> PinRequest {
    PinRequest::longterm(range(pages), RW)
}

fn shortterm(pages: u64) -> PinRequest {
    PinRequest { flags: PinFlags::empty(), ..longterm(pages) }
}

/// Plays a scene twice: with every duty kept, and with this one neglected. The scene is told which.
fn both(duty: &'static str, layout: &Layout, scene: impl Fn(&Scene<'_, '_>, bool)) {
    for (neglected, kept) in [("none", true), (duty, false)] {
        let ram = Ram::new(layout);
        let machine = Machine::new(&ram);
        let host = Careless::of(&machine, neglected);
        let space = host.handle(machine.add_space());
        scene(&Scene { machine: &machine, host: &host, space }, kept);
        assert_eq!(machine.breaches(), []);
    }
}

/// A machine, the embedder around it, and a process.
struct Scene<'a, 'm> {
    machine: &'a Machine<'m>,
    host: &'a Careless<'a, 'm>,
    /// The process as the engine knows it.
    space: Space,
}

impl<'a, 'm> Scene<'a, 'm> {
    fn engine(&self) -> Engine<'m, &'a Careless<'a, 'm>> {
        Engine::new(self.host, self.machine.frames())
    }

    fn pin(&self, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError> {
        self.engine().pin(&self.space, table, request)
    }

    /// Maps private memory at [`AT`] and writes 1 to its first byte.
    fn map(&self, pages: u64) {
        self.machine.map(self.space.id(), MapSpec::anonymous(AT, pages)).expect("free addresses");
        self.write(&self.space, 1);
    }

    /// What a process reads at [`AT`].
    fn read(&self, space: &Space) -> u8 {
        let mut byte = [0];
        self.machine.read(space.id(), AT, &mut byte).expect("mapped memory");
        byte[0]
    }

    /// Has a process write at [`AT`].
    fn write(&self, space: &Space, byte: u8) {
        self.machine.write(space.id(), AT, &[byte]).expect("mapped memory");
    }

    /// What the device reads where the table says that [`AT`] is.
    fn device_read(&self, table: &PinTable<'_>) -> u8 {
        let at = table.lookup(VirtAddr::new(AT)).expect("it is pinned");
        let mut byte = [0];
        self.machine.ram().read(at, &mut byte).expect("memory");
        byte[0]
    }

    /// Has the device write there.
    fn device_write(&self, table: &PinTable<'_>, byte: u8) {
        let at = table.lookup(VirtAddr::new(AT)).expect("it is pinned");
        self.machine.ram().write(at, &[byte]).expect("memory");
    }

    /// Another process with a page at [`AT`] on which it wrote this.
    fn other(&self, byte: u8) -> Space {
        let other = self.machine.add_space();
        self.machine.map(other.id(), MapSpec::anonymous(AT, 1)).expect("free addresses");
        self.write(&other, byte);
        other
    }
}
