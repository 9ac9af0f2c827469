//! Pins, and pauses that say stop: each call is in bounded steps, and what is mapped can always be taken out.

use pinfold::host::{PlainHost, SpaceId};
use pinfold::source::HostPins;
use pinfold::sync::Word;
use pinfold::{Dirtied, PinRequest, PinTable};

use super::pins::{Source, pages, words};
use super::*;

const STEP: u64 = 64;

/// So many pages, each in a word of its own: they lie otherwise than their addresses.
fn pinned<'w>(source: &Source, words: &'w [Word], many: u64) -> PinTable<'w> {
    let pins = PinTable::new(words).unwrap();
    let request = PinRequest::longterm(pages(many), RW);
    HostPins::new(PlainHost, source).pin(SpaceId(0), &pins, &request).unwrap();
    pins
}

fn unpin(source: &Source, pins: &PinTable<'_>) {
    HostPins::new(PlainHost, source).unpin(pins, Dirtied::No).unwrap();
}

/// Words of a table of pins are handled in steps, too.
#[test]
fn pins_are_mapped_in_bounded_steps() {
    const PAGES: u64 = 1 << 14;
    let memory = TableMemory::new(4 << 20);
    memory.set_step(STEP);
    let (words, source) = (words(20_000), Source::new(&[(0x8_0001, PAGES)]));
    let pins = pinned(&source, &words, PAGES);
    let domain = made(&memory);
    // Large leaves on the other side: it is the words that are many.
    let at = iova(0x1000);
    domain.map_pins(&memory, at, &pins, RW, NONE).unwrap();
    assert!(domain.table().translate(&memory, iova(HUGE)).unwrap().unwrap().shift.bytes() == HUGE);
    let mapping = memory.pauses();
    assert!(mapping >= PAGES / STEP, "{mapping}");
    domain.unmap_pins(&memory, at, &pins, &mut Runs::new()).unwrap();
    let unmapping = memory.pauses() - mapping;
    assert!(unmapping >= PAGES / STEP, "{unmapping}");
    unpin(&source, &pins);
}

/// Who is to be killed lets go of all.
#[test]
fn pins_come_out_though_every_pause_says_stop() {
    let memory = TableMemory::new(4 << 20);
    memory.set_step(STEP);
    let (words, source) = (words(2000), Source::new(&[(0x8_0001, 512)]));
    let pins = pinned(&source, &words, 512);
    let domain = made(&memory);
    domain.map_pins(&memory, iova(0), &pins, RW, NONE).unwrap();
    memory.stop_after(0);
    domain.unmap_pins(&memory, iova(0), &pins, &mut Runs::new()).unwrap();
    assert_eq!((pins.mapped(), pins.stale()), (0, 0));
    // There is nothing left to do.
    domain.unmap_pins(&memory, iova(0), &pins, &mut Runs::new()).unwrap();
    unpin(&source, &pins);
}
