//! Snapshot files that contradict themselves: an error or a machine whose books are in order, never
//! a panic.

use std::path::Path;

use pinfold::sync::Word;
use pinfold::{
    Access, AddrRange, AnyFormat, Dirtied, Engine, PageCount, PinFlags, PinRequest, PinTable,
    VirtAddr,
};
use pinfold_arch::format::s390x::Facilities;
use pinfold_sim::model::Model;
use pinfold_sim::snapshot::{FrameClass, FrameRun, Mmu, Snapshot, Verdict};
use pinfold_sim::{Machine, Ram, Replica, ReplicaError, verdict};
use proptest::prelude::*;

/// Every committed capture.
fn captures() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension() == Some("snap".as_ref())).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

const PAGE: u64 = 4096;

/// A change of one number: which one, and how.
#[derive(Clone, Copy, Debug)]
struct Change {
    what: u8,
    item: u64,
    part: u8,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Flip(u8),
    Add(i64),
    Set(u64),
    Drop,
    Double,
}

impl How {
    fn apply(self, value: &mut u64) {
        *value = match self {
            Self::Flip(bit) => *value ^ 1 << (bit % 64),
            Self::Add(by) => value.wrapping_add_signed(by),
            Self::Set(to) => to,
            Self::Drop => 0,
            Self::Double => value.wrapping_mul(2),
        }
    }
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        4 => any::<u8>().prop_map(How::Flip),
        2 => (-1024i64..1024).prop_map(How::Add),
        2 => (-8i64..8).prop_map(|by| How::Add(by * PAGE as i64)),
        1 => any::<u64>().prop_map(How::Set),
        1 => Just(How::Drop),
        1 => Just(How::Double),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    (0u8..12, any::<u64>(), any::<u8>(), how()).prop_map(|(what, item, part, how)| Change {
        what,
        item,
        part,
        how,
    })
}

/// Changes one item of a list: a number of it, or whether it is there.
fn edit<T: Clone>(
    list: &mut Vec<T>,
    change: Change,
    number: impl Fn(&mut T, u8) -> Option<&mut u64>,
) {
    if list.is_empty() {
        return;
    }
    let at = usize::try_from(change.item % list.len() as u64).unwrap();
    match (change.part % 16, change.how) {
        (0, How::Drop) => drop(list.remove(at)),
        (0, How::Double) => list.insert(at, list[at].clone()),
        (part, how) => {
            if let Some(number) = number(&mut list[at], part) {
                how.apply(number);
            }
        }
    }
}

/// Applies a change to a field that is narrower than 64 bits.
fn narrow<T: Copy + Into<u64> + TryFrom<u64>>(field: &mut T, how: How) {
    let mut value = (*field).into();
    how.apply(&mut value);
    if let Ok(value) = T::try_from(value) {
        *field = value;
    }
}

fn mutate(snapshot: &mut Snapshot, change: Change) {
    let index = usize::from(change.part);
    match change.what {
        0 | 1 => {
            let used = |raws: &mut Vec<u64>| {
                let used: Vec<usize> = (0..raws.len())
                    .filter(|i| raws[*i] != 0)
                    .chain([index * 2 % raws.len()])
                    .collect();
                used[usize::from(change.part) % used.len()]
            };
            let tables = snapshot.tables.len() as u64;
            let at = usize::try_from(change.item % tables).unwrap();
            let entry = used(&mut snapshot.tables[at].entries);
            change.how.apply(&mut snapshot.tables[at].entries[entry]);
        }
        2 => edit(&mut snapshot.tables, change, |table, _| Some(&mut table.addr)),
        3 | 4 => edit(&mut snapshot.pages, change, |run, part| {
            Some(match part % 5 {
                0 => &mut run.va,
                1 => &mut run.pagemap,
                2 => &mut run.kpageflags,
                3 => &mut run.kpagecount,
                _ => &mut run.count,
            })
        }),
        5 => edit(&mut snapshot.zones, change, |zone, part| {
            Some(if part.is_multiple_of(2) { &mut zone.start_pfn } else { &mut zone.spanned })
        }),
        6 => edit(&mut snapshot.cma, change, |area, part| {
            Some(if part.is_multiple_of(2) { &mut area.start_pfn } else { &mut area.frames })
        }),
        7 => {
            let classes = [FrameClass::Free, FrameClass::Movable, FrameClass::Kernel];
            edit(&mut snapshot.memory, change, |run: &mut FrameRun, part| match part % 3 {
                0 => Some(&mut run.start_pfn),
                1 => Some(&mut run.frames),
                _ => {
                    run.class = classes[index % classes.len()];
                    None
                }
            });
        }
        8 => edit(&mut snapshot.mappings, change, |map, part| {
            match part % 8 {
                0 => return Some(&mut map.start),
                1 => return Some(&mut map.end),
                2 => return Some(&mut map.fs_type),
                3 => return Some(&mut map.offset),
                4 => map.shared ^= true,
                5 => map.writable ^= true,
                6 => map.readable ^= true,
                _ => narrow(&mut map.page_size_kib, change.how),
            }
            None
        }),
        9 => edit(&mut snapshot.verdicts, change, |verdict, part| match part % 3 {
            0 => Some(&mut verdict.start),
            1 => Some(&mut verdict.pages),
            _ => {
                verdict.whole ^= true;
                None
            }
        }),
        // What the kernel calls a mapping: another kind of memory for what is there.
        10 => edit(&mut snapshot.mappings, change, |map, part| {
            let flags = ["dax", "pf", "ht", "mw"];
            map.flags.push(flags[usize::from(part) % flags.len()].into());
            None
        }),
        _ => registers(&mut snapshot.mmu, change),
    }
}

