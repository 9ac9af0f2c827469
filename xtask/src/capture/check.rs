//! Holds the raw tables against what the kernel says of every page. A capture that does not agree
//! with itself is not written.

use std::collections::BTreeMap;

use pinfold_sim::snapshot::{Mapping, Snapshot};

use super::arch::Unhide;
use super::tables::{Found, Tables};

/// Bit of a `/proc/self/pagemap` word: the page is in a swap area.
const PAGEMAP_SWAPPED: u64 = 1 << 62;

/// What the kernel says of a page.
#[derive(Clone, Copy, Debug)]
enum Said {
    Nothing,
    Swapped,
    Frame(u64),
}

/// At most this many differences are told.
const SHOWN: usize = 5;

/// `unhide` is the architecture's, for pages without access.
pub(super) fn agree(snapshot: &Snapshot, unhide: Unhide) -> Result<(), String> {
    let (format, top) = snapshot.format().map_err(|error| error.to_string())?;
    let entries: BTreeMap<u64, &[u64]> =
        snapshot.tables.iter().map(|table| (table.addr, table.entries.as_slice())).collect();
    let tables = Tables { format, top, entries, unhide };
    let mut wrong = Vec::new();
    let mut compared = 0u64;
    for run in &snapshot.pages {
        for page in 0..run.count {
            let va = run.va + (page << snapshot.base_shift);
            let said = match run.frame() {
                Some(frame) => Said::Frame(frame + page),
                None if run.pagemap & PAGEMAP_SWAPPED != 0 => Said::Swapped,
                None => Said::Nothing,
            };
            let found = tables.find(va)?;
            let mapping = snapshot.mappings.iter().find(|m| m.start <= va && va < m.end);
            if !mapping.is_some_and(|mapping| explained(found, said, mapping)) {
                wrong.push(format!("{va:#x}: kernel says {said:x?}, tables {found:x?}"));
            }
            compared += 1;
        }
    }
    if wrong.is_empty() {
        println!("checked   {compared} pages: tables and kernel agree");
        return Ok(());
    }
    let count = wrong.len();
    wrong.truncate(SHOWN);
    Err(format!("tables and kernel differ on {count} of {compared} pages:\n{}", wrong.join("\n")))
}

/// Whether the tables may look like that where the kernel says so.
fn explained(found: Found, said: Said, mapping: &Mapping) -> bool {
    let no_access = !mapping.readable && !mapping.writable && !mapping.executable;
    match (found, said) {
        (Found::Empty, Said::Nothing) => true,
        (Found::Frame(frame), Said::Frame(said)) => frame == said,
        (Found::Hidden(frame), Said::Frame(said)) => no_access && frame == Some(said),
        // The entry says where in the swap area.
        (Found::Hidden(_), Said::Swapped) => true,
        // Device memory has no frame in the kernel's books.
        (Found::Frame(_), Said::Nothing) => mapping.flags.iter().any(|flag| flag == "pf"),
        _ => false,
    }
}
