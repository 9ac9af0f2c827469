//! A space whose entries count as they are read.
//!
//! Between the moment a walker reads an entry and the moment the frame behind it is counted the
//! engine calls nobody but the page-table format. So a format does what is scheduled for
//! [`HostCall::Entry`]: that is where an unmap, a move or a fork hurts most.

use std::cell::{Cell, OnceCell};
use std::fmt;

use pinfold::{AddrRange, AddressSpace, PageFormat, PageShift, Table};
use pinfold_arch::{EncodeError, Entry};

use crate::format::TableFormat;
use crate::inject::HostCall;
use crate::machine::Machine;

/// A format that calls somebody for each entry that is read.
#[derive(Clone, Copy)]
pub struct Watched<'a, F> {
    format: F,
    each: &'a dyn Fn(),
}

impl<F: fmt::Debug> fmt::Debug for Watched<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.format).finish()
    }
}

impl<F: PageFormat> PageFormat for Watched<'_, F> {
    fn name(&self) -> &'static str {
        self.format.name()
    }
    fn big_endian(&self) -> bool {
        self.format.big_endian()
    }
    fn base(&self) -> PageShift {
        self.format.base()
    }
    fn valid(&self, range: &AddrRange) -> bool {
        self.format.valid(range)
    }
    // `address_bits` is left at 0: an entry that is not decoded would not be noticed.
    fn decode(&self, at: &Table, raw: u64) -> Entry {
        (self.each)();
        self.format.decode(at, raw)
    }
    fn encode(&self, at: &Table, entry: Entry) -> Result<u64, EncodeError> {
        self.format.encode(at, entry)
    }
    fn volatile_bits(&self) -> u64 {
        self.format.volatile_bits()
    }
}

impl<F: TableFormat> Machine<'_, F> {
    /// Runs `work` with another view of a space, in which each entry that is read is a
    /// [`HostCall::Entry`]. The view has sequences of its own; they follow those of the space before
    /// anybody who reads an entry can go on.
    pub fn watching<R>(
        &self,
        space: &AddressSpace<F>,
        work: impl FnOnce(&AddressSpace<Watched<'_, F>>) -> R,
    ) -> R {
        let view = OnceCell::new();
        let seen = Cell::new((space.sequence(), space.fork_sequence()));
        let each = || {
            self.injector.call(self, HostCall::Entry);
            let now = (space.sequence(), space.fork_sequence());
            let before = seen.replace(now);
            if let Some(&view) = view.get() {
                follow(view, before.0 != now.0, before.1 != now.1);
            }
        };
        let format = Watched { format: space.format(), each: &each };
        let watched = AddressSpace::new(space.id(), format, space.root());
        let _ = view.set(&watched);
        work(&watched)
    }
}

fn follow<F: PageFormat>(view: &AddressSpace<F>, changed: bool, forked: bool) {
    if changed {
        view.invalidate_start();
        view.invalidate_end();
    }
    if forked {
        view.fork_start();
        view.fork_end();
    }
}
