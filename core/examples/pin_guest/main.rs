//! The main job: a guest gets a device, so all of its memory is pinned for long.
//!
//! Parts of it lie in a CMA area that the host keeps for others, in a zone that must stay
//! unpluggable, on persistent memory that belongs to a file: they have to move first, or be
//! refused. This shows what there was, what would happen without a policy, what pinfold does, and
//! that everything comes back in the end. The guest is one of a real kernel, or built in memory.
//!
//! `cargo run --release --example pin_guest`, with `--help` for options.

mod capture;
mod host;
mod hostile;
mod options;
mod output;
mod picture;
mod scenario;
mod scene;
mod stage;
mod story;
mod survey;
mod svg;
mod verdicts;
mod without;

use std::path::Path;
use std::process::ExitCode;

use pinfold::table::PinTable;
use pinfold_sim::Ram;

use options::{Command, From};
use output::Output;
use scene::{Asked, Fallible};
use stage::Source;
use survey::{Fate, Survey};

fn main() -> ExitCode {
    let text = match options::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => options::usage(),
        Ok(Command::List) => options::list(),
        Ok(Command::Run { from, svg }) => match run(&from, svg.as_deref()) {
            Ok(true) => return ExitCode::SUCCESS,
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => {
                eprintln!("pin_guest: {error}");
                return ExitCode::FAILURE;
            }
        },
        Err(error) => {
            eprintln!("pin_guest: {error}\n\n{}", options::usage());
            return ExitCode::from(2);
        }
    };
    print!("{text}");
    ExitCode::SUCCESS
}

/// Tells the whole story. Returns whether every check holds.
fn run(from: &From, svg: Option<&Path>) -> Fallible<bool> {
    let source = Source::open(from)?;
    let ram = Ram::new(&source.layout()?);
    let stage = source.stage(&ram)?;
    let machine = stage.machine();
    let mut report = Output::new();
    let out = &mut report;

    story::origin(out, &source, &stage);
    let before = scene::pages(&stage);
    let free = machine.free_frames().raw();
    out.section("Physical memory before");
    picture::draw(out, machine, &scene::own(&before), None);
    let memory_before = picture::memory(machine, &scene::own(&before), None, svg::COLUMNS);
    without::before(out, &source)?;
    let walked = story::walk(out, &source, &stage, &before)?;
    if source.lies() {
        source.rehearse(|stage| hostile::tell(out, stage))?;
    }
    if stage.refused().next().is_some() {
        source.rehearse(|stage| story::refusals(out, stage))?;
    }

    let ranges = stage.pinnable()?;
    let words = ranges.iter().map(scene::words).collect::<Fallible<Vec<_>>>()?;
    let tables = words.iter().map(|words| PinTable::new(words)).collect::<Result<Vec<_>, _>>()?;
    let asked: Vec<Asked<'_>> = ranges.into_iter().zip(tables).collect();
    story::pin(out, &stage, &asked, &before)?;
    let pinned = scene::pinnable(&stage, scene::pages(&stage));
    let survey = Survey::new(&stage, &before, &pinned);
    survey.print(out);
    story::look_up(out, &stage, &asked, &pinned, &before)?;
    let left = machine.free_frames().raw();
    story::other_regions(out, &stage)?;
    let others = left - machine.free_frames().raw();
    let hpt = without::after(out, &source, &stage)?;
    out.section("Physical memory after");
    // What must not be pinned may have moved again.
    let own = scene::own(&scene::pages(&stage));
    picture::draw(out, machine, &own, hpt.as_ref());
    let memory_after = picture::memory(machine, &own, hpt.as_ref(), svg::COLUMNS);
    if let Some(range) = hpt {
        out.check("the HPT is given back", machine.free_contig(&range));
    }
    if let Some(file) = svg {
        let drawing = svg::Drawing {
            title: &source.title(),
            parts: &stage.parts,
            survey: &survey,
            asked: &asked,
            before: &memory_before,
            after: &memory_after,
        };
        std::fs::write(file, drawing.svg())
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        out.line(format!("  drawn in {}", output::plain(&file.to_string_lossy())));
    }

    story::unpin(out, &stage, &asked)?;
    let after = scene::pages(&stage);
    story::compare(out, &stage, &before, &after);
    let copied = survey.pages(Fate::Copied);
    let made = scene::own(&after).len() as u64 + copied - scene::own(&before).len() as u64;
    let tables = scene::walk(&stage)?.tables - walked.tables;
    story::recount(out, machine, free, [made, tables, others]);
    if let Source::Captured(snapshot, _) = &source {
        verdicts::check(out, snapshot)?;
    }
    Ok(report.verdict()?)
}
