//! Debian's kernels: finds one that was unpacked before, or downloads one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Depends on the package of the current version.
const META: &str = "linux-image-cloud-amd64";
const PREFIX: &str = "linux-image-";
const FLAVOUR: &str = "-cloud-amd64";

/// All kernel images under `kernels`, in the way the packages unpack; the newest comes last.
pub(crate) fn unpacked(kernels: &Path) -> Vec<PathBuf> {
    let packages = fs::read_dir(kernels).into_iter().flatten().filter_map(Result::ok);
    let boots = packages.filter_map(|package| fs::read_dir(package.path().join("boot")).ok());
    let files = boots.flatten().filter_map(Result::ok).map(|file| file.path());
    let mut images: Vec<PathBuf> =
        files.filter(|file| name(file).starts_with("vmlinuz-")).collect();
    images.sort_by_key(|image| version(&name(image)));
    images
}

/// The release of a kernel image, as `uname -r` prints it, from the name of its file.
pub(crate) fn release(image: &Path) -> Option<String> {
    name(image).strip_prefix("vmlinuz-").map(str::to_owned)
}

/// `lib/modules/VERSION` beside the image's `boot`, where packages and systems have it.
pub(super) fn modules(image: &Path) -> Option<PathBuf> {
    let release = release(image)?;
    let system = image.parent()?.parent()?;
    let places = ["lib/modules", "usr/lib/modules"].map(|place| system.join(place).join(&release));
    places.into_iter().find(|place| place.is_dir())
}

/// The kernel of a version under `kernels`, from Debian if it is not there; nothing is installed.
/// The empty version is the current one.
pub(crate) fn fetch(kernels: &Path, wanted: &str) -> Result<PathBuf, String> {
    fs::create_dir_all(kernels).map_err(|error| format!("{}: {error}", kernels.display()))?;
    let package = package(kernels, wanted)?;
    if let Some(image) = image(&kernels.join(&package)) {
        return Ok(image);
    }
    println!("fetching  {package}");
    let download = ["-o", "APT::Sandbox::User=root", "download", &package];
    run(kernels, "apt-get", &download, "apt")?;
    let archive = fs::read_dir(kernels)
        .map_err(|error| format!("{}: {error}", kernels.display()))?
        .filter_map(|file| file.ok().map(|file| name(&file.path())))
        .filter(|file| file.starts_with(&format!("{package}_")) && file.ends_with(".deb"))
        .max_by_key(|file| version(file))
        .ok_or(format!("apt-get did not leave {package} in {}", kernels.display()))?;
    run(kernels, "dpkg", &["-x", &archive, &package], "dpkg")?;
    image(&kernels.join(&package)).ok_or(format!("{package} has no kernel image in boot"))
}

fn image(package: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(package.join("boot")).ok()?.filter_map(Result::ok);
    files.map(|file| file.path()).find(|file| name(file).starts_with("vmlinuz-"))
}

/// The name of the newest package whose version begins like this.
fn package(kernels: &Path, wanted: &str) -> Result<String, String> {
    let hint = "does `apt-get update` help?";
    if wanted.is_empty() {
        let depends = run(kernels, "apt-cache", &["depends", META], "apt")?;
        return depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|package| package.starts_with(PREFIX))
            .map(str::to_owned)
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
    use super::newest_like;

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
