//! Who must forget what, and in which order.

use pinfold::domain::TlbId;
use pinfold::host::{FlushError, IoTlb};
use pinfold_arch::IoFormat;
use pinfold_sim::tlb::Asked;

use super::*;

/// Unmaps a range as the domain does it, and releases it.
pub(super) fn unmap<F: IoFormat + std::fmt::Debug>(
    domain: &Domain<'_, F>,
    memory: &TableMemory,
    range: IovaRange,
) {
    let mut runs = Runs::new();
    let mut unmap = domain.table().unmap(memory, range).unwrap();
    while let Some(unmapped) = unmap.step(memory, &mut runs).unwrap() {
        domain.finish(memory, unmapped).unwrap();
    }
}

/// Maps a page and a large page, lets everybody use them, unmaps them, and says who reaches them still. The
/// `missing`-th of them is not attached.
fn survivors(missing: usize, at_once: bool) -> Vec<usize> {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, false);
    let devices = hardware.devices();
    devices.iter().for_each(|device| device.invalidates_at_once(at_once));
    let mut domain: Domain<'_, Vtd> = Domain::new(IoPageTable::new(format(), &memory).unwrap());
    let iommus = hardware.iommus.iter().enumerate().filter(|(i, _)| *i != missing);
    iommus.for_each(|(_, iommu)| {
        domain.attach_iommu(iommu).unwrap();
    });
    let those = devices.iter().enumerate().filter(|(i, _)| i + 2 != missing);
    those.for_each(|(_, device)| {
        domain.attach_device(device).unwrap();
    });
    hardware.enter(&domain);
    let both = [run(0, HUGE), run(HUGE, 0x1000)];
    domain.map(&memory, iova(0), both, RW, NONE).unwrap();
    let places = [0x1234, HUGE + 8].map(iova);
    for at in places {
        let there = PhysAddr::new(at.raw() - AT + MEMORY);
        assert_eq!(answers(&hardware, &devices, at), [Ok(there); 4]);
    }
    unmap(&domain, &memory, range(0, HUGE + 0x1000));
    let reach = |at: Iova| {
        let answers = answers(&hardware, &devices, at).into_iter().enumerate();
        answers.filter(move |(_, found)| *found != blocked(at)).map(|(i, _)| i).collect::<Vec<_>>()
    };
    let [large, small] = places.map(reach);
    assert_eq!(large, small);
    large
}

/// When the call has succeeded nobody reaches the range; and whoever was left out does, with all who ask it.
#[test]
fn nobody_reaches_what_was_unmapped_unless_somebody_was_not_told() {
    for at_once in [false, true] {
        assert_eq!(survivors(usize::MAX, at_once), []);
        // Devices ask their IOMMU again: one that was not told makes them keep the page, too.
        assert_eq!(survivors(0, at_once), [0, 2]);
        assert_eq!(survivors(1, at_once), [1, 3]);
        assert_eq!(survivors(2, at_once), [2]);
        assert_eq!(survivors(3, at_once), [3]);
    }
}

/// The caller's word is all that [`Unmapped::flushed`](pinfold::iopt::Unmapped::flushed) goes by; so a domain's
/// tables take nobody's.
#[test]
fn a_flush_by_the_callers_word_alone_leaves_the_page_in_reach() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let iommu = Iommu::new("iommu", &memory, &journal);
    let mut domain: Domain<'_, Vtd> = Domain::new(IoPageTable::new(format(), &memory).unwrap());
    domain.attach_iommu(&iommu).unwrap();
    iommu.enter(domain.table().format(), domain.table().root());
    domain.map(&memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
    iommu.access(iova(0), true).unwrap();
    let mut runs = Runs::new();
    let table = past(&domain, &memory);
    let mut unmap = table.unmap(&memory, range(0, 0x1000)).unwrap();
    unmap.step(&memory, &mut runs).unwrap().unwrap().flushed(&memory);
    assert_eq!(iommu.access(iova(0), true), Ok(PhysAddr::new(MEMORY)));
}

