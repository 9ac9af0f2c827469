//! One pin table: two callers, and readers while it is given back and filled anew.

use std::sync::Arc;

use loom::thread;
use pinfold::host::{PlainHost, SpaceId};
use pinfold::source::HostPins;
use pinfold::sync::Word;
use pinfold::table::TooHard;
use pinfold::table::layout::HEADER_WORDS;
use pinfold::{Dirtied, PinTable};

use super::model;
use super::source::{Source, frame, request, va};

type Shared = (Vec<Word>, Source);

fn shared() -> Arc<Shared> {
    Arc::new(((0..HEADER_WORDS + 2).map(|_| Word::new(0)).collect(), Source::default()))
}

/// Of two who give a table back one does; if it is filled anew before the other comes, that one
/// gives back what it holds by then, not what it held.
#[test]
fn what_is_given_back_is_what_the_table_holds_by_then() {
    model(2, || {
        let shared = shared();
        let (words, source) = &*shared;
        let table = PinTable::new(words).unwrap();
        let pins = HostPins::new(PlainHost, source);
        pins.pin(SpaceId(0), &table, &request(0, 1)).unwrap();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (words, source) = &*shared;
                let table = PinTable::open(words).unwrap();
                let given = HostPins::new(PlainHost, source).unpin(&table, Dirtied::No);
                given.map_or(0, |given| given.pages.raw())
            })
        };
        let mut given = pins.unpin(&table, Dirtied::No).map_or(0, |given| given.pages.raw());
        let again = pins.pin(SpaceId(0), &table, &request(5, 3)).is_ok();
        given += other.join().unwrap();
        given += pins.unpin(&table, Dirtied::No).map_or(0, |given| given.pages.raw());
        assert_eq!(given, if again { 4 } else { 1 });
        assert_eq!(source.pinned(), [], "pages stay pinned");
    });
}

/// What a reader is told while the table is filled for the first time, given back, and filled with
/// another range: nothing, or what one of the fillings says; never a frame number that is not an
/// address yet, nor the one filling's word by the other's geometry.
#[test]
fn a_look_up_answers_for_one_filling() {
    model(3, || {
        let shared = shared();
        let (words, source) = &*shared;
        let table = PinTable::new(words).unwrap();
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || PinTable::open(&shared.0).unwrap().lookup(va(1)))
        };
        let pins = HostPins::new(PlainHost, source);
        pins.pin(SpaceId(0), &table, &request(0, 2)).unwrap();
        pins.unpin(&table, Dirtied::No).unwrap();
        pins.pin(SpaceId(0), &table, &request(1, 2)).unwrap();
        let found = reader.join().unwrap();
        let right = [Err(TooHard), Ok(frame(1, 1)), Ok(frame(2, 1))];
        assert!(right.contains(&found), "{found:x?} is neither of them");
    });
}
