//! Debian's kernels: finds one that was unpacked before, or downloads one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Depends on the package of the current version.
const META: &str = "linux-image-cloud-amd64";
const PREFIX: &str = "linux-image-";
const IMAGE: &str = "vmlinuz-";
const FLAVOUR: &str = "-cloud-amd64";

/// All kernel images under `kernels`, in the way the packages unpack; the newest comes last.
pub(crate) fn unpacked(kernels: &Path) -> Vec<PathBuf> {
    let mut images: Vec<PathBuf> = entries(kernels).flat_map(|package| images(&package)).collect();
    images.sort_by_key(|image| version(&release(image)));
    images
}

/// `boot/vmlinuz-VERSION`, and since Linux 7 `usr/lib/modules/VERSION/vmlinuz`.
fn images(package: &Path) -> Vec<PathBuf> {
    let beside = entries(&package.join("boot")).filter(|file| name(file).starts_with(IMAGE));
    let within = entries(&package.join("usr/lib/modules")).map(|version| version.join("vmlinuz"));
    beside.chain(within.filter(|file| file.is_file())).collect()
}

/// The release of a kernel image, as `uname -r` prints it, from its path; empty if that has none.
pub(crate) fn release(image: &Path) -> String {
    match name(image).strip_prefix(IMAGE) {
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

/// The kernel of a version under `kernels`, from Debian if it is not there; nothing is installed.
/// The empty version is the current one.
pub(crate) fn fetch(kernels: &Path, wanted: &str) -> Result<PathBuf, String> {
    fs::create_dir_all(kernels).map_err(|error| format!("{}: {error}", kernels.display()))?;
    let package = package(kernels, wanted)?;
    let place = kernels.join(&package);
    if let Some(image) = images(&place).pop() {
        return Ok(image);
    }
    for part in parts(kernels, &package)? {
        println!("fetching  {part}");
        let download = ["-o", "APT::Sandbox::User=root", "download", &part];
        run(kernels, "apt-get", &download, "apt")?;
        let archive = entries(kernels)
            .map(|file| name(&file))
            .filter(|file| file.starts_with(&format!("{part}_")) && file.ends_with(".deb"))
            .max_by_key(|file| version(file))
            .ok_or(format!("apt-get did not leave {part} in {}", kernels.display()))?;
        run(kernels, "dpkg", &["-x", &archive, &package], "dpkg")?;
    }
    images(&place).pop().ok_or(format!("{package} has no kernel image"))
}

/// The package itself and, since Linux 7, those that its image and modules are in.
fn parts(kernels: &Path, package: &str) -> Result<Vec<String>, String> {
    let release = package.strip_prefix(PREFIX).unwrap_or_default();
    let others = ["linux-binary-", "linux-modules-"].map(|prefix| format!("{prefix}{release}"));
    let depends = depends(kernels, package)?;
    let others = others.into_iter().filter(|part| depends.contains(part));
    Ok([package.to_owned()].into_iter().chain(others).collect())
}

fn depends(kernels: &Path, package: &str) -> Result<Vec<String>, String> {
    let printed = run(kernels, "apt-cache", &["depends", package], "apt")?;
    let names = printed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names.map(str::to_owned).collect())
}

/// What a directory has; nothing, if it is not there.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// The name of the newest package whose version begins like this.
fn package(kernels: &Path, wanted: &str) -> Result<String, String> {
    let hint = "does `apt-get update` help?";
    if wanted.is_empty() {
        return depends(kernels, META)?
            .into_iter()
            .find(|package| package.starts_with(PREFIX))
            .ok_or(format!("apt knows no package {META} ({hint})"));
    }
    let names = run(kernels, "apt-cache", &["pkgnames", PREFIX], "apt")?;
    newest_like(&names, wanted)
        .ok_or(format!("apt knows no package {PREFIX}{wanted}...{FLAVOUR} ({hint})"))
}

/// `6.1` stands for `6.1.0-56` and not for `6.12`. Packages that only depend on others have no
/// third number.
fn newest_like(packages: &str, wanted: &str) -> Option<String> {
    let fits = |package: &&str| {
        let release = package.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(FLAVOUR));
        release.is_some_and(|release| {
            let rest = release.strip_prefix(wanted);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
                && version(release).len() > 2
        })
    };
    packages.lines().filter(fits).max_by_key(|package| version(package)).map(str::to_owned)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The numbers in a name, for comparison.
fn version(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// What the program printed; its complaints go to the terminal.
fn run(place: &Path, program: &str, args: &[&str], package: &str) -> Result<String, String> {
    let output = Command::new(program)
        .args(args)
        .current_dir(place)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| missing(program, package, &error))?;
    if !output.status.success() {
        return Err(format!("{program} {}: {}", args.join(" "), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

    use super::{modules, newest_like, release, unpacked};
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

    #[test]
    fn the_newest_package_of_a_version() {
        let packages = "linux-image-6.1.0-9-cloud-amd64\n\
            linux-image-6.1.0-56-cloud-amd64\n\
            linux-image-6.1.0-56-amd64\n\
            linux-image-6.12-cloud-amd64\n\
            linux-image-6.12.100+deb12-cloud-amd64\n\
            linux-image-6.12.117+deb12-cloud-amd64\n";
        let newest = |wanted| newest_like(packages, wanted);
        assert_eq!(newest("6.1").as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("6.12").as_deref(), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest("6.12.100").as_deref(), Some("linux-image-6.12.100+deb12-cloud-amd64"));
        assert_eq!(newest("7"), None);
    }
}
