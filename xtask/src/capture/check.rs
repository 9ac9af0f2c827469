//! Holds the raw tables against what the kernel says of every page. A capture that does not agree
//! with itself is not written.

use std::collections::BTreeMap;

use pinfold_sim::snapshot::{Mapping, Snapshot};

use super::tables::{Found, find};

/// At most this many differences are told.
const SHOWN: usize = 5;

pub(super) fn agree(snapshot: &Snapshot) -> Result<(), String> {
    let tables: BTreeMap<u64, &[u64]> =
        snapshot.tables.iter().map(|table| (table.addr, table.entries.as_slice())).collect();
    let mut wrong = Vec::new();
    let mut compared = 0u64;
    for run in &snapshot.pages {
        for page in 0..run.count {
            let va = run.va + (page << snapshot.base_shift);
            let said = run.frame().map(|frame| frame + page);
            let found = find(&tables, snapshot.root, snapshot.levels, va)?;
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
fn explained(found: Found, said: Option<u64>, mapping: &Mapping) -> bool {
    let no_access = !mapping.readable && !mapping.writable && !mapping.executable;
    match (found, said) {
        (Found::Empty, None) => true,
        (Found::Frame(frame), Some(said)) => frame == said,
        (Found::Hidden(frame), Some(said)) => no_access && frame == said,
        // Device memory has no frame in the kernel's books.
        (Found::Frame(_), None) => mapping.flags.iter().any(|flag| flag == "pf"),
        (Found::Empty, Some(_)) | (Found::Hidden(_), None) => false,
    }
}
