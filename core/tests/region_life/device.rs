//! Device memory: neither pinned nor charged, found by address and by physical address.

use pinfold::region::{DeviceMemory, Region, RegionError, Unregistered};
use pinfold::*;

use super::{BASE, Stage, page, range};

const AT: u64 = 0x8000_0000;

fn shift(n: u8) -> PageShift {
    PageShift::new(n).unwrap()
}

#[test]
fn device_memory_is_found_and_translated_without_a_pin_or_a_charge() {
    let stage = Stage::new(range(0, 4096), 8);
    let device = stage.register_device(1024, 512, AT).unwrap();
    assert_eq!((device.pinned, device.used), (None, 1));
    let region = device.region;
    let expected = Region {
        id: region,
        range: range(1024, 512),
        used: 1,
        mapped: 0,
        access: Access::all(),
        usable: shift(21),
        device: Some(PhysAddr::new(AT)),
    };
    assert_eq!(stage.registry.find(&range(1024, 512)), Some(expected));
    let realmode = stage.realmode();
    for offset in [0, 1, 4095, 4096, (512 << 12) - 1] {
        let va = VirtAddr::new((1024 << 12) + offset);
        assert_eq!(realmode.translate(region, va, shift(21)), Ok(PhysAddr::new(AT + offset)));
    }
    for va in [page(1023), page(1536), VirtAddr::new((1024 << 12) - 1)] {
        assert_eq!(realmode.translate(region, va, BASE), Err(table::TooHard));
        assert_eq!(realmode.mark_dirty(region, va), Err(table::TooHard));
    }
    // A mark needs a reference, here as for other memory, and there is nothing to write down.
    assert_eq!(realmode.mark_dirty(region, page(1024)), Err(table::TooHard));
    realmode.map_get(region).unwrap();
    assert_eq!(realmode.mark_dirty(region, page(1024)), Ok(()));
    assert_eq!(stage.unregister(region), Err(RegionError::Mapped { mapped: 1 }));
    realmode.map_put(region).unwrap();
    assert_eq!(stage.unregister(region), Ok(Unregistered::Gone(None)));
    assert!(stage.reclaim().is_empty(), "there was no table");
    assert_eq!((stage.host.calls(), stage.host.pins()), (0, 0));
    stage.assert_empty();
}

/// An IOMMU page as large as asked for lies inside, at both addresses.
#[test]
fn the_largest_page_divides_start_length_and_physical_address() {
    for (first, pages, at, expected) in [
        (0x400, 0x200, AT, 21),
        (0x400, 0x100, AT, 20),
        (0x410, 0x200, AT, 16),
        (0x401, 0x200, AT, 12),
        (0x400, 0x201, AT, 12),
        (0x400, 0x200, AT + 0x2000, 13),
        (0x400, 0x200, 0, 21),
        (0, 0x800, 0, 23),
    ] {
        let stage = Stage::new(range(0, 4096), 1);
        let region = stage.register_device(first, pages, at).unwrap().region;
        let translate = |n| stage.realmode().translate(region, page(first), shift(n)).ok();
        for n in 0..=63 {
            let found = (n <= expected).then_some(PhysAddr::new(at));
            assert_eq!(translate(n), found, "{first:#x} {pages:#x} {at:#x}: {n}");
        }
        assert_eq!(stage.registry.region(region).unwrap().usable, shift(expected));
    }
}

