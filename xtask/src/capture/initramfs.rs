//! What the kernel boots into: the files of `xtask/capture`, compiled, and the modules for them to
//! load, in a cpio archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::arch::Arch;
use super::kernel::missing;
use super::modules::Module;
use crate::command::root;

const FLAGS: [&str; 11] = [
    "-O1",
    "-Wall",
    "-Wextra",
    "-static",
    "-nostdlib",
    "-ffreestanding",
    "-fno-pie",
    "-no-pie",
    "-fno-stack-protector",
    "-fno-builtin",
    "-Wl,--build-id=none",
];

const SOURCES: &str = "xtask/capture";
/// Names the modules, in their order, one in a line.
const LIST: &str = "modules";

/// Compiles init and packs it; returns the archive's path in `work`.
pub(super) fn build(work: &Path, arch: &Arch, modules: &[Module]) -> Result<PathBuf, String> {
    let (compiler, package) = arch.compiler();
    let init = work.join("init");
    let status = Command::new(compiler)
        .args(FLAGS)
        .args(arch.flags)
        .arg("-o")
        .arg(&init)
        .args(sources()?)
        .status()
        .map_err(|error| missing(compiler, package, &error))?;
    if !status.success() {
        return Err(format!("{compiler} did not compile {SOURCES}: {status}"));
    }
    let program = fs::read(&init).map_err(|error| format!("{}: {error}", init.display()))?;
    let mut archive = Vec::new();
    entry(&mut archive, "init", 0o100_755, &program);
    let files = modules.iter().map(|module| (format!("{}.ko", module.name), &module.code));
    let mut list = String::new();
    for (name, code) in files {
        entry(&mut archive, &name, 0o100_644, code);
        list.push_str(&name);
        list.push('\n');
    }
    entry(&mut archive, LIST, 0o100_644, list.as_bytes());
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    let path = work.join("initramfs.cpio");
    fs::write(&path, archive).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

fn sources() -> Result<Vec<PathBuf>, String> {
    let directory = root().join(SOURCES);
    let entries =
        fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "c")).collect();
    paths.sort();
    Ok(paths)
}

/// One file in the "new ASCII" form of cpio: a header of hexadecimal numbers, the name, the
/// contents, each padded to four bytes.
fn entry(archive: &mut Vec<u8>, name: &str, mode: usize, contents: &[u8]) {
    let links = 1;
    let header = [1, mode, 0, 0, links, 0, contents.len(), 0, 0, 0, 0, name.len() + 1, 0];
    archive.extend_from_slice(b"070701");
    for number in header {
        archive.extend_from_slice(format!("{number:08X}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(contents);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}
