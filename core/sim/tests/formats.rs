//! The machine and the engine on page tables of every format and base page size.

use pinfold::folio::FolioFlags;
use pinfold::policy::Refusal;
use pinfold::sync::Word;
use pinfold::{
    Aarch64, Aarch64Stage2, Access, AddrRange, AnyFormat, Dirtied, Engine, Order, PageCount,
    PageFormat, PageShift, PinCause, PinRequest, PinTable, PowerRadix, S390x, VirtAddr, X86_64,
};
use pinfold_arch::format::aarch64::Granule;
use pinfold_arch::format::s390x::Facilities;
use pinfold_sim::model::Model;
use pinfold_sim::script::{Script, layout, run_on};
use pinfold_sim::{
    FileKind, Layout, Machine, MapError, MapSpec, Place, Ram, TableFormat, Thp, Want, ZoneKind,
};

const AT: u64 = 0x4000_0000;

fn formats() -> Vec<AnyFormat> {
    let aarch64 = |granule, va_bits, pa_bits| Aarch64::new(granule, va_bits, pa_bits).unwrap();
    let stage2 = Aarch64Stage2::new(Granule::Size4K, 40, 40).unwrap();
    let power = |shift| PowerRadix::new(PageShift::new(shift).unwrap()).unwrap();
    let s390x = |levels, facilities| S390x::new(levels, facilities).unwrap();
    vec![
        X86_64::new(4, 46).unwrap().into(),
        X86_64::new(5, 52).unwrap().into(),
        aarch64(Granule::Size4K, 48, 48).with_hardware_dirty(true).into(),
        aarch64(Granule::Size4K, 39, 40).with_hardware_access(false).into(),
        aarch64(Granule::Size4K, 52, 52).into(),
        aarch64(Granule::Size16K, 47, 48).into(),
        aarch64(Granule::Size16K, 52, 52).with_hardware_dirty(true).into(),
        aarch64(Granule::Size64K, 48, 48).into(),
        aarch64(Granule::Size64K, 52, 52).with_hardware_access(false).into(),
        stage2.into(),
        power(12).into(),
        power(16).into(),
        s390x(2, Facilities::empty()).into(),
        s390x(3, Facilities::empty()).into(),
        s390x(4, Facilities::EDAT1).into(),
        s390x(5, Facilities::all()).into(),
    ]
}