/// All IOMMUs at the same time, then all devices: in the other order a device asks for the page again before
/// its IOMMU has forgotten it.
#[test]
fn devices_forget_behind_their_iommus() {
    for swapped in [false, true] {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let iommu = Iommu::new("iommu", &memory, &journal);
        let device = AtsDevice::new("device", &iommu);
        let mut domain: Domain<'_, Vtd> = Domain::new(IoPageTable::new(format(), &memory).unwrap());
        let (first, second): (&dyn IoTlb, &dyn IoTlb) =
            if swapped { (&device, &iommu) } else { (&iommu, &device) };
        domain.attach_iommu(first).unwrap();
        domain.attach_device(second).unwrap();
        iommu.enter(domain.table().format(), domain.table().root());
        domain.map(&memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
        assert_eq!(journal.take(), [], "nobody keeps that nothing was there");
        device.access(iova(0), true).unwrap();
        unmap(&domain, &memory, range(0, 0x1000));
        let begin = Asked::Invalidate(range(0, 0x1000), Kept::Leaves);
        let two = |who| [(who, begin), (who, Asked::Complete)];
        let order = if swapped { ["device", "iommu"] } else { ["iommu", "device"] };
        assert_eq!(journal.take(), order.map(two).concat());
        assert_eq!(device.access(iova(0), true) == blocked(iova(0)), !swapped);
    }
}

/// Two of a kind are at it at the same time.
#[test]
fn all_are_asked_before_any_is_waited_for() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, false);
    let devices = hardware.devices();
    let (mut domain, ids) = attached(&memory, &hardware, &devices);
    domain.flush(range(0, 0x1000), Kept::Tables).unwrap();
    let who: Vec<_> = journal.take().into_iter().map(|(who, _)| who).collect();
    let twice = ["iommu 1", "iommu 2", "iommu 1", "iommu 2"];
    let devices_twice = ["device 1", "device 2", "device 1", "device 2"];
    assert_eq!(who, [twice, devices_twice].concat());
    domain.detach(ids[2]).unwrap();
    domain.detach(ids[0]).unwrap();
    drop(journal.take());
    domain.flush(range(0, 0x1000), Kept::Leaves).unwrap();
    let who: Vec<_> = journal.take().into_iter().map(|(who, _)| who).collect();
    assert_eq!(who, ["iommu 2", "iommu 2", "device 2", "device 2"]);
}

pub(super) fn made_with<'d>(
    memory: &TableMemory,
    hardware: &'d Hardware<'_>,
    devices: &'d [AtsDevice<'_, Vtd>; 2],
) -> Domain<'d, Vtd> {
    attached(memory, hardware, devices).0
}

/// The same, and what they are called there: the IOMMUs, then the devices.
pub(super) fn attached<'d>(
    memory: &TableMemory,
    hardware: &'d Hardware<'_>,
    devices: &'d [AtsDevice<'_, Vtd>; 2],
) -> (Domain<'d, Vtd>, Vec<TlbId>) {
    attach(made(memory), hardware, devices)
}

/// The same with tables that are there already.
pub(super) fn attach<'d>(
    mut domain: Domain<'d, Vtd>,
    hardware: &'d Hardware<'_>,
    devices: &'d [AtsDevice<'_, Vtd>; 2],
) -> (Domain<'d, Vtd>, Vec<TlbId>) {
    let iommus: Vec<_> =
        hardware.iommus.iter().map(|iommu| domain.attach_iommu(iommu).unwrap()).collect();
    let devices = devices.iter().map(|device| domain.attach_device(device).unwrap());
    let ids = iommus.into_iter().chain(devices).collect();
    hardware.enter(&domain);
    (domain, ids)
}

/// A mapping after an absence that was kept is found because the domain says so: below a table that was there
/// and below one that comes with it, and on devices that were asking all the time.
#[test]
fn what_is_mapped_after_it_was_looked_for_is_found() {
    for at_once in [false, true] {
        for table_before in [false, true] {
            let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
            let hardware = Hardware::new(&memory, &journal, true);
            let devices = hardware.devices();
            devices.iter().for_each(|device| device.invalidates_at_once(at_once));
            let domain = made_with(&memory, &hardware, &devices);
            if table_before {
                let beside = [run(0x1000, 0x1000)];
                domain.map(&memory, iova(0x1000), beside, RW, NONE).unwrap();
            }
            assert_eq!(answers(&hardware, &devices, iova(0)), [blocked(iova(0)); 4]);
            // Past the domain, nobody hears of it.
            let page = [run(0, 0x1000)];
            past(&domain, &memory).map(&memory, iova(0), page, RW, NONE).unwrap();
            assert_eq!(answers(&hardware, &devices, iova(0)), [blocked(iova(0)); 4]);
            unmap(&domain, &memory, range(0, 0x1000));
            assert_eq!(answers(&hardware, &devices, iova(0)), [blocked(iova(0)); 4]);

            domain.map(&memory, iova(0), page, RW, NONE).unwrap();
            let there = Ok(PhysAddr::new(MEMORY));
            assert_eq!(answers(&hardware, &devices, iova(0)), [there; 4], "{at_once}");
        }
    }
}

