//! Whatever is done, stopped, late or out of memory: when it is done, everybody finds what the tables say.

use pinfold::{DomainError, PageShift};
use pinfold_arch::{AmdVi, AnyIoFormat, Granule, IoFormat, Smmu, Tce, Zpci};

use super::*;

/// Numbers that look like chance, the same in every run (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<const N: usize>(&mut self, all: [u64; N]) -> u64 {
        all[usize::try_from(self.below(N as u64)).unwrap()]
    }
}

fn formats() -> [AnyIoFormat; 8] {
    let shift = |raw| PageShift::new(raw).unwrap();
    let smmu = Smmu::stage1(Granule::Size4K, 39, 44).unwrap();
    [
        Tce::new(shift(12), shift(36), 3).unwrap().into(),
        Vtd::new(4, 46).unwrap().into(),
        AmdVi::new(3).unwrap().into(),
        AmdVi::new(6).unwrap().into(),
        Zpci::new(3).unwrap().into(),
        smmu.into(),
        smmu.with_marks(true).unwrap().with_bbml2(true).into(),
        Smmu::stage2(Granule::Size16K, 40, 44).unwrap().into(),
    ]
}

/// How many units of addresses are played with.
const UNITS: u64 = 600;
const READ: Access = Access::READ;

struct Play<'d> {
    chance: Chance,
    unit: u64,
    memory: &'d TableMemory,
    journal: &'d Journal,
    domain: Domain<'d, AnyIoFormat>,
}

impl Play<'_> {
    fn at(&mut self) -> Iova {
        Iova::new(self.chance.below(UNITS) * self.unit)
    }

    fn range(&mut self) -> IovaRange {
        let units = 1 + self.chance.below(UNITS);
        IovaRange::new(self.at(), units * self.unit).unwrap()
    }

    fn runs(&mut self) -> [IoRun; 2] {
        [(); 2].map(|()| IoRun {
            addr: PhysAddr::new((1 << 36) + self.chance.below(700) * self.unit),
            bytes: (1 + self.chance.below(40)) * self.unit,
        })
    }

    /// Now and then the next operation is stopped, without memory, or somebody is late.
    fn disturb(&mut self) {
        let chance = &mut self.chance;
        let (stop, fail) = (chance.below(5), chance.below(3));
        self.memory.stop_after(if chance.one_in(8) { stop } else { u64::MAX });
        self.memory.fail_after(if chance.one_in(6) { fail } else { u64::MAX });
        self.journal.fail(if chance.one_in(6) { 1 + chance.below(4) } else { 0 });
    }

    fn operate(&mut self) {
        match self.chance.below(6) {
            0 | 1 => {
                let (at, runs) = (self.at(), self.runs());
                let mapped = self.domain.map(self.memory, at, runs, READ, NONE);
                if let Err(DomainError::NotFlushed { range }) = mapped {
                    while self.domain.flush(range, Kept::Leaves).is_err() {}
                }
            }
            2 => {
                let range = self.range();
                let Ok(mut unmap) = self.domain.table().unmap(self.memory, range) else { return };
                let mut runs = Buffer::<UnmappedRun, 4>::new();
                while let Some(mut old) = unmap.step(self.memory, &mut runs).unwrap() {
                    while let Err(late) = self.domain.finish(self.memory, old) {
                        old = late.unmapped;
                    }
                }
            }
            3 => {
                let (at, runs, gives_up) = (self.at(), self.runs(), self.chance.one_in(2));
                let replace = self.domain.table().replace(self.memory, at, runs, READ, NONE);
                let Ok(mut replace) = replace else { return };
                let mut runs = Buffer::<UnmappedRun, 4>::new();
                loop {
                    match replace.step(self.memory, &mut runs) {
                        Ok(None) => break,
                        Ok(Some(mut old)) => {
                            while let Err(late) = self.domain.finish(self.memory, old) {
                                old = late.unmapped;
                            }
                        }
                        Err(_) if gives_up => break,
                        Err(_) => self.memory.fail_after(u64::MAX),
                    }
                }
            }
            4 => {
                let range = self.range();
                let _ = self.domain.table().split(self.memory, range);
            }
            _ => {
                let _ = self.domain.trim(self.memory);
            }
        }
    }
}

fn play(format: AnyIoFormat, absent: bool, seed: u64) {
    let (memory, journal) = (TableMemory::new(64 << 20), Journal::new());
    let iommu = Iommu::new("iommu", &memory, &journal);
    let iommu = if absent { iommu.keeping_absent() } else { iommu };
    let device = AtsDevice::new("device", &iommu);
    let mut domain: Domain<'_, AnyIoFormat> =
        Domain::new(IoPageTable::new(format, &memory).unwrap());
    domain.attach_iommu(&iommu).unwrap();
    domain.attach_device(&device).unwrap();
    iommu.enter(domain.table().format(), domain.table().root());
    let mut chance = Chance(0x9e37_79b9 * seed + 1);
    memory.set_step(chance.of([1, 5, 64, 4096]));
    let unit = format.base().bytes() << chance.of([0, 4, 8]);
    let mut play = Play { chance, unit, memory: &memory, journal: &journal, domain };
    for operation in 0..20 {
        for _ in 0..20 {
            let at = play.at();
            let _ = if play.chance.one_in(2) {
                iommu.access(at, false)
            } else {
                device.access(at, false)
            };
        }
        play.disturb();
        play.operate();
        memory.stop_after(u64::MAX);
        memory.fail_after(u64::MAX);
        journal.fail(0);
        for _ in 0..60 {
            let at = play.at();
            let told = play.domain.table().translate(&memory, at).unwrap();
            let told = told.map_or(blocked(at), |told| Ok(told.addr));
            let found = [iommu.access(at, false), device.access(at, false)];
            let name = format.name();
            assert_eq!(found, [told; 2], "{name}, {absent}, {seed}, {operation}, {at}");
        }
    }
}

#[test]
fn everybody_finds_what_the_tables_say() {
    for format in formats() {
        for seed in 1..=4 {
            play(format, seed % 2 == 0, seed);
        }
    }
}
