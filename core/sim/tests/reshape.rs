//! What the machine does to pages behind a process's back: puts them together, takes them out of
//! memory, keeps new ones in per-CPU lists.

use pinfold::folio::FolioFlags;
use pinfold::host::{MigrateError, SpaceId};
use pinfold::{Access, PageCount, Pfn};
use pinfold_sim::model::Model;
use pinfold_sim::{Layout, Machine, MapSpec, Ram, Thp, Want, mib};

const AT: u64 = 0x4000_0000;
const HUGE: u64 = 512;

/// A space with so many pages, each with its number in its first byte.
fn filled(machine: &Machine<'_>, pages: u64) -> SpaceId {
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, pages)).unwrap();
    for page in 0..pages {
        machine.write(id, AT + (page << 12), &[page as u8]).unwrap();
    }
    id
}

fn contents_stand(machine: &Machine<'_>, id: SpaceId, pages: u64) {
    for page in 0..pages {
        let mut byte = [0];
        machine.read(id, AT + (page << 12), &mut byte).unwrap();
        assert_eq!(byte, [page as u8], "page {page}");
    }
}

#[test]
fn small_pages_are_put_together_and_their_table_goes() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = filled(&machine, HUGE + 3);
    let free = machine.free_frames().raw();
    let head = machine.collapse(id, AT + 0x5000).unwrap();
    assert_eq!(machine.free_frames().raw(), free + 1, "the table page is free");
    let folio = machine.folio_at(id, AT + 0x12_3000).unwrap();
    assert_eq!((folio.head(), folio.order().pages()), (head, PageCount::new(HUGE)));
    contents_stand(&machine, id, HUGE + 3);
    Model::new().check(&machine).unwrap();
    // There is nothing to put together in a huge page, nor behind the end of the mapping.
    assert_eq!(machine.collapse(id, AT), Err(MigrateError::Unmovable));
    assert_eq!(machine.collapse(id, AT + (HUGE << 12)), Err(MigrateError::Unmovable));
    machine.split_folio(id, AT).unwrap();
    machine.collapse(id, AT).unwrap();
    contents_stand(&machine, id, HUGE + 3);
    Model::new().check(&machine).unwrap();
}

#[test]
fn pages_that_others_refer_to_are_not_put_together() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = filled(&machine, HUGE);
    let held = machine.get_page(id, AT + 0x1f_f000).unwrap();
    let busy = MigrateError::Busy { expected: 1, found: 2 };
    assert_eq!(machine.collapse(id, AT), Err(busy));
    contents_stand(&machine, id, HUGE);
    Model::new().check(&machine).unwrap();
    assert!(machine.put_page(held));
    // Nor what is missing, what a child shares, or what is a part of something larger.
    machine.swap_out(id, AT).unwrap();
    assert_eq!(machine.collapse(id, AT), Err(MigrateError::Unmovable));
    contents_stand(&machine, id, HUGE);
    let child = machine.fork(id).unwrap();
    assert_eq!(machine.collapse(id, AT), Err(MigrateError::Unmovable));
    machine.drop_space(child.id()).unwrap();
    machine.map(id, MapSpec::anonymous(2 * AT, HUGE).with_thp(Thp::Split)).unwrap();
    machine.write(id, 2 * AT, &[1]).unwrap();
    assert_eq!(machine.collapse(id, 2 * AT), Err(MigrateError::Unmovable));
    Model::new().check(&machine).unwrap();
}

#[test]
fn a_page_comes_back_from_swap_with_its_contents_for_each_that_had_it() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let id = filled(&machine, 4);
    let child = machine.fork(id).unwrap().id();
    let free = machine.free_frames().raw();
    machine.swap_out(id, AT).unwrap();
    assert_eq!((machine.swapped(), machine.free_frames().raw()), (2, free + 1));
    assert_eq!(machine.translate(id, AT, Access::READ), None);
    // A fork of what is not there, a write, and the end of a space.
    let other = machine.fork(id).unwrap().id();
    assert_eq!(machine.swapped(), 3);
    machine.write(child, AT, &[9]).unwrap();
    contents_stand(&machine, id, 4);
    contents_stand(&machine, other, 4);
    let mut byte = [0];
    machine.read(child, AT, &mut byte).unwrap();
    assert_eq!((byte, machine.swapped()), ([9], 0));
    Model::new().check(&machine).unwrap();
    machine.swap_out(other, AT + 0x1000).unwrap();
    machine.swap_out(other, AT).unwrap();
    machine.unmap(other, AT, 1).unwrap();
    machine.drop_space(other).unwrap();
    machine.unmap(id, AT, 4).unwrap();
    machine.drop_space(child).unwrap();
    assert_eq!(machine.swapped(), 0);
    Model::new().check(&machine).unwrap();
}

#[test]
fn what_others_refer_to_is_not_taken_out_of_memory() {
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(8)));
    let machine = Machine::new(&ram);
    let id = filled(&machine, 1);
    let held = machine.get_page(id, AT).unwrap();
    assert_eq!(machine.swap_out(id, AT), Err(MigrateError::Busy { expected: 1, found: 2 }));
    contents_stand(&machine, id, 1);
    assert!(machine.put_page(held));
    machine.map(id, MapSpec::anonymous(2 * AT, 1)).unwrap();
    machine.read(id, 2 * AT, &mut [0]).unwrap();
    assert_eq!(machine.swap_out(id, 2 * AT), Err(MigrateError::Unmovable), "the zero page");
    machine.swap_out(id, AT).unwrap();
    contents_stand(&machine, id, 1);
    Model::new().check(&machine).unwrap();
}

#[test]
fn new_pages_wait_in_a_list_with_a_reference() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    machine.batch_new_pages(3);
    let id = filled(&machine, 2);
    let references = |va| {
        let folio = machine.folio_at(id, va).unwrap();
        machine.frames().counts_of(folio).references()
    };
    assert_eq!((references(AT), references(AT + 0x1000)), (2, 2));
    Model::new().check(&machine).unwrap();
    // Whoever moves a page empties the lists first.
    machine.move_page(id, AT, Want::Pinnable).unwrap();
    assert!(!machine.folio_at(id, AT).unwrap().info().flags.contains(FolioFlags::MOVABLE));
    assert_eq!(references(AT + 0x1000), 1);
    // A full list empties itself, also of pages that are mapped no more.
    machine.map(id, MapSpec::anonymous(2 * AT, 20)).unwrap();
    let free = machine.free_frames().raw();
    machine.touch(id, 2 * AT, 20, Access::all()).unwrap();
    machine.unmap(id, 2 * AT, 20).unwrap();
    assert!(machine.free_frames().raw() < free);
    machine.batch_new_pages(0);
    assert!(machine.free_frames().raw() >= free);
    Model::new().check(&machine).unwrap();
}
