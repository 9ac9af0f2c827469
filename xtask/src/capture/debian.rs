//! Downloads kernels of Debian, for machines of any kind.
//!
//! apt is given lists and a cache of our own, in `target`: nothing of the system changes, and nobody
//! need be root. Its sources and keys are the system's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::arch::Arch;
use super::kernel::{entries, images, missing, name, version};

const PREFIX: &str = "linux-image-";

/// The kernel of a version under `kernels`, from Debian if it is not there; nothing is installed.
/// The empty version is the current one; without a flavour, the one that suits best.
pub(crate) fn fetch(
    kernels: &Path,
    arch: &Arch,
    wanted: &str,
    flavour: Option<&str>,
) -> Result<PathBuf, String> {
    let apt = Apt { kernels, architecture: arch.debian.architecture };
    apt.update()?;
    apt.unpack(&apt.newest(wanted, flavour.unwrap_or(arch.debian.flavour))?)
}

/// The same for a kernel whose release is not among `known`: the current one, or else the newest of
/// the others; `None` where all are.
pub(crate) fn fetch_other(
    kernels: &Path,
    arch: &Arch,
    known: &[String],
) -> Result<Option<PathBuf>, String> {
    let apt = Apt { kernels, architecture: arch.debian.architecture };
    apt.update()?;
    let mut packages = vec![apt.newest("", arch.debian.flavour)?];
    let names = apt.run("apt-cache", &["pkgnames", PREFIX])?;
    packages.extend(all_like(&names, "", arch.debian.flavour).rev().map(str::to_owned));
    let new = |package: &&String| !known.iter().any(|release| package.ends_with(release));
    // Some names are only mentioned by other packages.
    let real = |package: &&String| {
        let policy = apt.run("apt-cache", &["policy", package]).unwrap_or_default();
        policy.contains("Candidate: ") && !policy.contains("Candidate: (none)")
    };
    packages.iter().filter(new).find(real).map(|package| apt.unpack(package)).transpose()
}

/// apt for packages of another machine.
struct Apt<'a> {
    kernels: &'a Path,
    architecture: &'a str,
}

