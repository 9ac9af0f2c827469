//! `cargo xtask capture`: boots a kernel under QEMU with a process of ours as init, stops the
//! machine, and writes that process's page tables and what the kernel said about its pages. Then
//! the machine goes on, and the kernel's answers to long-term pins of those pages are added: pins
//! change what was captured, so they come last.
//!
//! `arch` is what differs between machines. `kernel` and `debian` find and fetch kernels, `machine`
//! runs QEMU and `gdb` talks to it, `initramfs` builds what it boots into, `modules` and `disk` are
//! what the kernel finds there, `report` reads what init printed, `tables` collects the tables,
//! `check` holds both against each other.

pub(crate) mod arch;
mod check;
mod debian;
mod disk;
mod frames;
mod gdb;
mod initramfs;
pub(crate) mod kernel;
mod machine;
mod modules;
mod options;
mod procfs;
mod report;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pinfold_arch::PageFormat;
use pinfold_sim::snapshot::{FrameRange, PAGEMAP_FRAME, Snapshot, Verdict};

use crate::command::root;
use arch::Arch;
use machine::Machine;
use modules::Module;
use options::Options;
use report::Report;

/// Runs the command; the error is one line for the user.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let Some(options) = Options::read(args)? else {
        print!("{}", options::HELP);
        return Ok(());
    };
    let begin = Instant::now();
    let kernel = kernel(&options)?;
    println!("kernel    {}", kernel.display());
    let Some(out) = &options.out else { return Ok(()) };
    let work = root().join("target/capture").join(options.arch.name);
    fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let modules = modules(&options, &kernel)?;
    let initramfs = initramfs::build(&work, options.arch, &modules)?;
    let with_disk = disk::make(&work)?;
    let mut machine = Machine::start(&options, &kernel, &initramfs, with_disk, &work)?;
    machine.wait_for(report::READY, "booting")?;
    let mut snapshot = snapshot(&mut machine, options.arch)?;
    check::agree(&snapshot, options.arch.unhide)?;
    snapshot.verdicts = ask(&mut machine)?;
    let bytes = snapshot.to_bytes();
    if Snapshot::parse(&bytes).as_ref() != Ok(&snapshot) {
        return Err("the file that would be written does not read back as the same".into());
    }
    fs::write(out, &bytes).map_err(|error| format!("{out}: {error}"))?;
    describe(&snapshot);
    let seconds = begin.elapsed().as_secs_f32();
    println!("{out}: {} bytes in {seconds:.1} s", bytes.len());
    Ok(())
}

/// Where the kernels of an architecture are unpacked.
pub(crate) fn kernels(arch: &Arch) -> PathBuf {
    root().join("target/kernels").join(arch.name)
}

/// The newest kernel at hand that no committed snapshot is of: one that was unpacked, or else one of
/// Debian's. Without either, the newest at hand.
pub(crate) fn other_kernel(arch: &Arch) -> Result<PathBuf, String> {
    let committed = committed()?;
    let kernels = kernels(arch);
    let mut unpacked = kernel::unpacked(&kernels);
    let other = unpacked.iter().rev().find(|image| !committed.contains(&kernel::release(image)));
    if let Some(other) = other {
        return Ok(other.clone());
    }
    match (debian::fetch_other(&kernels, arch, &committed), unpacked.pop()) {
        (Ok(Some(image)), _) => Ok(image),
        (_, Some(newest)) => {
            println!("note      a committed snapshot is of each kernel that can be had");
            Ok(newest)
        }
        (Err(why), None) => Err(why),
        (Ok(None), None) => debian::fetch(&kernels, arch, "", None),
    }
}

/// The releases that committed snapshots are of.
fn committed() -> Result<Vec<String>, String> {
    let directory = root().join("core/tests/snapshots");
    let failed = |error| format!("{}: {error}", directory.display());
    let mut releases = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|end| end == "snap") {
            let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let snapshot =
                Snapshot::parse(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
            releases.push(snapshot.kernel);
        }
    }
    Ok(releases)
}

fn kernel(options: &Options) -> Result<PathBuf, String> {
    if let Some(path) = &options.kernel {
        return fs::canonicalize(path).map_err(|error| format!("{path}: {error}"));
    }
    let kernels = kernels(options.arch);
    if let Some(version) = &options.fetch {
        return debian::fetch(&kernels, options.arch, version, options.flavour.as_deref());
    }
    let newest = kernel::unpacked(&kernels).pop();
    newest.ok_or(format!(
        "no Debian kernel in {} (--fetch downloads one, --kernel names one)",
        kernels.display()
    ))
}

