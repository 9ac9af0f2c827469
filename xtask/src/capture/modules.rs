//! Drivers that a kernel may have as modules: which ones init can use, and their order.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kernel::missing;

/// The disks, their bus and file system, the RAM disk to swap to, and user-space drivers. ext4 does
/// not depend on its checksum, but asks for it. What a kernel has built in, or does not have, is not
/// in its directory.
const WANTED: [&str; 10] = [
    "virtio_pci",
    "virtio_blk",
    "nd_pmem",
    "virtio_pmem",
    "crc32c_generic",
    "crc32c_cryptoapi",
    "ext4",
    "brd",
    "vfio_iommu_type1",
    "vfio_pci",
];
/// How each ending of a file name is undone, and the Debian package that can.
const PACKED: [(&str, &str, &str); 3] =
    [(".ko.xz", "xz", "xz-utils"), (".ko.gz", "gzip", "gzip"), (".ko.zst", "zstd", "zstd")];

/// A driver as the kernel loads it.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) code: Vec<u8>,
}

/// The wanted modules under `lib/modules/VERSION`, each behind those that it depends on.
pub(super) fn load(directory: &Path) -> Result<Vec<Module>, String> {
    let mut files = BTreeMap::new();
    list(directory, &mut files)?;
    if files.is_empty() {
        return Err(format!("{} has no kernel modules", directory.display()));
    }
    order(&WANTED, |name| files.get(name).map(|path| unpacked(path)).transpose())
}

/// All modules by name; a file may have `-` where the kernel says `_`.
fn list(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        // Not links: `build` and `source` lead out of the directory.
        if entry.file_type().map_err(failed)?.is_dir() {
            list(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn unpacked(path: &Path) -> Result<Vec<u8>, String> {
    let name = path.to_string_lossy();
    let Some((_, program, package)) = PACKED.iter().find(|(end, ..)| name.ends_with(end)) else {
        return fs::read(path).map_err(|error| format!("{name}: {error}"));
    };
    let output = Command::new(program).arg("-dc").arg(path).output();
    let output = output.map_err(|error| missing(program, package, &error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("{program} does not unpack {name}: {}", output.status))
}

/// Depth first: what a module names in its `depends=` comes before it.
fn order(
    wanted: &[&str],
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>, String>,
) -> Result<Vec<Module>, String> {
    let mut done: Vec<Module> = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    let mut open: Vec<(String, Option<Vec<u8>>)> =
        wanted.iter().rev().map(|&name| (name.to_owned(), None)).collect();
    while let Some((name, code)) = open.pop() {
        if let Some(code) = code {
            done.push(Module { name, code });
            continue;
        }
        if seen.contains(&name) {
            continue;
        }
        seen.push(name.clone());
        let Some(code) = read(&name)? else { continue };
        let needed = depends(&code);
        open.push((name, Some(code)));
        open.extend(needed.into_iter().rev().map(|name| (name, None)));
    }
    Ok(done)
}

/// The names behind `depends=` among the module's own words about itself.
fn depends(code: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = code.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let rest = &code[at + KEY.len()..];
    let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
    let names = String::from_utf8_lossy(&rest[..end]).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn what_a_module_needs_comes_first_and_once() {
        let code = |name: &str| match name {
            "disk" => Some("\x7fELF\0depends=bus-ring,bus\0license=GPL\0"),
            "bus" => Some("\0depends=bus_ring\0"),
            "bus_ring" | "other" => Some("\0license=GPL\0depends=\0"),
            _ => None,
        };
        let read = |name: &str| Ok(code(name).map(|code| code.as_bytes().to_vec()));
        let modules = order(&["disk", "built_in", "other", "bus"], read).expect("all are there");
        let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["bus_ring", "bus", "disk", "other"]);
    }

    #[test]
    fn modules_that_need_each_other_end() {
        let read = |name: &str| {
            Ok(Some(if name == "a" { b"\0depends=b\0" } else { b"\0depends=a\0" }.to_vec()))
        };
        assert_eq!(order(&["a"], read).expect("both are there").len(), 2);
    }
}
