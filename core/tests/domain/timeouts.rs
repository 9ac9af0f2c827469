//! Flushes that time out, one after the other: nothing is released, and when it is tried again everything is as
//! if nothing had happened.

use pinfold::domain::{PinsError, Stale};
use pinfold::host::FlushError;
use pinfold::table::TableError;
use pinfold::{Dirtied, DomainError, ErrorKind, PageShift, PinRequest, PinTable, UnpinError};
use pinfold_sim::PinHost;
use pinfold_sim::tlb::Asked;

use super::flushes::{attached, made_with};
use super::*;
use crate::pins::{pages, words};

/// The hardware, a domain with it, and pins of 16 pages.
struct Scene<'s> {
    memory: &'s TableMemory,
    journal: &'s Journal,
    hardware: &'s Hardware<'s>,
    devices: &'s [AtsDevice<'s, Vtd>; 2],
    domain: Domain<'s, Vtd>,
    host: &'s PinHost,
    pins: PinTable<'s>,
}

const BYTES: u64 = 16 << 12;

impl<'s> Scene<'s> {
    fn map_pins(&self) -> Result<(), PinsError<'_, 's, Vtd>> {
        self.domain.map_pins(self.memory, iova(0), &self.pins, RW, NONE)
    }

    /// What could not be flushed, if anything.
    fn unmap_pins(&self) -> Option<Stale<'_, 's, Vtd>> {
        let mut runs = Runs::new();
        match self.domain.unmap_pins(self.memory, iova(0), &self.pins, &mut runs) {
            Ok(()) => None,
            Err(PinsError::NotFlushed(stale)) => Some(stale),
            Err(error) => panic!("{error}"),
        }
    }

    /// The pins stay while this is so.
    fn refused(&self, error: TableError) {
        let pins = pinfold::source::HostPins::new(self.host, self.host);
        assert_eq!(pins.unpin(&self.pins, Dirtied::No), Err(UnpinError::Table(error)));
        assert!(self.pins.range().is_some(), "it is live still");
        assert_eq!(self.host.held(), 16);
    }

    fn released(&self) {
        assert_eq!((self.pins.mapped(), self.pins.stale()), (0, 0));
        assert_eq!(self.domain.table().unflushed(), 0);
        let pins = pinfold::source::HostPins::new(self.host, self.host);
        pins.unpin(&self.pins, Dirtied::No).unwrap();
        assert!(self.host.is_clean());
        for at in [0, BYTES - 1].map(iova) {
            assert_eq!(answers(self.hardware, self.devices, at), [blocked(at); 4]);
        }
    }

    fn reached(&self) {
        let found = answers(self.hardware, self.devices, iova(0));
        assert!(found.iter().all(Result::is_ok), "{found:?}");
    }
}