fn registers(mmu: &mut Mmu, change: Change) {
    let how = change.how;
    match mmu {
        Mmu::X86_64 { cr3, levels, phys_bits, no_execute } => match change.part % 4 {
            0 => how.apply(cr3),
            1 => narrow(levels, how),
            2 => narrow(phys_bits, how),
            _ => *no_execute ^= true,
        },
        Mmu::Aarch64 { ttbr0, tcr, pa_bits } => match change.part % 3 {
            0 => how.apply(ttbr0),
            1 => how.apply(tcr),
            _ => narrow(pa_bits, how),
        },
        Mmu::S390x { asce, facilities } => match change.part % 4 {
            0 => *facilities ^= Facilities::from_bits_truncate(change.part >> 2),
            _ => how.apply(asce),
        },
        Mmu::PowerRadix { process } => how.apply(process),
    }
}

/// Uses a machine as a guest would: pins for long and for short, touches, and ends.
fn use_it(snapshot: &Snapshot, replica: &Replica<'_>) {
    let machine = replica.machine();
    Model::new().check(machine).unwrap();
    let engine = Engine::new(machine, machine.frames());
    let words: Vec<Word> = (0..9000).map(|_| Word::new(0)).collect();
    let table = PinTable::new(&words).unwrap();
    for (n, region) in snapshot.regions.iter().enumerate() {
        let pages = PageCount::new(region.pages.min(600));
        let start = VirtAddr::new(region.start);
        let Ok(range) = AddrRange::new(start, pages, machine.ram().base()) else { continue };
        let access = [Access::READ, Access::all()][n % 2];
        let mut request = PinRequest::longterm(range, access);
        if n % 3 == 0 {
            request.flags = PinFlags::empty();
        }
        if engine.pin(replica.space(), &table, &request).is_ok() {
            engine.unpin(&table, Dirtied::All).unwrap();
        }
        let _ =
            machine.touch(replica.space().id(), region.start, 4.min(region.pages), Access::all());
    }
    Model::new().check(machine).unwrap();
    let _ = machine.alloc_contig(0, 512);
    end(machine);
}

fn end(machine: &Machine<'_, AnyFormat>) {
    for space in machine.spaces() {
        machine.drop_space(space.id()).unwrap();
    }
    Model::new().check(machine).unwrap();
}

/// `None`: the file cannot even be read.
fn load_and_use(snapshot: &Snapshot) -> Option<Result<(), ReplicaError>> {
    let snapshot = Snapshot::parse(&snapshot.to_bytes()).ok()?;
    let _ = verdict::compare(&snapshot);
    let layout = match Replica::layout(&snapshot) {
        Ok(layout) => layout,
        Err(error) => return Some(Err(error)),
    };
    let ram = Ram::new(&layout);
    let used = Replica::new(&ram, &snapshot).map(|replica| use_it(&snapshot, &replica));
    if let Err(error) = &used {
        assert!(error.to_string().len() < 160 && !error.to_string().contains('\n'), "{error}");
    }
    Some(used)
}

/// A capture whose kernel was asked for each region.
fn asked(which: usize) -> Snapshot {
    let captures = captures();
    let mut snapshot = Snapshot::parse(&captures[which % captures.len()]).unwrap();
    snapshot.verdicts = snapshot
        .regions
        .iter()
        .zip([false, true].into_iter().cycle())
        .map(|(region, write)| Verdict {
            asker: "gup_test".into(),
            write,
            whole: region.pages > 64,
            start: region.start,
            pages: region.pages,
            errno: 0,
        })
        .collect();
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_snapshot_is_an_error_or_a_sound_machine(
        which in any::<usize>(),
        changes in proptest::collection::vec(change(), 1..4),
    ) {
        let mut snapshot = asked(which);
        for change in changes {
            mutate(&mut snapshot, change);
        }
        let _ = load_and_use(&snapshot);
    }
}