fn modules(options: &Options, kernel: &Path) -> Result<Vec<Module>, String> {
    let directory = options.modules.as_ref().map(PathBuf::from).or_else(|| kernel::modules(kernel));
    let Some(directory) = directory else {
        println!("modules   none: what is not built in is left out");
        return Ok(Vec::new());
    };
    let modules = modules::load(&directory)?;
    println!("modules   {} from {}", modules.len(), directory.display());
    Ok(modules)
}

/// Lets init ask, after all else is captured. What was answered until something went wrong counts:
/// the rest of the snapshot is good.
fn ask(machine: &mut Machine) -> Result<Vec<Verdict>, String> {
    let go = Report::read(&machine.output()?)?.go;
    let told = machine.gdb.set_word(go).and_then(|()| machine.gdb.go_on());
    let asked = told.and_then(|()| machine.wait_for(report::DONE, "asking"));
    if let Err(why) = asked {
        println!("warning   not all was asked: {why}");
    }
    let report = Report::read(&machine.output()?)?;
    for warning in report.warnings_after_ready() {
        println!("warning   init: {warning}");
    }
    for complaint in report.complaints() {
        println!("warning   kernel: {complaint}");
    }
    Ok(report.verdicts)
}

/// Everything about the stopped machine and its one process.
fn snapshot(machine: &mut Machine, arch: &Arch) -> Result<Snapshot, String> {
    machine.stop()?;
    let report = Report::read(&machine.output()?)?;
    for warning in &report.warnings {
        println!("warning   init: {warning}");
    }
    let base_shift = report.base_shift()?;
    let file = |name| report.file(name);
    let zones = procfs::zones(file("zoneinfo")?)?;
    let memory = frames::classes(&report.frames, &report.pages);
    let mut snapshot = Snapshot {
        kernel: file("release")?.trim().to_owned(),
        command_line: file("cmdline")?.trim().to_owned(),
        mmu: (arch.mmu)(&mut machine.gdb, &report)?,
        base_shift,
        tables: Vec::new(),
        mappings: procfs::mappings(file("smaps")?, &report.files_mapped)?,
        cma: procfs::cma(file("kmsg")?, base_shift)?,
        ram: procfs::ram(file("iomem")?, base_shift)?,
        regions: report.regions,
        pages: report.pages,
        zones,
        memory,
        verdicts: Vec::new(),
    };
    let (format, top) = snapshot.format().map_err(|error| error.to_string())?;
    let read = |addr, bytes| machine.gdb.read_physical(addr, bytes);
    snapshot.tables = tables::collect(&format, top, read)?;
    println!("tables    {} of {}", snapshot.tables.len(), format.name());
    Ok(snapshot)
}

/// Prints, for each region, how many pages lie where.
fn describe(snapshot: &Snapshot) {
    println!("{:22}{:>9}{:>9}{:>9}{:>9}", "region", "none", "ordinary", "movable", "CMA");
    for region in &snapshot.regions {
        let end = region.start + (region.pages << snapshot.base_shift);
        let mut counts = [0u64; 4];
        for run in &snapshot.pages {
            for page in 0..run.count {
                let va = run.va + (page << snapshot.base_shift);
                if va >= region.start && va < end {
                    counts[kind(
                        snapshot,
                        run.frame().map(|frame| (frame + page) & PAGEMAP_FRAME),
                    )] += 1;
                }
            }
        }
        let [none, ordinary, movable, cma] = counts;
        println!("{:22}{none:>9}{ordinary:>9}{movable:>9}{cma:>9}", region.name);
    }
    let refused = snapshot.verdicts.iter().filter(|verdict| verdict.errno != 0).count();
    println!("verdicts  {}, {refused} of them refusals", snapshot.verdicts.len());
    if snapshot.cma.is_empty() {
        println!("note      this kernel has no area of the contiguous allocator (CMA)");
    }
}

fn kind(snapshot: &Snapshot, frame: Option<u64>) -> usize {
    let Some(frame) = frame else { return 0 };
    let inside = |start: u64, frames: u64| frame >= start && frame - start < frames;
    let in_cma = |area: &FrameRange| inside(area.start_pfn, area.frames);
    if snapshot.cma.iter().any(in_cma) {
        return 3;
    }
    let movable = snapshot.zones.iter().filter(|zone| zone.name == "Movable");
    if movable.into_iter().any(|zone| inside(zone.start_pfn, zone.spanned)) { 2 } else { 1 }
}
