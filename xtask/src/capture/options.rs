//! The command's arguments.

pub(super) const HELP: &str = "\
usage: cargo xtask capture --arch ARCH --out FILE [OPTIONS]

Boots a Linux kernel under QEMU, lays out a process's memory in it, and writes the process's page
tables, what the kernel said about them, and its answers to long-term pins of every region. Takes
about half a minute.

  --arch ARCH        x86_64 (the only one so far)
  --out FILE         where the snapshot goes
  --kernel IMAGE     the kernel to boot; without it the newest one in target/kernels
  --modules DIR      its lib/modules/VERSION; without it the one beside the kernel's boot directory.
                     Without modules the snapshot has fewer regions and answers, unless they are
                     built in
  --fetch[=VERSION]  download one of Debian's cloud kernels into target/kernels when it is not
                     there: the newest whose version begins so, or Debian's current one
  --levels 4|5       levels of page tables (4)
  --memory SIZE      memory of the machine (448M)
  --movable SIZE     how much of it is a movable zone (48M)
  --cma AREA         size and place of the contiguous allocator's area (160M@80M). Debian's kernels
                     for x86_64 are built without that allocator and ignore it
  --append TEXT      more words for the kernel command line

Two captures of one kernel differ in a few frames: where the kernel's own allocations fell.
Needs qemu-system-x86_64, gcc and mkfs.ext4. Leaves its logs in target/capture.
";

/// What to capture and how.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) out: String,
    pub(super) kernel: Option<String>,
    pub(super) modules: Option<String>,
    /// The version to fetch; empty for Debian's current one.
    pub(super) fetch: Option<String>,
    pub(super) five_levels: bool,
    pub(super) memory: String,
    pub(super) movable: String,
    pub(super) cma: String,
    pub(super) append: String,
}

impl Options {
    /// `None` when help was asked for.
    pub(super) fn read(args: &[String]) -> Result<Option<Self>, String> {
        let (mut arch, mut out) = (None, None);
        let mut options = Self {
            out: String::new(),
            kernel: None,
            modules: None,
            fetch: None,
            five_levels: false,
            memory: "448M".into(),
            movable: "48M".into(),
            cma: "160M@80M".into(),
            append: String::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or(format!("capture: {arg} wants a value"));
            match arg.as_str() {
                "-h" | "--help" => return Ok(None),
                "--fetch" => options.fetch = Some(String::new()),
                "--arch" => arch = Some(value()?),
                "--out" => out = Some(value()?),
                "--kernel" => options.kernel = Some(value()?),
                "--modules" => options.modules = Some(value()?),
                "--levels" => options.five_levels = five(&value()?)?,
                "--memory" => options.memory = value()?,
                "--movable" => options.movable = value()?,
                "--cma" => options.cma = value()?,
                "--append" => options.append = value()?,
                other if other.starts_with("--fetch=") => {
                    options.fetch = other.strip_prefix("--fetch=").map(str::to_owned);
                }
                other => return Err(format!("capture: there is no option `{other}`")),
            }
        }
        match arch.as_deref() {
            Some("x86_64") => {}
            Some(other) => return Err(format!("capture: --arch {other} is not supported yet")),
            None => return Err("capture: --arch is missing (see --help)".into()),
        }
        options.out = out.ok_or("capture: --out is missing (see --help)")?;
        Ok(Some(options))
    }

    /// The kernel command line. Addresses are not randomized, so that captures are alike. There are
    /// no bounce buffers, which would take a sixth of the memory, and no check that timer interrupts
    /// come in time, which fails when the host is busy.
    pub(super) fn command_line(&self) -> String {
        let Self { movable, cma, append, .. } = self;
        let line = format!(
            "console=ttyS0 panic=-1 no_timer_check nokaslr norandmaps secretmem.enable=1 \
             movablecore={movable} cma={cma} intel_iommu=on swiotlb=noforce {append}"
        );
        line.trim_end().to_owned()
    }
}

fn five(levels: &str) -> Result<bool, String> {
    match levels {
        "4" => Ok(false),
        "5" => Ok(true),
        other => Err(format!("capture: --levels {other}: there are 4 or 5")),
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    fn read(args: &str) -> Result<Option<Options>, String> {
        Options::read(&args.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn fetch_with_and_without_version() {
        let fetch = |args| read(args).expect("well formed").expect("no help").fetch;
        assert_eq!(fetch("--arch x86_64 --out x"), None);
        assert_eq!(fetch("--arch x86_64 --out x --fetch"), Some(String::new()));
        assert_eq!(fetch("--fetch=6.12 --arch x86_64 --out x"), Some("6.12".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (args, word) in [
            ("--out x", "--arch"),
            ("--arch x86_64", "--out"),
            ("--arch mips --out x", "mips"),
            ("--arch x86_64 --out x --levels 3", "--levels 3"),
            ("--arch x86_64 --out x --fetched", "--fetched"),
            ("--kernel", "--kernel wants"),
        ] {
            let why = read(args).expect_err(args);
            assert!(why.contains(word), "{why}");
        }
        assert!(read("--help --nonsense").expect("help comes first").is_none());
    }
}
