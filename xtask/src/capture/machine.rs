//! The machine under QEMU: starts it, waits for init, stops it in user mode.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::arch::Arch;
use super::disk;
use super::gdb::Gdb;
use super::kernel::missing;
use super::options::Options;
use super::report;

const PATIENCE: Duration = Duration::from_secs(300);
/// How often the machine is stopped until that is in user mode.
const STOPS: u32 = 20;
/// What the kernel and then init print.
const CONSOLE: &str = "console.log";
/// Same content, one for files and one for DAX; what the machine writes stays in its memory.
const DISKS: [&str; 2] = ["disk0", "disk1"];

/// A running or stopped machine; it ends with this value.
#[derive(Debug)]
pub(super) struct Machine {
    arch: &'static Arch,
    child: Child,
    pub(super) gdb: Gdb,
    console: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    pub(super) fn start(
        options: &Options,
        kernel: &Path,
        initramfs: &Path,
        with_disk: bool,
        work: &Path,
    ) -> Result<Self, String> {
        let arch = options.arch;
        let console = work.join(CONSOLE);
        fs::write(&console, "").map_err(|error| format!("{}: {error}", console.display()))?;
        let (program, package) = arch.qemu;
        let mut child = Command::new(program)
            .args(arguments(options, with_disk)?)
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .current_dir(work)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| missing(program, package, &error))?;
        let gdb = Gdb::of(&mut child, arch.registers)?;
        let mut machine = Self { arch, child, gdb, console };
        machine.gdb.go_on()?;
        Ok(machine)
    }

    /// Waits until init has printed a line, with a sign of life each second.
    pub(super) fn wait_for(&mut self, line: &str, doing: &str) -> Result<(), String> {
        let begin = Instant::now();
        let mut shown = 0;
        loop {
            let output = self.output()?;
            if output.lines().any(|printed| printed == line) {
                println!("{doing:<9} took {:.1} s", begin.elapsed().as_secs_f32());
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("QEMU ended: {status}; {}", self.last_line()));
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("no {line} in five minutes; {}", self.last_line()));
            }
            if begin.elapsed().as_secs() > shown {
                shown = begin.elapsed().as_secs();
                let answers = output.lines().filter(|printed| printed.starts_with("V ")).count();
                let answers =
                    if answers > 0 { format!(", {answers} answers") } else { String::new() };
                println!("{doing:<9} {shown} s{answers}");
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn last_line(&self) -> String {
        let console = self.printed().unwrap_or_default();
        let panic = console.lines().find(|line| line.contains("Kernel panic"));
        let last = panic.or(console.lines().last()).unwrap_or("the console is empty");
        format!("{last} ({})", self.console.display())
    }

    fn printed(&self) -> Result<String, String> {
        let failed = |error| format!("{}: {error}", self.console.display());
        let bytes = fs::read(&self.console).map_err(failed)?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }

    /// What init has printed until now.
    pub(super) fn output(&self) -> Result<String, String> {
        let printed = self.printed()?;
        let begin = format!("\n{}\n", report::BEGIN);
        Ok(printed.split_once(&begin).map_or("", |(_, output)| output).to_owned())
    }

    /// Stops the machine while init spins in user mode: its registers are then that process's.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        for _ in 0..STOPS {
            // Past the system call that wrote the last line, or past an interrupt.
            sleep(Duration::from_millis(300));
            self.gdb.stop()?;
            if (self.arch.in_user_mode)(&mut self.gdb)? {
                return Ok(());
            }
            self.gdb.go_on()?;
        }
        Err(format!("stopped {STOPS} times, each time inside the kernel"))
    }
}

fn arguments(options: &Options, with_disk: bool) -> Result<Vec<String>, String> {
    let arch = options.arch;
    let machine = (arch.machine)(options.levels).ok_or("capture: no such --levels there")?;
    let (console, line) = (format!("file:{CONSOLE}"), options.command_line());
    let memory = options.memory.as_deref().unwrap_or(arch.memory);
    let memory = if arch.persistent { format!("{memory},maxmem=4G") } else { memory.to_owned() };
    let all = [
        machine,
        &["-accel", "tcg", "-smp", "1", "-m", &memory, "-display", "none", "-monitor", "none"],
        &[
            "-nic",
            "none",
            "-no-reboot",
            "-S",
            "-gdb",
            "stdio",
            "-serial",
            &console,
            "-append",
            &line,
        ],
    ];
    let mut all: Vec<String> = all.concat().into_iter().map(str::to_owned).collect();
    let (path, size) = (disk::IMAGE, disk::BYTES);
    if with_disk && arch.persistent {
        for name in DISKS {
            let memory =
                format!("memory-backend-file,id={name},mem-path={path},size={size},share=off");
            let device = format!("virtio-pmem-pci,memdev={name}");
            all.extend(["-object".to_owned(), memory, "-device".to_owned(), device]);
        }
    } else if with_disk {
        let drive = format!("if=virtio,format=raw,snapshot=on,file={path}");
        all.extend(["-drive".to_owned(), drive]);
    }
    Ok(all)
}
