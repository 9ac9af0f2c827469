//! Debian's kernel: finds one that was unpacked before, or downloads one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Depends on the package of the current version.
const META: &str = "linux-image-cloud-amd64";

/// The newest kernel image under `kernels`, in the way the packages unpack.
pub(crate) fn newest(kernels: &Path) -> Option<PathBuf> {
    let packages = fs::read_dir(kernels).ok()?.filter_map(Result::ok);
    let boots = packages.filter_map(|package| fs::read_dir(package.path().join("boot")).ok());
    let files = boots.flatten().filter_map(Result::ok).map(|file| file.path());
    let images = files.filter(|file| name(file).starts_with("vmlinuz-"));
    images.max_by_key(|image| version(&name(image)))
}

/// Downloads the current cloud kernel's package and unpacks it under `kernels`; nothing is
/// installed.
pub(crate) fn fetch(kernels: &Path) -> Result<PathBuf, String> {
    fs::create_dir_all(kernels).map_err(|error| format!("{}: {error}", kernels.display()))?;
    let depends = run(kernels, "apt-cache", &["depends", META], "apt")?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .ok_or(format!("apt knows no package {META} (does `apt-get update` help?)"))?;
    println!("fetching  {package}");
    let download = ["-o", "APT::Sandbox::User=root", "download", package];
    run(kernels, "apt-get", &download, "apt")?;
    let archive = fs::read_dir(kernels)
        .map_err(|error| format!("{}: {error}", kernels.display()))?
        .filter_map(|file| file.ok().map(|file| name(&file.path())))
        .filter(|file| file.starts_with(&format!("{package}_")) && file.ends_with(".deb"))
        .max_by_key(|file| version(file))
        .ok_or(format!("apt-get did not leave {package} in {}", kernels.display()))?;
    run(kernels, "dpkg", &["-x", &archive, package], "dpkg")?;
    newest(kernels).ok_or(format!("{package} has no kernel image in boot"))
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