#[test]
fn the_same_device_memory_is_shared_and_other_memory_is_in_the_way() {
    let stage = Stage::new(range(0, 4096), 8);
    let device = stage.register_device(10, 5, AT).unwrap().region;
    assert_eq!(stage.register_device(10, 5, AT).unwrap().used, 2);
    let overlap = Err(RegionError::Overlap { with: device });
    assert_eq!(stage.register(10, 5), overlap);
    assert_eq!(stage.register_device(10, 4, AT), overlap);
    // The same addresses, but other memory behind them.
    assert_eq!(stage.register_device(10, 5, AT + 0x1000), overlap);
    assert_eq!(stage.registry.region(device).unwrap().used, 2);
    let memory = stage.register(20, 5).unwrap().region;
    let overlap = Err(RegionError::Overlap { with: memory });
    assert_eq!(stage.register_device(20, 5, AT), overlap);
    assert_eq!(stage.registry.region(memory).unwrap().used, 1);
    assert_eq!(stage.unregister(device), Ok(Unregistered::StillUsed(1)));
    assert_eq!(stage.unregister(device), Ok(Unregistered::Gone(None)));
}

#[test]
fn physical_addresses_that_wrap_or_are_unaligned_are_none() {
    let stage = Stage::new(range(0, 4096), 8);
    for at in [1, 0xfff, AT + 0x800, u64::MAX - 0xfff, u64::MAX - 0x1fff, u64::MAX] {
        let refused = RegionError::NoDeviceMemory { at: PhysAddr::new(at) };
        assert_eq!(stage.register_device(0, 3, at), Err(refused), "{at:#x}");
    }
    stage.assert_empty();
    let top = u64::MAX - 0x2fff;
    let region = stage.register_device(0, 3, top).unwrap().region;
    let last = stage.realmode().translate(region, VirtAddr::new(0x2fff), BASE);
    assert_eq!(last, Ok(PhysAddr::new(u64::MAX)));
    let at = stage.registry.device_at(&stage.host, PhysAddr::new(u64::MAX), BASE);
    assert_eq!(at, Some(DeviceMemory { region, bytes: 1 }));
}

/// D35: whatever is found, and on whatever way, nothing stays locked.
#[test]
fn device_memory_is_found_by_physical_address_with_the_bytes_that_are_left() {
    let stage = Stage::new(range(0, 4096), 8);
    stage.register(0, 16).unwrap();
    let low = stage.register_device(100, 3, AT).unwrap().region;
    let high = stage.register_device(200, 1, AT + 0x3000).unwrap().region;
    let bytes = |at, n| {
        let found = stage.registry.device_at(&stage.host, PhysAddr::new(at), shift(n));
        found.map(|found| (found.region, found.bytes))
    };
    assert_eq!(bytes(AT, 12), Some((low, 0x1000)));
    assert_eq!(bytes(AT + 1, 12), Some((low, 0xfff)));
    assert_eq!(bytes(AT, 13), Some((low, 0x2000)));
    // Not all of the larger page belongs to the region.
    assert_eq!(bytes(AT, 16), Some((low, 0x3000)));
    assert_eq!(bytes(AT + 0x2fff, 16), Some((low, 1)));
    assert_eq!(bytes(AT + 0x2ffe, 63), Some((low, 2)));
    assert_eq!(bytes(AT + 0x3000, 12), Some((high, 0x1000)));
    for at in [0, AT - 1, AT + 0x4000, u64::MAX, stage.host.behind(page(0)).raw()] {
        assert_eq!(bytes(at, 12), None, "{at:#x}");
    }
    stage.unregister(low).unwrap();
    assert_eq!(bytes(AT, 12), None, "it is gone, reclaimed or not");
    stage.reclaim();
    // The record has another region now.
    let again = stage.register_device(100, 1, 0).unwrap().region;
    assert_eq!((bytes(AT, 12), bytes(0, 12)), (None, Some((again, 0x1000))));
}

/// What a record of device memory has in the place of a table's is an address, and no place.
#[test]
fn an_address_of_device_memory_is_no_place_of_a_table() {
    let stage = Stage::new(range(0, 4096), 8);
    let at = stage.own.next_multiple_of(4096);
    stage.register_device(100, 1, at as u64).unwrap();
    let table = &stage.memory[at - 1..at + 20];
    stage.register_in(&super::request(0, 1), table).unwrap();
}