/// Plays a scene with its n-th flush call failing, for every n, until there is none; the scene is told whether one
/// did. `begin` comes before the first.
fn each(
    absent: bool,
    begin: impl Fn(&Scene<'_>),
    play: impl Fn(&mut Scene<'_>, &dyn Fn() -> bool),
) {
    let mut nth = 0;
    loop {
        nth += 1;
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let hardware = Hardware::new(&memory, &journal, absent);
        let devices = hardware.devices();
        let words = words(200);
        let host = PinHost::new(PageShift::SIZE_4K);
        let pins = PinTable::new(&words).unwrap();
        let request = PinRequest::longterm(pages(16), RW);
        pinfold::source::HostPins::new(&host, &host)
            .pin(pinfold::host::SpaceId(0), &pins, &request)
            .unwrap();
        let domain = made_with(&memory, &hardware, &devices);
        let (hardware, devices) = (&hardware, &devices);
        let mut scene = Scene {
            memory: &memory,
            journal: &journal,
            hardware,
            devices,
            domain,
            host: &host,
            pins,
        };
        begin(&scene);
        drop(journal.take());
        journal.fail(nth);
        let late = std::cell::OnceCell::new();
        // From the first time that it is asked for, everybody is in time again.
        let failed = || {
            *late.get_or_init(|| {
                let late = journal.len() >= nth;
                journal.fail(0);
                late
            })
        };
        play(&mut scene, &failed);
        if !failed() {
            assert!(nth > 8, "there are at least eight calls");
            return;
        }
    }
}

#[test]
fn a_mapping_that_could_not_be_announced_is_gone() {
    each(
        true,
        |scene| drop(answers(scene.hardware, scene.devices, iova(0))),
        |scene, failed| {
            let page = [run(0, 0x1000)];
            let mapped = scene.domain.map(scene.memory, iova(0), page, RW, NONE);
            if failed() {
                let range = range(0, 0x1000);
                assert_eq!(mapped, Err(DomainError::NotFlushed { range }));
                let found = answers(scene.hardware, scene.devices, iova(0));
                assert_eq!(found, [blocked(iova(0)); 4]);
                scene.domain.flush(range, Kept::Leaves).unwrap();
                scene.domain.map(scene.memory, iova(0), page, RW, NONE).unwrap();
            }
            scene.reached();
        },
    );
}

#[test]
fn pins_that_could_not_be_announced_are_free_again() {
    each(
        true,
        |scene| drop(answers(scene.hardware, scene.devices, iova(0))),
        |scene, failed| {
            let mapped = scene.map_pins();
            if failed() {
                assert_eq!(mapped.unwrap_err().kind(), ErrorKind::NotFlushed);
                assert_eq!((scene.pins.mapped(), scene.pins.stale()), (0, 0));
                scene.map_pins().unwrap();
            }
            scene.reached();
            scene.refused(TableError::Mapped { bytes: BYTES });
            assert!(scene.unmap_pins().is_none());
            scene.released();
        },
    );
}

#[test]
fn pins_that_could_not_be_flushed_stay_until_they_are() {
    each(
        false,
        |scene| {
            scene.map_pins().unwrap();
            scene.reached();
        },
        |scene, failed| {
            let unmapped = scene.unmap_pins();
            if failed() {
                let stale = unmapped.expect("what was unmapped");
                assert_eq!((scene.pins.mapped(), scene.pins.stale()), (0, BYTES));
                scene.refused(TableError::NotFlushed { bytes: BYTES });
                // A second time in vain changes nothing.
                scene.journal.fail(1);
                let stale = scene.domain.settle(scene.memory, stale).unwrap_err();
                scene.refused(TableError::NotFlushed { bytes: BYTES });
                scene.domain.settle(scene.memory, stale).unwrap();
            }
            scene.released();
        },
    );
}

#[test]
fn memory_that_could_not_be_flushed_is_not_handed_out_and_tables_stay() {
    each(
        false,
        |scene| {
            scene.domain.map(scene.memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
            scene.reached();
        },
        |scene, failed| {
            let mut runs = Runs::new();
            let mut unmap = scene.domain.table().unmap(scene.memory, range(0, HUGE)).unwrap();
            let unmapped = unmap.step(scene.memory, &mut runs).unwrap().unwrap();
            let finished = scene.domain.finish(scene.memory, unmapped);
            let quiesced = if failed() {
                let late = finished.unwrap_err();
                let range = range(0, HUGE);
                assert_eq!(late.error(), DomainError::NotFlushed { range });
                assert_eq!((scene.domain.table().unflushed(), scene.memory.used()), (1, 4));
                scene.domain.finish(scene.memory, late.unmapped).unwrap()
            } else {
                finished.unwrap()
            };
            assert_eq!(quiesced.runs().len(), 1);
            assert_eq!((scene.domain.table().unflushed(), scene.memory.used()), (0, 3));
            assert_eq!(answers(scene.hardware, scene.devices, iova(0)), [blocked(iova(0)); 4]);
        },
    );
}

#[test]
fn a_harvest_and_a_taller_tree_are_flushed_by_the_next_try() {
    each(
        false,
        |scene| {
            scene.domain.map(scene.memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
            scene.domain.start_tracking(scene.memory).unwrap();
            scene.reached();
        },
        |scene, failed| {
            let range = range(0, 0x1000);
            let taken = scene.domain.take_dirty(scene.memory, range, |_| {});
            if failed() {
                assert_eq!(taken, Err(DomainError::NotFlushed { range }));
                scene.domain.flush(range, Kept::Leaves).unwrap();
            }
            scene.reached();
            assert_eq!(scene.domain.take_dirty(scene.memory, range, |_| {}), Ok(0x1000));
        },
    );
    each(
        false,
        |scene| {
            scene.domain.map(scene.memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
            scene.reached();
        },
        |scene, failed| {
            let (memory, last) = (scene.memory, Iova::new(1 << 50));
            let refuses = scene.domain.grow(memory, last, |_, _| Err(FlushError));
            assert_eq!(refuses.unwrap_err().kind(), ErrorKind::NotFlushed);
            scene.reached();
            let iommus = &scene.hardware.iommus;
            let retarget = |format, root| {
                iommus.iter().for_each(|iommu| iommu.enter(format, root));
                Ok(())
            };
            let grown = scene.domain.grow(memory, last, retarget);
            if failed() {
                assert_eq!(grown.unwrap_err().kind(), ErrorKind::NotFlushed);
                scene.reached();
                scene.domain.grow(memory, last, retarget).unwrap();
            }
            scene.reached();
            scene.domain.map(memory, last, [run(0, 0)], RW, NONE).unwrap();
        },
    );
}

#[test]
fn who_could_not_be_flushed_stays_attached() {
    for nth in 1..=2 {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let hardware = Hardware::new(&memory, &journal, false);
        let devices = hardware.devices();
        let (mut domain, ids) = attached(&memory, &hardware, &devices);
        journal.fail(nth);
        let error = domain.detach(ids[3]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFlushed);
        let told = |domain: &Domain<'_, Vtd>| {
            drop(journal.take());
            domain.flush(range(0, 0x1000), Kept::Leaves).unwrap();
            let calls = journal.take();
            calls.contains(&("device 2", Asked::Complete))
        };
        assert!(told(&domain));
        domain.detach(ids[3]).unwrap();
        assert!(!told(&domain));
    }
}

/// What is forgotten instead of being settled is counted, and the pins stay for good.
#[test]
fn a_forgotten_stale_keeps_its_pins_for_ever() {
    each(
        false,
        |scene| scene.map_pins().unwrap(),
        |scene, failed| {
            let unmapped = scene.unmap_pins();
            if failed() {
                let _forgotten = unmapped.expect("what was unmapped");
                for _ in 0..2 {
                    assert_eq!(scene.domain.table().unflushed(), 1);
                    scene.refused(TableError::NotFlushed { bytes: BYTES });
                    scene.domain.flush(range(0, BYTES), Kept::Tables).unwrap();
                }
                // Mapped anew and given back in order, what was forgotten is still missing.
                scene.map_pins().unwrap();
                scene.refused(TableError::Mapped { bytes: BYTES });
                assert!(scene.unmap_pins().is_none());
                scene.refused(TableError::NotFlushed { bytes: BYTES });
            }
        },
    );
}
