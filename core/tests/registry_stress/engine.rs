//! Over the engine, in memory of every shape.

use std::sync::Arc;

use pinfold::folio::FolioFlags;
use pinfold::host::SpaceId;
use pinfold::region::InSpace;
use pinfold::{Access, AccountId, Engine, Order, Pfn, PhysAddr};
use pinfold_sim::model::Model;
use pinfold_sim::{Layout, Machine, MapSpec, Ram, Thp, Want, mib};

use super::{Memory, Oracle, Stress, range};

const FIRST: u64 = 0x7_0000_0000;
const HUGE: u64 = 512;
/// What a writer tries. Each fault in the machine costs.
const ROUNDS: u64 = 300;

struct Sim<'m> {
    machine: Machine<'m>,
    space: SpaceId,
}

impl Oracle for Sim<'_> {
    fn check(&self, page: u64, addr: PhysAddr, held: bool) -> Option<u64> {
        let mapped = self.machine.translate(self.space, page << 12, Access::READ);
        assert_eq!(mapped, Some(addr), "page {page:#x} is elsewhere");
        let folio = self.machine.folio_at(self.space, page << 12).unwrap();
        let pins = self.machine.frames().counts_of(folio).pins();
        assert!(!held || pins > 0, "{addr} is held and not pinned");
        None
    }
}

#[test]
fn regions_of_huge_and_small_pages_come_and_go_under_readers() {
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(64)));
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    let id = space.id();
    let at = |part: u64| (FIRST + part * HUGE) << 12;
    let nine = Order::new(9).unwrap();
    machine.map(id, MapSpec::anonymous(at(0), HUGE)).unwrap();
    machine.map(id, MapSpec::anonymous(at(1), HUGE).with_thp(Thp::Whole)).unwrap();
    machine.reserve_huge(nine, Want::Pinnable).unwrap();
    machine.map(id, MapSpec::hugetlb(at(2), HUGE, nine)).unwrap();
    machine.map(id, MapSpec::anonymous(at(3), HUGE).with_thp(Thp::Split)).unwrap();
    for page in 0..4 * HUGE {
        machine.write(id, (FIRST + page) << 12, &[page as u8]).unwrap();
    }
    let sim = Sim { machine, space: id };
    let engine = Engine::new(&sim.machine, sim.machine.frames());
    let pinner = InSpace { pins: &engine, space: Arc::as_ref(&space) };
    let memory = Memory::new(range(FIRST - (1 << 18), 1 << 25));
    let zones = [(FIRST, 4 * HUGE)];
    let stable = [FIRST + 5, FIRST + HUGE + 9, FIRST + 4 * HUGE - 1];
    let marked = Stress::new(&memory, pinner, &sim, &stable, &zones, true).run(ROUNDS);
    assert!(!marked.is_empty());
    for (page, _) in marked {
        let folio = sim.machine.folio_at(id, page << 12).unwrap();
        assert!(folio.info().flags.contains(FolioFlags::DIRTY), "a mark at {page:#x} was lost");
    }
    assert_eq!(sim.machine.charged(AccountId(0)), 0);
    Model::new().check(&sim.machine).unwrap();
}