/// A machine with these tables, and a space of it.
fn with(format: AnyFormat, memory: Layout, check: impl FnOnce(&Machine<'_, AnyFormat>)) {
    let ram = Ram::new(&Layout { base: format.base(), ..memory });
    let machine = Machine::with(&ram, format, Place::Zone(ZoneKind::Normal));
    check(&machine);
    for space in machine.spaces() {
        machine.drop_space(space.id()).unwrap();
    }
    Model::new().check(&machine).unwrap_or_else(|wrong| panic!("{format:?}: {wrong}"));
}

fn order(n: u8) -> Order {
    Order::new(n).unwrap()
}

#[test]
fn what_is_written_is_read_shared_moved_swapped_and_pinned() {
    for format in formats() {
        with(format, Layout::small(), |machine| {
            let (base, page) = (format.base(), format.base().bytes());
            let space = machine.add_space();
            let id = space.id();
            machine.map(id, MapSpec::anonymous(AT, 16)).unwrap();
            machine.write(id, AT + page - 1, b"pinfold").unwrap();
            let read = |id, at| {
                let mut bytes = [0; 7];
                machine.read(id, at, &mut bytes).unwrap();
                bytes
            };
            let child = machine.fork(id).unwrap().id();
            machine.write(child, AT + page - 1, b"forked!").unwrap();
            machine.move_page(id, AT, Want::Movable).unwrap();
            machine.swap_out(id, AT + page).unwrap();
            assert_eq!(machine.swapped(), 1, "{format:?}");
            assert_eq!(&read(id, AT + page - 1), b"pinfold", "{format:?}");
            assert_eq!(&read(child, AT + page - 1), b"forked!", "{format:?}");

            let engine = Engine::new(machine, machine.frames());
            let words: Vec<Word> = (0..4096).map(|_| Word::new(0)).collect();
            let table = PinTable::new(&words).unwrap();
            let range = AddrRange::new(VirtAddr::new(AT), PageCount::new(16), base).unwrap();
            let request = PinRequest::longterm(range, Access::all());
            let pinned = engine.pin(&space, &table, &request).unwrap();
            assert_eq!(pinned.pages.raw(), 16, "{format:?}");
            let at = table.lookup(VirtAddr::new(AT + page)).unwrap();
            assert_eq!(machine.translate(id, AT + page, Access::READ), Some(at));
            assert!(machine.swap_out(id, AT).is_err(), "{format:?}: pinned and swapped");
            machine.unmap(id, AT, 16).unwrap();
            assert!(machine.folio_at(id, AT).is_none());
            engine.unpin(&table, Dirtied::All).unwrap();
        });
    }
}

/// Written by the process, and nobody told the folio but the page tables, or the CPU itself.
#[test]
fn a_written_page_of_a_file_is_dirty_once_it_is_unmapped() {
    for format in formats() {
        with(format, Layout::small(), |machine| {
            let id = machine.add_space().id();
            let file = machine.add_file(FileKind::Shmem, 4, Order::ZERO);
            machine.map(id, MapSpec::shared(AT, 4, file)).unwrap();
            machine.touch(id, AT, 1, Access::READ).unwrap();
            let folio = machine.folio_at(id, AT).unwrap().head();
            machine.write(id, AT, &[1]).unwrap();
            machine.unmap(id, AT, 4).unwrap();
            let flags = machine.frames().folio(folio).unwrap().info().flags;
            assert!(flags.contains(FolioFlags::DIRTY), "{format:?}");
            machine.close_file(file).unwrap();
        });
    }
}

#[test]
fn huge_pages_come_where_there_is_a_leaf_for_them() {
    for format in formats() {
        with(format, Layout::small(), |machine| {
            let (base, huge) = (format.base(), format.huge());
            let pages = huge.pages(base).raw();
            let at = AT.next_multiple_of(huge.bytes());
            let id = machine.add_space().id();
            machine.map(id, MapSpec::anonymous(at, pages).with_thp(Thp::Whole)).unwrap();
            machine.write(id, at, &[5]).unwrap();
            let folio = machine.folio_at(id, at).unwrap();
            if pages <= 4096 {
                assert_eq!(folio.order(), huge.order(base), "{format:?}");
            }
            if folio.order() > Order::ZERO {
                machine.split_mapping(id, at).unwrap();
                machine.fork(id).unwrap();
                machine.write(id, at + base.bytes(), &[6]).unwrap();
            }
            Model::new().check(machine).unwrap();
        });
    }
}

/// Pages of the pool need not have the size of a leaf: they take several then.
#[test]
fn hugetlb_pages_of_any_size_are_mapped_copied_and_pinned_whole() {
    for (format, n) in formats().into_iter().flat_map(|format| [(format, 4), (format, 9)]) {
        with(format, Layout::small(), |machine| {
            let (base, page, pages) = (format.base(), format.base().bytes(), 1 << n);
            for _ in 0..3 {
                machine.reserve_huge(order(n), Want::Pinnable).unwrap();
            }
            let space = machine.add_space();
            let id = space.id();
            machine.map(id, MapSpec::hugetlb(AT, pages, order(n))).unwrap();
            machine.write(id, AT + 3 * page, &[3]).unwrap();
            let folio = machine.folio_at(id, AT).unwrap();
            assert_eq!(folio.order(), order(n), "{format:?}");
            assert_eq!(machine.folio_at(id, AT + (pages - 1) * page), Some(folio));

            // Pinned, so the child gets a copy of its own.
            let engine = Engine::new(machine, machine.frames());
            let words: Vec<Word> = (0..4096).map(|_| Word::new(0)).collect();
            let table = PinTable::new(&words).unwrap();
            let range = AddrRange::new(VirtAddr::new(AT), PageCount::new(pages), base).unwrap();
            engine.pin(&space, &table, &PinRequest::longterm(range, Access::all())).unwrap();
            let child = machine.fork(id).unwrap().id();
            assert_eq!(machine.folio_at(id, AT).unwrap().head(), folio.head(), "{format:?}");
            let copy = machine.folio_at(child, AT).unwrap();
            assert_ne!(copy.head(), folio.head(), "{format:?}");
            engine.unpin(&table, Dirtied::No).unwrap();

            // Not pinned, so it is shared until one writes, anywhere in it.
            machine.drop_space(child).unwrap();
            let child = machine.fork(id).unwrap().id();
            assert_eq!(machine.folio_at(child, AT).map(|f| f.head()), Some(folio.head()));
            machine.write(child, AT + 5 * page, &[9]).unwrap();
            let copy = machine.folio_at(child, AT).unwrap();
            assert_ne!(copy.head(), folio.head(), "{format:?}");
            assert_eq!(machine.folio_at(child, AT + (pages - 1) * page), Some(copy));
            let mut byte = [0];
            machine.read(child, AT + 3 * page, &mut byte).unwrap();
            assert_eq!(byte, [3], "{format:?}");
            Model::new().check(machine).unwrap();
        });
    }
}

#[test]
fn what_may_not_be_reached_is_hidden_or_refused() {
    for format in formats() {
        with(format, Layout::small(), |machine| {
            let base = format.base();
            let space = machine.add_space();
            let id = space.id();
            machine.map(id, MapSpec::anonymous(AT, 4)).unwrap();
            machine.write(id, AT, &[1]).unwrap();
            let hidden = machine.protect(id, AT, 4, Access::empty());
            // In some formats what is there is the process's.
            let cannot = matches!(format, AnyFormat::S390x(_) | AnyFormat::Aarch64Stage2(_));
            assert_eq!(hidden, if cannot { Err(MapError::Kind) } else { Ok(()) }, "{format:?}");
            if hidden.is_err() {
                return;
            }
            let engine = Engine::new(machine, machine.frames());
            let words: Vec<Word> = (0..4096).map(|_| Word::new(0)).collect();
            let table = PinTable::new(&words).unwrap();
            let range = AddrRange::new(VirtAddr::new(AT), PageCount::ONE, base).unwrap();
            let pinned = engine.pin(&space, &table, &PinRequest::longterm(range, Access::READ));
            let refused = PinCause::Refused(Refusal::NotReadable);
            assert_eq!(pinned.map_err(|error| error.cause).err(), Some(refused), "{format:?}");
            machine.protect(id, AT, 4, Access::all()).unwrap();
            let mut byte = [0];
            machine.read(id, AT, &mut byte).unwrap();
            assert_eq!(byte, [1], "{format:?}");
        });
    }
}

#[test]
fn random_scripts_run_on_all_of_them() {
    for format in formats() {
        let mut pinned = 0;
        for seed in 0..6 {
            let ram = Ram::new(&Layout { base: format.base(), ..layout() });
            let machine = Machine::with(&ram, format, Place::Zone(ZoneKind::Normal));
            let outcome = run_on(&machine, &Script::random(seed, 60), 4);
            pinned +=
                outcome.unwrap_or_else(|wrong| panic!("{format:?}, seed {seed}: {wrong}")).pinned;
        }
        assert!(pinned > 0, "{format:?}");
    }
}
