//! A replacement behind a table that others have put there and told nobody of: IOMMUs that keep that no table was there
//! find it.

use super::flushes::made_with;
use super::*;

/// A page takes the place of nothing; then everybody finds it.
fn replace(domain: &Domain<'_, Vtd>, memory: &TableMemory) {
    let mut runs = Runs::new();
    let page = [run(HUGE, 0x1000)];
    let mut replace = domain.table().replace(memory, iova(0), page, RW, NONE).unwrap();
    while let Some(old) = replace.step(memory, &mut runs).unwrap() {
        domain.finish(memory, old).unwrap();
    }
}

/// A mapping that failed, in being announced or for memory, leaves its tables.
#[test]
fn behind_a_table_of_a_failed_map_all_is_found() {
    for late in [false, true] {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let hardware = Hardware::new(&memory, &journal, true);
        let devices = hardware.devices();
        let domain = made_with(&memory, &hardware, &devices);
        assert_eq!(answers(&hardware, &devices, iova(0)), [blocked(iova(0)); 4]);
        if late {
            journal.fail(1);
            domain.map(&memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap_err();
        } else {
            memory.fail_after(3);
            let far = [run(0, 0x1000), run(0, HUGE)];
            domain.map(&memory, iova(0), far, RW, NONE).unwrap_err();
            memory.fail_after(u64::MAX);
        }
        assert_eq!(answers(&hardware, &devices, iova(0)), [blocked(iova(0)); 4]);
        assert_eq!(memory.used(), 4);
        replace(&domain, &memory);
        let there = Ok(PhysAddr::new(MEMORY + HUGE));
        assert_eq!(answers(&hardware, &devices, iova(0)), [there; 4], "{late}");
    }
}

/// Another who maps has put the table there, and is about to tell of it.
#[test]
fn behind_a_table_of_another_map_all_is_found() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, true);
    let devices = hardware.devices();
    let domain = made_with(&memory, &hardware, &devices);
    assert_eq!(answers(&hardware, &devices, iova(0)), [blocked(iova(0)); 4]);
    // As far as the domain comes before it tells.
    past(&domain, &memory).map(&memory, iova(0x1000), [run(0, 0x1000)], RW, NONE).unwrap();
    replace(&domain, &memory);
    let there = Ok(PhysAddr::new(MEMORY + HUGE));
    assert_eq!(answers(&hardware, &devices, iova(0)), [there; 4]);
}
