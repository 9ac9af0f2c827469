//! The machine under QEMU: starts it, waits for init, stops it, reads registers and memory.
//!
//! QEMU's control protocol (QMP) runs over the child's standard input and output, one JSON object
//! a line. What we need of JSON is one string, so there is no JSON library here.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::kernel::missing;
use super::options::Options;

const QEMU: &str = "qemu-system-x86_64";
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the machine is stopped until that is in user mode.
const STOPS: u32 = 20;
/// What init prints is here, the kernel's console there, and a table page passes through the last.
const OUTPUT: &str = "init.log";
const CONSOLE: &str = "console.log";
const TABLE: &str = "table.bin";

/// A running or stopped machine; it ends with this value.
#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    work: PathBuf,
}

/// The registers that say how to walk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    pub(super) root: u64,
    pub(super) la57: bool,
    pub(super) no_execute: bool,
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
        work: &Path,
    ) -> Result<Self, String> {
        for log in [OUTPUT, CONSOLE] {
            fs::write(work.join(log), "").map_err(|error| format!("{log}: {error}"))?;
        }
        let mut child = Command::new(QEMU)
            .args(["-M", "q35", "-accel", "tcg", "-cpu", "max,la57=off", "-smp", "1"])
            .args(["-device", "edu,addr=5", "-display", "none", "-no-reboot", "-qmp", "stdio"])
            .args(["-serial", &format!("file:{CONSOLE}"), "-serial", &format!("file:{OUTPUT}")])
            .args(["-m", &options.memory, "-append", &options.command_line()])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .current_dir(work)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| missing(QEMU, "qemu-system-x86", &error))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("{QEMU} has no standard input or output"));
        };
        let work = work.to_owned();
        let mut machine = Self { child, to, from: BufReader::new(from), work };
        machine.command("qmp_capabilities", "{}")?;
        Ok(machine)
    }

    /// Waits until init has printed all, with a sign of life each second.
    pub(super) fn wait_until_ready(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        let mut shown = 0;
        loop {
            if self.output()?.lines().any(|line| line == "READY") {
                println!("ready     after {:.1} s", begin.elapsed().as_secs_f32());
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{QEMU} ended: {status}; {}", self.last_line()));
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("init was not ready in five minutes; {}", self.last_line()));
            }
            if begin.elapsed().as_secs() > shown {
                shown = begin.elapsed().as_secs();
                println!("booting   {shown} s");
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn last_line(&self) -> String {
        let console = fs::read(self.work.join(CONSOLE)).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let last = console.lines().last().unwrap_or("the console is empty");
        format!("{last} ({})", self.work.join(CONSOLE).display())
    }

    /// What init has printed until now.
    pub(super) fn output(&self) -> Result<String, String> {
        let bytes = fs::read(self.work.join(OUTPUT)).map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }

    /// Stops the machine while init spins in user mode: the root register is then its own.
    pub(super) fn stop(&mut self) -> Result<Registers, String> {
        for _ in 0..STOPS {
            // Past the system call that wrote the last line, or past an interrupt.
            sleep(Duration::from_millis(300));
            self.command("stop", "{}")?;
            if let Some(registers) = self.registers()? {
                return Ok(registers);
            }
            self.command("cont", "{}")?;
        }
        Err(format!("stopped {STOPS} times, each time inside the kernel"))
    }

    /// `None` when the processor is not in user mode.
    fn registers(&mut self) -> Result<Option<Registers>, String> {
        let monitor = "{\"command-line\": \"info registers\"}";
        let text = unescape(&self.command("human-monitor-command", monitor)?);
        let register = |name: &str| {
            let value = text.split_whitespace().find_map(|word| word.strip_prefix(name));
            value
                .and_then(|value| u64::from_str_radix(value, 16).ok())
                .ok_or(format!("{QEMU} does not tell {name}"))
        };
        if register("CPL=")? != 3 {
            return Ok(None);
        }
        Ok(Some(Registers {
            root: register("CR3=")?,
            la57: register("CR4=")? & 1 << 12 != 0,
            no_execute: register("EFER=")? & 1 << 11 != 0,
        }))
    }

    /// The 512 entries of the table at a physical address.
    pub(super) fn read_table(&mut self, addr: u64) -> Result<Vec<u64>, String> {
        let size = 4096;
        let arguments = format!("{{\"val\": {addr}, \"size\": {size}, \"filename\": \"{TABLE}\"}}");
        self.command("pmemsave", &arguments)?;
        let bytes = fs::read(self.work.join(TABLE)).map_err(|error| error.to_string())?;
        if bytes.len() != size {
            return Err(format!("{QEMU} gave {} bytes of the table at {addr:#x}", bytes.len()));
        }
        let word =
            |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        Ok(bytes.chunks(8).map(word).collect())
    }

    /// Sends a command and returns the line that answers it.
    fn command(&mut self, name: &str, arguments: &str) -> Result<String, String> {
        let line = format!("{{\"execute\": \"{name}\", \"arguments\": {arguments}}}\n");
        let failed = |error: std::io::Error| format!("{QEMU}: {error}");
        self.to.write_all(line.as_bytes()).map_err(failed)?;
        self.to.flush().map_err(failed)?;
        loop {
            let mut reply = String::new();
            if self.from.read_line(&mut reply).map_err(failed)? == 0 {
                return Err(format!("{QEMU} ended; {}", self.last_line()));
            }
            // Others are the greeting and events.
            if reply.starts_with("{\"return\"") {
                return Ok(reply);
            }
            if reply.starts_with("{\"error\"") {
                return Err(format!("{QEMU} refused {name}: {}", reply.trim()));
            }
        }
    }
}

/// The text of a reply that is one JSON string; all its escapes are of white space here.
fn unescape(reply: &str) -> String {
    reply.replace("\\r", "\r").replace("\\n", "\n").replace("\\t", "\t")
}
