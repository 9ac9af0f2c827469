//! From cargo's archive to the one that is installed. Whatever installs the library does the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::library::run;

/// The name that the archive has when it is installed.
pub(crate) const INSTALLED: &str = "libpinfold.a";

/// Makes the archive that is installed out of cargo's, in `dir`: one object that shows only the
/// functions `shown` and what they need. Cargo's archive also shows dozens of the compiler's
/// helpers, which would clash with those of the program. Returns the object.
pub(crate) fn one_object(archive: &Path, dir: &Path, shown: &BTreeSet<String>) -> PathBuf {
    let object = dir.join("pinfold.o");
    let mut ld = Command::new("ld");
    ld.args(["-r", "--gc-sections"]).args(shown.iter().flat_map(|name| ["-u", name]));
    ld.arg("-o").arg(&object).arg(archive);
    run(&mut ld);
    let mut objcopy = Command::new("objcopy");
    objcopy.args(["--wildcard", "--keep-global-symbol=pinfold_*"]);
    // Names that only code mentioned which is gone; objcopy fails if anything still does.
    objcopy.args(["--strip-symbol=bcmp", "--strip-symbol=rust_eh_personality"]);
    // The compiler's intermediate code, which binutils choke on when several are joined.
    objcopy.args(["--remove-section=.llvmbc", "--remove-section=.llvmcmd"]);
    run(objcopy.arg(&object));
    let installed = dir.join(INSTALLED);
    let _ = std::fs::remove_file(&installed);
    run(Command::new("ar").arg("rcs").arg(&installed).arg(&object));
    object
}
