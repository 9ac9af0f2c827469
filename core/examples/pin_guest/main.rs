//! The main job, on the memory of a guest as a real kernel had it.
//!
//! A guest gets a device, so all of its memory is pinned for long. Parts of it lie in a CMA area
//! that the host keeps for the hash page tables of guests, and in a zone that must stay
//! unpluggable: they have to move first. This shows what the kernel had, what would happen without
//! that, what pinfold does, and that everything comes back in the end.
//!
//! `cargo run --release --example pin_guest`, with `--help` for options.

mod host;
mod options;
mod output;
mod picture;
mod scene;
mod story;
mod verdicts;

use std::path::Path;
use std::process::ExitCode;

use pinfold::table::PinTable;
use pinfold_sim::{Ram, Replica};

use options::{Asked, USAGE};
use output::Output;
use scene::Fallible;

fn main() -> ExitCode {
    match options::parse(std::env::args_os().skip(1)) {
        Ok(Asked::Help) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Asked::Run(file)) => match run(&file) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("pin_guest: {error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("pin_guest: {error}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Tells the whole story. Returns whether every check holds.
fn run(file: &Path) -> Fallible<bool> {
    let (snapshot, overlay) = scene::load(file)?;
    let guest = scene::guest(&snapshot)?;
    let ram = Ram::new(&Replica::layout(&snapshot)?);
    let replica = Replica::new(&ram, &snapshot)?;
    let machine = replica.machine();
    let mut report = Output::new();
    let out = &mut report;

    story::origin(out, &snapshot, &guest, overlay);
    let before = scene::pages(&replica, &guest);
    let free = machine.free_frames().raw();
    out.section("Physical memory before");
    picture::draw(out, machine, &scene::own(&before), None);
    story::without_policy(out, &snapshot, &guest)?;
    let walked = story::walk(out, &snapshot, &replica, &guest)?;

    let words = scene::words(&guest)?;
    let table = PinTable::new(&words)?;
    story::pin(out, &snapshot, &replica, &table, &guest, &before)?;
    let pinned = scene::pages(&replica, &guest);
    story::look_up(out, &snapshot, &table, &pinned, &before)?;
    let left = machine.free_frames().raw();
    story::other_regions(out, &snapshot, &replica)?;
    let others = left - machine.free_frames().raw();
    let hpt = story::allocate_at_last(out, machine);
    out.section("Physical memory after");
    picture::draw(out, machine, &scene::own(&pinned), hpt.as_ref());
    if let Some(range) = hpt {
        out.check("the HPT is given back", machine.free_contig(&range));
    }

    story::unpin(out, machine, &table)?;
    let after = scene::pages(&replica, &guest);
    story::compare(out, &before, &after);
    let made = scene::own(&after).len() - scene::own(&before).len();
    let tables = scene::walk(&replica, &guest)?.tables - walked.tables;
    story::recount(out, machine, free, [made as u64, tables, others]);
    verdicts::check(out, &snapshot)?;
    Ok(report.verdict()?)
}