/// What is said of tables is true: an IOMMU that keeps pointers to tables never walks into one that went back.
#[test]
fn nobody_walks_into_a_table_that_was_given_back() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, false);
    let devices = hardware.devices();
    let mut domain = made_with(&memory, &hardware, &devices);
    for way in 0..4 {
        domain.map(&memory, iova(0x1000), [run(0, 0x1000)], RW, NONE).unwrap();
        answers(&hardware, &devices, iova(0x1000));
        match way {
            0 => unmap(&domain, &memory, range(0, HUGE)),
            1 => {
                // A leaf takes the place of the table, a page at a time until it is empty.
                unmap(&domain, &memory, range(0x1000, 0x1000));
                unmap(&domain, &memory, range(0, HUGE));
                domain.map(&memory, iova(0), [run(0, HUGE)], RW, NONE).unwrap();
                let there = PhysAddr::new(MEMORY + 0x1000);
                assert_eq!(answers(&hardware, &devices, iova(0x1000)), [Ok(there); 4]);
                unmap(&domain, &memory, range(0, HUGE));
            }
            2 => {
                let all = IovaRange::between(Iova::new(0), domain.table().format().last()).unwrap();
                unmap(&domain, &memory, all);
            }
            _ => {
                // Flushed as if only leaves had changed, and given back by the caller's word.
                let mut runs = Runs::new();
                let table = past(&domain, &memory);
                let mut unmap = table.unmap(&memory, range(0, HUGE)).unwrap();
                let unmapped = unmap.step(&memory, &mut runs).unwrap().unwrap();
                assert_eq!(unmapped.kept(), Kept::Tables);
                domain.flush(unmapped.range(), Kept::Leaves).unwrap();
                unmapped.flushed(&memory);
                let found = hardware.iommus[0].access(iova(0x1000), true);
                assert!(matches!(found, Err(Fault::FreedTable { .. })), "{found:?}");
                break;
            }
        }
        assert_eq!(answers(&hardware, &devices, iova(0x1000)), [blocked(iova(0x1000)); 4]);
    }
    let last = Iova::new(1 << 47);
    let grown = domain.grow(&memory, last, |format, root| {
        hardware.iommus.iter().for_each(|iommu| iommu.enter(format, root));
        Ok::<(), FlushError>(())
    });
    assert_eq!(grown, Ok(()));
}

/// A device's writes are seen again after each harvest: without the flush, an IOMMU that knows the leaf as written
/// does not mark it a second time.
#[test]
fn a_mark_that_was_taken_is_set_by_the_next_write() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let iommu = Iommu::new("iommu", &memory, &journal);
    let mut domain: Domain<'_, Vtd> = Domain::new(IoPageTable::new(format(), &memory).unwrap());
    domain.attach_iommu(&iommu).unwrap();
    iommu.enter(domain.table().format(), domain.table().root());
    domain.map(&memory, iova(0), [run(0, 0x2000)], RW, NONE).unwrap();
    domain.start_tracking(&memory).unwrap();
    let range = range(0, 0x2000);
    for _ in 0..2 {
        iommu.access(iova(0x1000), true).unwrap();
        assert_eq!(domain.take_dirty(&memory, range, |_| {}), Ok(0x1000));
        assert_eq!(domain.take_dirty(&memory, range, |_| {}), Ok(0));
    }
    iommu.access(iova(0x1000), true).unwrap();
    assert_eq!(past(&domain, &memory).start_tracking(&memory).unwrap().dirty, 0x1000);
    iommu.access(iova(0x1000), true).unwrap();
    assert_eq!(domain.take_dirty(&memory, range, |_| {}), Ok(0), "unseen without a flush");
}