impl Apt<'_> {
    /// Fresh lists, or the old ones where the network does not help.
    fn update(&self) -> Result<(), String> {
        for directory in ["apt/lists/partial", "apt/cache/archives/partial"] {
            let path = self.kernels.join(directory);
            fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let updated = self.run("apt-get", &["-q", "update"]);
        let has_lists = || {
            let mut files = entries(&self.kernels.join("apt/lists"));
            files.any(|file| name(&file).contains("_Packages"))
        };
        match updated {
            Err(why) if !has_lists() => Err(why),
            Err(why) => {
                println!("warning   {why}: the package lists may be old");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// The name of the newest package whose version begins like this.
    fn newest(&self, wanted: &str, flavour: &str) -> Result<String, String> {
        if wanted.is_empty() {
            let meta = format!("{PREFIX}{flavour}");
            let mut packages = self.depends(&meta).unwrap_or_default().into_iter();
            return packages
                .find(|package| package.starts_with(PREFIX))
                .ok_or(format!("apt knows no package {meta} of {}", self.architecture));
        }
        let names = self.run("apt-cache", &["pkgnames", PREFIX])?;
        let newest = all_like(&names, wanted, flavour).next_back().map(str::to_owned);
        newest.ok_or(format!(
            "apt knows no package {PREFIX}{wanted}...-{flavour} of {} (is it in another release?)",
            self.architecture
        ))
    }

    /// Downloads and unpacks a package, unless that was done before; returns the image.
    fn unpack(&self, package: &str) -> Result<PathBuf, String> {
        let place = self.kernels.join(package);
        if let Some(image) = images(&place).pop() {
            return Ok(image);
        }
        for part in self.parts(package)? {
            println!("fetching  {part}");
            self.run("apt-get", &["download", &part])?;
            let archive = entries(self.kernels)
                .map(|file| name(&file))
                .filter(|file| file.starts_with(&format!("{part}_")) && file.ends_with(".deb"))
                .max_by_key(|file| version(file))
                .ok_or(format!("apt-get did not leave {part} in {}", self.kernels.display()))?;
            run(self.kernels, "dpkg", &["-x", &archive, package], "dpkg")?;
            // It costs only disk space.
            let _ = fs::remove_file(self.kernels.join(archive));
        }
        images(&place).pop().ok_or(format!("{package} has no kernel image"))
    }

    /// The package itself and, since Linux 7, those that its image and modules are in.
    fn parts(&self, package: &str) -> Result<Vec<String>, String> {
        let release = package.strip_prefix(PREFIX).unwrap_or_default();
        let others = ["linux-binary-", "linux-modules-"].map(|prefix| format!("{prefix}{release}"));
        let depends = self.depends(package)?;
        let others = others.into_iter().filter(|part| depends.contains(part));
        Ok([package.to_owned()].into_iter().chain(others).collect())
    }

    fn depends(&self, package: &str) -> Result<Vec<String>, String> {
        let printed = self.run("apt-cache", &["depends", package])?;
        let names = printed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let state = self.kernels.join("apt");
        let (state, cache) = (state.display(), state.join("cache"));
        let settings = [
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures={}", self.architecture),
            "APT::Sandbox::User=root".to_owned(),
            format!("Dir::State={state}"),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={}", cache.display()),
            // Only the lists of packages, in no other language.
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        let mut all: Vec<&str> = settings.iter().flat_map(|setting| ["-o", setting]).collect();
        all.extend(args);
        run(self.kernels, program, &all, "apt")
    }
}

/// Those of a version, or of any for the empty one; the newest comes last. `6.1` stands for
/// `6.1.0-56` and not for `6.12`. Packages that only depend on others have no third number.
fn all_like<'a>(
    packages: &'a str,
    wanted: &str,
    flavour: &str,
) -> impl DoubleEndedIterator<Item = &'a str> {
    let fits = |package: &&str| {
        let release = package.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(flavour));
        release.and_then(|rest| rest.strip_suffix('-')).is_some_and(|release| {
            let rest = release.strip_prefix(wanted);
            let whole = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit());
            rest.is_some_and(|rest| wanted.is_empty() || whole(rest))
                // Not the `cloud` of `6.1.0-56-cloud-arm64`.
                && !release.ends_with(|c: char| c.is_ascii_alphabetic())
                && version(release).len() > 2
        })
    };
    let mut fitting: Vec<&str> = packages.lines().filter(fits).collect();
    fitting.sort_by_key(|package| version(package));
    fitting.into_iter()
}

/// What the program printed; its complaints go to the terminal.
fn run(place: &Path, program: &str, args: &[&str], package: &str) -> Result<String, String> {
    let output = Command::new(program)
        .args(args)
        .current_dir(place)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| missing(program, package, &error))?;
    if !output.status.success() {
        let last = args.iter().rev().take(2).rev().copied().collect::<Vec<_>>().join(" ");
        return Err(format!("{program} {last}: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::all_like;

    #[test]
    fn the_newest_package_of_a_version() {
        let packages = "linux-image-6.1.0-9-cloud-amd64\n\
            linux-image-6.1.0-56-cloud-amd64\n\
            linux-image-6.1.0-56-amd64\n\
            linux-image-6.12-cloud-amd64\n\
            linux-image-6.12.100+deb12-cloud-amd64\n\
            linux-image-6.12.117+deb12-cloud-amd64\n";
        let newest = |wanted| all_like(packages, wanted, "cloud-amd64").next_back();
        assert_eq!(newest("6.1"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("6.12"), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest("6.12.100"), Some("linux-image-6.12.100+deb12-cloud-amd64"));
        assert_eq!(newest("7"), None);
        assert_eq!(all_like(packages, "", "cloud-amd64").count(), 4);
        assert_eq!(
            all_like(packages, "", "amd64").collect::<Vec<_>>(),
            ["linux-image-6.1.0-56-amd64"]
        );
    }
}
