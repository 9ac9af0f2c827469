//! Huge pages of the pool that are in somebody's way.

use pinfold::{Access, Order, Pfn};
use pinfold_sim::model::Model;
use pinfold_sim::{Layout, Machine, MapSpec, Place, Ram, Want, ZoneKind, mib};

const AT: u64 = 0x4000_0000;
const HUGE: u64 = 512;

fn order() -> Order {
    Order::new(9).unwrap()
}

#[test]
fn the_contiguous_allocator_replaces_idle_huge_pages_and_moves_used_ones() {
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(16)).cma(mib(4)));
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    for _ in 0..2 {
        machine.reserve_huge(order(), Want::In(Place::Cma)).unwrap();
    }
    machine.map(id, MapSpec::hugetlb(AT, HUGE, order())).unwrap();
    machine.touch(id, AT, 1, Access::all()).unwrap();
    assert_eq!(machine.pool_pages(), 1);

    let block = machine.alloc_contig(0, 2 * HUGE).unwrap();
    Model::new().check(&machine).unwrap();
    let moved = machine.folio_at(id, AT).unwrap();
    assert_eq!(machine.place(moved.head()), Some(Place::Zone(ZoneKind::Normal)));
    assert_eq!(machine.pool_pages(), 1);

    assert!(machine.free_contig(&block));
    machine.drop_space(id).unwrap();
    assert_eq!(machine.pool_pages(), 2);
    Model::new().check(&machine).unwrap();
}

#[test]
fn a_huge_page_moves_although_the_pool_is_empty_and_the_pool_stays_as_large() {
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(8)).movable(mib(2)));
    let machine = Machine::new(&ram);
    let id = machine.add_space().id();
    machine.reserve_huge(order(), Want::In(Place::Zone(ZoneKind::Movable))).unwrap();
    machine.map(id, MapSpec::hugetlb(AT, HUGE, order())).unwrap();
    machine.write(id, AT, &[7]).unwrap();
    let free = machine.free_frames();
    machine.move_page(id, AT, Want::Pinnable).unwrap();
    assert_eq!((machine.pool_pages(), machine.free_frames()), (0, free));
    let mut byte = [0];
    machine.read(id, AT, &mut byte).unwrap();
    assert_eq!(byte, [7]);
    Model::new().check(&machine).unwrap();
}

#[test]
fn a_block_need_not_be_aligned_to_its_size() {
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(5)).cma(mib(5)));
    let machine = Machine::new(&ram);
    let block = machine.alloc_contig_aligned(0, 1024, Order::new(6).unwrap()).unwrap();
    assert_eq!((block.start.raw(), block.pages.raw()), (0x1500, 1024));
    assert!(machine.alloc_contig_aligned(0, 1024, Order::new(6).unwrap()).is_err());
    assert!(machine.free_contig(&block));
}
