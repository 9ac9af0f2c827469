//! The disk of the captured machine: an empty ext4 file system, for files that are written back.

use std::fs::File;
use std::path::Path;
use std::process::Command;

/// Debian has it where only root looks.
const PROGRAMS: [&str; 2] = ["mkfs.ext4", "/usr/sbin/mkfs.ext4"];
/// Name of the image in the directory that QEMU runs in.
pub(super) const IMAGE: &str = "disk.img";
pub(super) const BYTES: u64 = 16 << 20;
/// Small, and no feature that a kernel would want another module for.
const OPTIONS: [&str; 8] =
    ["-q", "-F", "-b", "4096", "-m", "0", "-O", "^has_journal,^metadata_csum,^resize_inode,^64bit"];

/// Makes the image in `work`; `false`, and a word to the user, where the program is missing.
pub(super) fn make(work: &Path) -> Result<bool, String> {
    let image = work.join(IMAGE);
    let failed = |error| format!("{}: {error}", image.display());
    File::create(&image).and_then(|file| file.set_len(BYTES)).map_err(failed)?;
    for program in PROGRAMS {
        let made = Command::new(program).args(OPTIONS).arg(&image).output();
        match made {
            Ok(output) if output.status.success() => return Ok(true),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{program}: {} {}", output.status, why.trim()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{program}: {error}")),
        }
    }
    println!("warning   no mkfs.ext4 (Debian package e2fsprogs): no files on a disk, no DAX");
    Ok(false)
}
