//! The command's arguments.

pub(super) const HELP: &str = "\
usage: cargo xtask capture --arch ARCH --out FILE [OPTIONS]

Boots a Debian kernel under QEMU, lays out a process's memory in it, and writes the process's
page tables and what the kernel said about them. Takes about ten seconds.

  --arch ARCH       x86_64 (the only one so far)
  --out FILE        where the snapshot goes
  --kernel IMAGE    the kernel to boot; without it the newest one in target/kernels
  --fetch           download Debian's current cloud kernel into target/kernels when none is there
  --memory SIZE     memory of the machine (384M)
  --movable SIZE    how much of it is a movable zone (48M)
  --cma AREA        size and place of the contiguous allocator's area (160M@80M). Debian's kernels
                    for x86_64 are built without that allocator and ignore it
  --append TEXT     more words for the kernel command line

Two captures of one kernel differ in a few frames: where the kernel's own allocations fell.
Needs qemu-system-x86_64 and gcc. Leaves its logs in target/capture.
";

/// What to capture and how.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) out: String,
    pub(super) kernel: Option<String>,
    pub(super) fetch: bool,
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
            fetch: false,
            memory: "384M".into(),
            movable: "48M".into(),
            cma: "160M@80M".into(),
            append: String::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or(format!("capture: {arg} wants a value"));
            match arg.as_str() {
                "-h" | "--help" => return Ok(None),
                "--fetch" => options.fetch = true,
                "--arch" => arch = Some(value()?),
                "--out" => out = Some(value()?),
                "--kernel" => options.kernel = Some(value()?),
                "--memory" => options.memory = value()?,
                "--movable" => options.movable = value()?,
                "--cma" => options.cma = value()?,
                "--append" => options.append = value()?,
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

    /// The kernel command line. Addresses are not randomized, so that captures are alike.
    pub(super) fn command_line(&self) -> String {
        let Self { movable, cma, append, .. } = self;
        let line = format!(
            "console=ttyS0 panic=-1 nokaslr norandmaps secretmem.enable=1 movablecore={movable} \
             cma={cma} {append}"
        );
        line.trim_end().to_owned()
    }
}
