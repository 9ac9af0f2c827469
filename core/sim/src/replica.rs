//! A machine that stands where a real kernel stood: made from a [`Snapshot`].
//!
//! Zones, CMA areas, the use of every frame, the process's folios, their sizes, counts and marks,
//! its mappings and its page-table pages are the kernel's; the tables keep their addresses and
//! their contents. From there on it is a [`Machine`] like any other: it faults, copies, migrates
//! and empties ranges, and writes what changes into the captured tables.
//!
//! ```
//! use pinfold_sim::snapshot::Snapshot;
//! use pinfold_sim::{Ram, Replica};
//!
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/snapshots/x86_64-6.1-cma.snap");
//! let snapshot = Snapshot::parse(&std::fs::read(path)?)?;
//! let ram = Ram::new(&Replica::layout(&snapshot)?);
//! let replica = Replica::new(&ram, &snapshot)?;
//!
//! let (guest, _) = snapshot.guest().unwrap();
//! assert!(replica.machine().folio_at(replica.space().id(), guest).is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is taken for what
//!
//! | the snapshot says | the machine has |
//! |---|---|
//! | a page with a count of mappings | an entry of the process for each that its tables show, and one of a second space, which stands for everybody else, for each that they do not |
//! | a page of a file | a reference of that file; files are told apart by name and by their pages |
//! | anonymous, mapped once, not merged | exclusive |
//! | other movable memory | a file of its own, which nobody maps |
//! | an entry that is not present, of a page that is swapped out | such an entry; a touch brings the page back |
//! | flags `pf` or `io` of a mapping | device registers |
//! | flag `dax`, file systems `tmpfs`, `hugetlbfs`, `secretmem` | mappings of these kinds |
//! | any other file | a file that is written back and tracks dirty pages, but for those of `ramfs`, `sysfs` and `proc` |
//! | whole blocks of kernel memory | huge pages, as many as mappings have reserved and not touched |
//! | other kernel memory, reserved or absent frames | frames that somebody holds and nobody can move |
//! | kernel memory in a CMA area or a movable zone | free frames: what cannot be moved is never allocated there, so these were in per-CPU lists |
//!
//! # Its holes
//!
//! Contents of pages are zeroes. What a mapping without access holds is kept, but its entries stay as
//! the kernel wrote them, not present: giving the mapping its access back does not give the pages
//! back. Swapped-out pages come back as zeroes, each for itself, even where two processes had one. Memory that
//! files map directly (DAX) lies outside the zones and has no folios: only its mapping says what it is.

use std::sync::Arc;

use pinfold::{AddressSpace, AnyFormat};

use crate::ZoneKind;
use crate::layout::Layout;
use crate::machine::Machine;
use crate::ram::Ram;
use crate::snapshot::Snapshot;
use crate::zones::Place;

mod build;
mod error;
mod folios;
mod maps;
mod pages;
mod shape;
mod tree;
pub mod verdict;

pub use error::ReplicaError;

/// A [`Machine`] made from a snapshot, and the captured process in it.
#[derive(Debug)]
pub struct Replica<'m> {
    machine: Machine<'m, AnyFormat>,
    space: Arc<AddressSpace<AnyFormat>>,
}

impl<'m> Replica<'m> {
    /// The memory that the snapshot's machine has, to make a [`Ram`] from.
    ///
    /// # Errors
    /// [`ReplicaError`] if zones, CMA areas or page sizes make no machine.
    pub fn layout(snapshot: &Snapshot) -> Result<Layout, ReplicaError> {
        shape::layout(snapshot)
    }

    /// The machine in this memory, as it was when it was stopped.
    ///
    /// # Panics
    /// If the memory was given to a machine before.
    ///
    /// # Errors
    /// [`ReplicaError`] if the snapshot contradicts itself, or `ram` is not of its layout.
    pub fn new(ram: &'m Ram, snapshot: &Snapshot) -> Result<Self, ReplicaError> {
        let layout = shape::layout(snapshot)?;
        if *ram.layout() != layout {
            return Err(ReplicaError::WrongRam);
        }
        let (format, root) = snapshot.format()?;
        let maps = maps::read(snapshot, &format)?;
        let tree = tree::read(snapshot, (format, root), &maps)?;
        let pages = pages::read(snapshot, &layout, &maps, &tree)?;
        let folios = folios::put_together(&maps, &pages, &format)?;
        let machine = Machine::with(ram, format, Place::Zone(ZoneKind::Normal));
        let space = {
            let mut state = machine.state();
            build::Builder::new(&mut state, snapshot, &tree, &pages).build(&maps, folios)?
        };
        Ok(Self { machine, space })
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine<'m, AnyFormat> {
        &self.machine
    }

    /// The captured process's address space.
    #[must_use]
    pub fn space(&self) -> &AddressSpace<AnyFormat> {
        &self.space
    }
}
