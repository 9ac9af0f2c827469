//! `cargo xtask setup`: what the tiers need beyond stable Rust, and installing it.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::command::command;
use crate::need::{From, Need};
use crate::tiers::every;

pub(crate) fn run(args: &[String]) -> ExitCode {
    let yes = match args {
        [] => false,
        [flag] if flag == "--yes" => true,
        _ => return crate::usage("setup knows `--yes` only"),
    };
    let missing = survey();
    let by_hand = missing.iter().filter_map(|need| match need.from {
        From::Hand(what) => Some((need.name, what)),
        _ => None,
    });
    for (name, what) in by_hand {
        println!("not installed by setup: {name} ({what})");
    }
    let lines = install_lines(&missing);
    if lines.is_empty() {
        println!("nothing to install");
        return ExitCode::SUCCESS;
    }
    if !Path::new("/etc/debian_version").exists() {
        println!("this is no Debian: please install by your system's means what is missing above");
        return ExitCode::SUCCESS;
    }
    println!("to install:");
    for line in &lines {
        println!("  {}", line.join(" "));
    }
    if !yes && !agreed() {
        println!("nothing was installed");
        return ExitCode::SUCCESS;
    }
    install(&lines)
}

/// Prints each need and who needs it; returns those that are missing.
fn survey() -> Vec<&'static Need> {
    let mut seen: Vec<&'static Need> = Vec::new();
    for &need in every().flat_map(|tier| tier.needs) {
        if seen.iter().all(|earlier| earlier.name != need.name) {
            seen.push(need);
        }
    }
    let mut missing = Vec::new();
    for need in seen {
        let users: Vec<&str> = every()
            .filter(|tier| tier.needs.iter().any(|other| other.name == need.name))
            .map(|tier| tier.name)
            .collect();
        if need.present() {
            println!("have     {}, for {}", need.name, users.join(", "));
        } else {
            println!("missing  {}, for {}", need.missing(), users.join(", "));
            missing.push(need);
        }
    }
    missing
}

/// The commands that bring what is missing: Debian's packages first, the others may want them.
fn install_lines(missing: &[&Need]) -> Vec<Vec<String>> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut packages = Vec::new();
    let mut others = Vec::new();
    for need in missing {
        match need.from {
            From::Debian(names) | From::DebianOr(names, _) => packages.append(&mut words(names)),
            From::Crate(name, version) => {
                others.push(words(&format!("cargo install --locked {name}@{version}")));
            }
            From::Command(line) => others.push(words(line)),
            From::Hand(_) => {}
        }
    }
    let apt = if is_root() { "apt-get" } else { "sudo apt-get" };
    let mut lines = Vec::new();
    if !packages.is_empty() {
        lines.push(words(&format!("{apt} update")));
        // Several needs may be of one package.
        packages.sort();
        packages.dedup();
        let mut install = words(&format!("{apt} install --yes --no-install-recommends"));
        install.append(&mut packages);
        lines.push(install);
    }
    lines.append(&mut others);
    lines
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

/// Silence, as from a machine without a keyboard, is a no.
fn agreed() -> bool {
    print!("install them now? [y/N] ");
    let mut answer = String::new();
    let read = io::stdout().flush().and_then(|()| io::stdin().read_line(&mut answer));
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Goes on after a failure: one package that cannot be had need not cost the others.
fn install(lines: &[Vec<String>]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for line in lines {
        println!("$ {}", line.join(" "));
        let args: Vec<&str> = line[1..].iter().map(String::as_str).collect();
        let mut step = command(&line[0], &args);
        step.env("DEBIAN_FRONTEND", "noninteractive");
        if !step.status().is_ok_and(|status| status.success()) {
            println!("that failed; the tiers that need it will say so");
            code = ExitCode::FAILURE;
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::install_lines;
    use crate::need::{AARCH64, CAPTURE_X86_64, CARGO_DENY, MKFS, NIGHTLY, S390X, VALGRIND};

    fn last_words(lines: &[Vec<String>]) -> Vec<&str> {
        lines.iter().filter_map(|line| line.last().map(String::as_str)).collect()
    }

    #[test]
    fn packages_in_one_line_and_the_others_one_by_one() {
        let lines = install_lines(&[&VALGRIND, &CARGO_DENY, &MKFS, &NIGHTLY]);
        assert_eq!(last_words(&lines), ["update", "valgrind", "cargo-deny@0.20.2"]);
        assert!(lines[1].contains(&"e2fsprogs".to_owned()));
        assert!(install_lines(&[&NIGHTLY]).is_empty());
    }

    #[test]
    fn a_package_of_several_needs_is_installed_once() {
        let lines = install_lines(&[S390X, AARCH64].concat());
        let count = |name| lines[1].iter().filter(|word| *word == name).count();
        for package in ["qemu-user", "cargo-web", "gcc-s390x-linux-gnu", "libc6-dev-arm64-cross"] {
            assert_eq!(count(package), 1, "{package} in {lines:?}");
        }
    }

    #[test]
    fn a_kernel_is_fetched_after_its_tools() {
        let lines = install_lines(CAPTURE_X86_64);
        assert_eq!(last_words(&lines)[0], "update");
        assert_eq!(last_words(&lines)[2..], ["x86_64"]);
        assert!(lines[1].contains(&"qemu-system-x86".to_owned()));
    }
}
