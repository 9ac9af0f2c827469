//! Kernels that packages of Debian were unpacked to: their images, releases and modules.

use std::fs;
use std::path::{Path, PathBuf};

/// Images that boot by themselves, and those that are unpacked programs.
const IMAGES: [&str; 2] = ["vmlinuz-", "vmlinux-"];

/// All kernel images under `kernels`, in the way the packages unpack; the newest comes last.
pub(crate) fn unpacked(kernels: &Path) -> Vec<PathBuf> {
    let mut images: Vec<PathBuf> = entries(kernels).flat_map(|package| images(&package)).collect();
    images.sort_by_key(|image| version(&release(image)));
    images
}

/// `boot/vmlinuz-VERSION`, and since Linux 7 `usr/lib/modules/VERSION/vmlinuz`.
pub(super) fn images(package: &Path) -> Vec<PathBuf> {
    let is_image = |file: &PathBuf| IMAGES.iter().any(|image| name(file).starts_with(image));
    let beside = entries(&package.join("boot")).filter(is_image);
    let within = entries(&package.join("usr/lib/modules"))
        .flat_map(|version| IMAGES.map(|image| version.join(image.trim_end_matches('-'))));
    beside.chain(within.filter(|file| file.is_file())).collect()
}

/// The release of a kernel image, as `uname -r` prints it, from its path; empty if that has none.
pub(crate) fn release(image: &Path) -> String {
    let name_of_image = name(image);
    match IMAGES.iter().find_map(|image| name_of_image.strip_prefix(image)) {
        Some(release) => release.to_owned(),
        None => image.parent().map(name).unwrap_or_default(),
    }
}

/// The directory `lib/modules/VERSION` that belongs to an image, where packages and systems have it.
pub(super) fn modules(image: &Path) -> Option<PathBuf> {
    let directory = image.parent()?;
    let system = directory.parent()?;
    let places = ["lib/modules", "usr/lib/modules"].map(|place| system.join(place));
    let beside = places.map(|place| place.join(release(image)));
    let mut found = beside.into_iter().chain([directory.to_owned()]);
    found.find(|place| place.join("kernel").is_dir())
}

/// What a directory has; nothing, if it is not there.
pub(super) fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The numbers in a name, for comparison.
pub(super) fn version(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// One line for a program that could not be started.
pub(super) fn missing(program: &str, package: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("{program} is missing (Debian package {package})"),
        _ => format!("{program}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{modules, release, unpacked};
    use crate::command::root;

    #[test]
    fn kernels_as_old_and_new_packages_have_them() {
        let kernels = root().join("target/test-kernels");
        let file = |path: &str| {
            let path = kernels.join(path);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a directory");
            fs::write(&path, "").expect("a file");
        };
        file("new/usr/lib/modules/7.2/vmlinuz");
        file("new/usr/lib/modules/7.2/kernel/brd.ko");
        file("old/boot/vmlinuz-6.12");
        file("old/lib/modules/6.12/kernel/brd.ko");
        file("older/boot/vmlinuz-6.1");
        file("older/boot/config-6.1");
        let images = unpacked(&kernels);
        let releases: Vec<String> = images.iter().map(|image| release(image)).collect();
        assert_eq!(releases, ["6.1", "6.12", "7.2"]);
        let found: Vec<_> = images.iter().map(|image| modules(image)).collect();
        let at = |path: &str| Some(kernels.join(path));
        assert_eq!(found, [None, at("old/lib/modules/6.12"), at("new/usr/lib/modules/7.2")]);
    }
}
