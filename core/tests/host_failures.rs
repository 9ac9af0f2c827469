//! Every call into the host fails in turn, and afterwards every count is what it was.

use std::collections::BTreeMap;

use pinfold::frames::Counts;
use pinfold::sync::Word;
use pinfold::{
    Access, AccountId, AddrRange, Dirtied, Engine, ErrorKind, PageCount, PageShift, Pfn,
    PinRequest, PinTable, VirtAddr,
};
use pinfold_sim::{FileKind, HostCall, Layout, Machine, MapSpec, Ram, Thp, mib};

const BOTH: Access = Access::READ.union(Access::WRITE);
const AT: u64 = 0x7000_0000_0000;
const HUGE: u64 = 512;
const PAGES: u64 = 3 * HUGE;

/// Everything that a pin may have to do: memory that is untouched, movable, huge, and shared with a
/// child. Returns the pins, the references and the claims of every folio behind the range.
fn scene(machine: &Machine<'_>) -> std::sync::Arc<pinfold::AddressSpace<pinfold::X86_64>> {
    let space = machine.add_space();
    let id = space.id();
    let file = machine.add_file(FileKind::Shmem, 64, pinfold::Order::new(2).unwrap());
    machine.map(id, MapSpec::anonymous(AT, 64)).unwrap();
    machine.map(id, MapSpec::shared(AT + (64 << 12), 64, file)).unwrap();
    machine.map(id, MapSpec::anonymous(AT + (128 << 12), HUGE - 128)).unwrap();
    machine.map(id, MapSpec::anonymous(AT + (HUGE << 12), HUGE).with_thp(Thp::Whole)).unwrap();
    machine
        .map(id, MapSpec::anonymous(AT + ((2 * HUGE) << 12), HUGE).with_thp(Thp::Split))
        .unwrap();
    machine.touch(id, AT, 32, BOTH).unwrap();
    machine.fork(id).unwrap();
    machine.touch(id, AT + (64 << 12), 48, BOTH).unwrap();
    machine.touch(id, AT + (128 << 12), HUGE - 150, BOTH).unwrap();
    machine.touch(id, AT + (HUGE << 12), 2 * HUGE, BOTH).unwrap();
    space
}

/// Pins of every folio in memory; free memory has none.
fn pins(machine: &Machine<'_>) -> BTreeMap<u64, u32> {
    let frames = machine.frames();
    let first = frames.first().raw();
    (first..first + frames.frames().raw())
        .filter_map(|pfn| frames.folio(Pfn::new(pfn)))
        .map(|folio| (folio.head().raw(), frames.counts_of(folio)))
        .inspect(|(pfn, counts)| assert!(!counts.is_claimed(), "{pfn:#x} is still claimed"))
        .map(|(pfn, counts)| (pfn, Counts::pins(counts)))
        .filter(|(_, pins)| *pins != 0)
        .collect()
}

fn words(n: usize) -> Vec<Word> {
    (0..n).map(|_| Word::new(0)).collect()
}

fn request() -> PinRequest {
    let start = VirtAddr::new(AT);
    let range = AddrRange::new(start, PageCount::new(PAGES), PageShift::SIZE_4K).unwrap();
    PinRequest { account: AccountId(1), ..PinRequest::longterm(range, BOTH) }
}

/// D30, D36, D57: error paths that mixed up what they held, or forgot it. D31: locks held around calls
/// that may sleep, which the machine records as a breach.
#[test]
fn every_call_fails_in_turn() {
    for call in HostCall::FALLIBLE {
        let mut failures = 0;
        for nth in 1.. {
            let layout = Layout::new(Pfn::new(0x1000)).normal(mib(12)).cma(mib(2)).movable(mib(6));
            let ram = Ram::new(&layout);
            let machine = Machine::new(&ram);
            let space = scene(&machine);
            let engine = Engine::new(&machine, machine.frames());
            let memory = words(4096);
            let table = PinTable::new(&memory).unwrap();
            machine.fail(call, nth);
            let before = machine.calls(call);
            let result = engine.pin(&space, &table, &request());
            let reached = machine.calls(call) >= before + nth;
            machine.disarm();
            assert_eq!(machine.breaches(), [], "{call:?} {nth}");
            if let Err(error) = result {
                assert!(reached, "{call:?} {nth}: {error} without a failure");
                let kinds: &[ErrorKind] = match call {
                    HostCall::Table => &[ErrorKind::Corrupt],
                    HostCall::Mapping => &[ErrorKind::NotMapped],
                    HostCall::Fault => &[ErrorKind::NoMemory],
                    HostCall::Migrate => &[ErrorKind::Unmovable],
                    HostCall::Charge => &[ErrorKind::OverLimit],
                    _ => &[ErrorKind::Interrupted],
                };
                assert!(kinds.contains(&error.kind()), "{call:?} {nth}: {error}");
                assert_eq!(pins(&machine), BTreeMap::new(), "{call:?} {nth}");
                assert_eq!(machine.charged(AccountId(1)), 0, "{call:?} {nth}");
                assert!(table.lookup(VirtAddr::new(AT)).is_err());
                failures += 1;
                // Nothing stands in the way of the same call, made again.
                engine.pin(&space, &table, &request()).unwrap();
            }
            let held: u32 = pins(&machine).values().sum();
            assert_eq!(u64::from(held), PAGES, "{call:?} {nth}");
            assert_eq!(machine.charged(AccountId(1)), PAGES);
            engine.unpin(&table, Dirtied::No).unwrap();
            assert_eq!(pins(&machine), BTreeMap::new(), "{call:?} {nth}");
            assert_eq!(machine.charged(AccountId(1)), 0);
            if !reached {
                break;
            }
        }
        // One failed attempt to move a folio is repeated; all others are reported.
        let repeated = call == HostCall::Migrate;
        assert_eq!(failures == 0, repeated, "{call:?} failed {failures} times");
    }
}
