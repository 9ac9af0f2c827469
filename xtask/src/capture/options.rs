//! The command's arguments.

use super::arch::{self, Arch};

pub(super) const HELP: &str = "\
usage: cargo xtask capture --arch ARCH --out FILE [OPTIONS]

Boots a Linux kernel under QEMU, lays out a process's memory in it, and writes the process's page
tables, what the kernel said about them, and its answers to long-term pins of every region. Takes
about half a minute.

  --arch ARCH        x86_64, aarch64, s390x, powerpc64le
  --out FILE         where the snapshot goes; with --fetch it may be missing: then nothing is booted
  --kernel IMAGE     the kernel to boot; without it the newest one in target/kernels/ARCH
  --modules DIR      its lib/modules/VERSION; without it the one beside the kernel's boot directory.
                     Without modules the snapshot has fewer regions and answers, unless they are
                     built in
  --fetch[=VERSION]  download one of Debian's kernels into target/kernels/ARCH when it is not there:
                     the newest whose version begins so, or Debian's current one. It must be in one
                     of the releases that this machine's apt has as sources
  --flavour NAME     which one of that version, such as arm64-16k (the smallest)
  --levels N         levels of page tables, where kernels leave the choice (x86_64: 4 or 5)
  --memory SIZE      memory of the machine (448M, on powerpc64le 512M). With pages of 16 KiB huge ones
                     have 32 MiB: such kernels want 1536M, and --movable 160M
  --movable SIZE     how much of it is a movable zone (48M)
  --cma AREA         size and place of the contiguous allocator's area (160M, where it fits).
                     Debian's kernels have it on aarch64 only; others ignore it
  --append TEXT      more words for the kernel command line

Two captures of one kernel differ in a few frames: where the kernel's own allocations fell.
Needs ARCH's emulator and compiler, and mkfs.ext4. Leaves its logs in target/capture/ARCH.
";

/// What to capture and how.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) arch: &'static Arch,
    /// `None` where a kernel is fetched and nothing else.
    pub(super) out: Option<String>,
    pub(super) kernel: Option<String>,
    pub(super) modules: Option<String>,
    /// The version to fetch; empty for Debian's current one.
    pub(super) fetch: Option<String>,
    pub(super) flavour: Option<String>,
    pub(super) levels: Option<u8>,
    pub(super) memory: Option<String>,
    pub(super) movable: String,
    pub(super) cma: Option<String>,
    pub(super) append: String,
}

impl Options {
    /// `None` when help was asked for.
    pub(super) fn read(args: &[String]) -> Result<Option<Self>, String> {
        let mut arch = None;
        let mut options = Self {
            arch: arch::ALL[0],
            out: None,
            kernel: None,
            modules: None,
            fetch: None,
            flavour: None,
            levels: None,
            memory: None,
            movable: "48M".into(),
            cma: None,
            append: String::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or(format!("capture: {arg} wants a value"));
            match arg.as_str() {
                "-h" | "--help" => return Ok(None),
                "--fetch" => options.fetch = Some(String::new()),
                "--arch" => arch = Some(value()?),
                "--out" => options.out = Some(value()?),
                "--kernel" => options.kernel = Some(value()?),
                "--modules" => options.modules = Some(value()?),
                "--flavour" => options.flavour = Some(value()?),
                "--levels" => options.levels = Some(levels(&value()?)?),
                "--memory" => options.memory = Some(value()?),
                "--movable" => options.movable = value()?,
                "--cma" => options.cma = Some(value()?),
                "--append" => options.append = value()?,
                other if other.starts_with("--fetch=") => {
                    options.fetch = other.strip_prefix("--fetch=").map(str::to_owned);
                }
                other => return Err(format!("capture: there is no option `{other}`")),
            }
        }
        options.arch = Arch::named(&arch.ok_or("capture: --arch is missing (see --help)")?)?;
        if options.out.is_none() && options.fetch.is_none() {
            return Err("capture: --out is missing (see --help)".into());
        }
        if let Some(levels) =
            options.levels.filter(|_| (options.arch.machine)(options.levels).is_none())
        {
            return Err(format!("capture: --levels {levels}: not on {}", options.arch.name));
        }
        Ok(Some(options))
    }

    /// The kernel command line. Addresses are not randomized, so that captures are alike. There are
    /// no bounce buffers, which would take a sixth of the memory.
    pub(super) fn command_line(&self) -> String {
        let Self { arch, movable, append, .. } = self;
        let cma = self.cma.as_deref().unwrap_or(arch.cma);
        let line = format!(
            "console={} panic=-1 nokaslr norandmaps secretmem.enable=1 movablecore={movable} \
             cma={cma} swiotlb=noforce {} {append}",
            arch.console, arch.words
        );
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn levels(text: &str) -> Result<u8, String> {
    text.parse().map_err(|error| format!("capture: --levels {text}: {error}"))
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
        assert_eq!(fetch("--arch x86_64 --fetch"), Some(String::new()));
        assert_eq!(fetch("--fetch=6.12 --arch x86_64 --out x"), Some("6.12".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (args, word) in [
            ("--out x", "--arch"),
            ("--arch x86_64", "--out"),
            ("--arch mips --out x", "mips"),
            ("--arch x86_64 --out x --levels 3", "--levels 3"),
            ("--levels 5 --arch aarch64 --out x", "not on aarch64"),
            ("--arch aarch64 --out x --levels many", "--levels many"),
            ("--arch x86_64 --out x --fetched", "--fetched"),
            ("--kernel", "--kernel wants"),
        ] {
            let why = read(args).expect_err(args);
            assert!(why.contains(word), "{why}");
        }
        assert!(read("--help --nonsense").expect("help comes first").is_none());
    }
}
