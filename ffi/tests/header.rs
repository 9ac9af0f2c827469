//! `include/pinfold.h` is what cbindgen makes of the sources; `PINFOLD_BLESS=1` writes it.

use std::fs;
use std::path::Path;

use cbindgen::{Builder, Config};

/// In the order in which the header shows what they define.
const SOURCES: &[&str] =
    &["status", "version", "ops", "engine", "region", "realmode", "registry", "registry/regions"];

/// From Cargo.toml, so that nobody keeps them by hand.
fn version_macros() -> String {
    let (major, minor, patch) = (
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
        env!("CARGO_PKG_VERSION_PATCH"),
    );
    format!(
        "
/** Version of this header. */
#define PINFOLD_VERSION_MAJOR {major}
#define PINFOLD_VERSION_MINOR {minor}
#define PINFOLD_VERSION_PATCH {patch}
/** The same as one number, as pinfold_version() gives it for the library. */
#define PINFOLD_VERSION \\
    ((PINFOLD_VERSION_MAJOR << 16) | (PINFOLD_VERSION_MINOR << 8) | PINFOLD_VERSION_PATCH)"
    )
}

#[test]
fn the_header_is_fresh() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = Config::from_file(dir.join("cbindgen.toml")).expect("cbindgen.toml");
    config.after_includes = Some(version_macros());
    let mut builder = Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(dir.join("src").join(source).with_extension("rs"));
    }
    let mut made = Vec::new();
    builder.generate().expect("a header").write(&mut made);
    let made = String::from_utf8(made).expect("UTF-8");

    let path = dir.join("include/pinfold.h");
    if std::env::var_os("PINFOLD_BLESS").is_some() {
        fs::write(&path, &made).expect("pinfold.h");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == made,
        "include/pinfold.h is stale: PINFOLD_BLESS=1 cargo test -p pinfold-ffi --test header"
    );
}
