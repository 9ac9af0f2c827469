//! OPAL, the firmware: the console, PCI configuration, and the end.

#![expect(unsafe_code, reason = "calls the firmware")]

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use pinfold_unikernel::pci::Config;

/// Numbers of calls.
const CONSOLE_WRITE: u64 = 1;
const POWER_DOWN: u64 = 5;
const POLL: u64 = 10;
const CONFIG_READ: u64 = 15;
const CONFIG_WRITE: u64 = 18;
pub(super) const SET_PE: u64 = 31;
pub(super) const TCE_KILL: u64 = 126;
const BUSY: i64 = -2;

/// Where OPAL's data is, and where it is entered.
static DATA: AtomicU64 = AtomicU64::new(0);
static ENTRY: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    /// See `start.s`.
    fn opal(call: *const [u64; 10]) -> i64;
}

/// Before any call.
pub(super) fn set(data: u64, entry: u64) {
    DATA.store(data, Ordering::Relaxed);
    ENTRY.store(entry, Ordering::Relaxed);
}

/// Calls OPAL; what is above the arguments is 0.
pub(super) fn call<const N: usize>(number: u64, arguments: [u64; N]) -> i64 {
    let mut all = [0; 10];
    all[0] = number;
    all[1..=N].copy_from_slice(&arguments);
    all[8] = DATA.load(Ordering::Relaxed);
    all[9] = ENTRY.load(Ordering::Relaxed);
    // SAFETY: the firmware keeps to itself but for what arguments point to: places of this module's.
    unsafe { opal(&raw const all) }
}

#[derive(Debug)]
pub(crate) struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let mut length = rest.len() as u64;
            let place = (&raw mut length).expose_provenance() as u64;
            let text = rest.as_ptr().expose_provenance() as u64;
            match call(CONSOLE_WRITE, [0, place, text]) {
                0 => rest = rest.get(length as usize..).unwrap_or_default(),
                BUSY => _ = call(POLL, [0]),
                _ => return Err(fmt::Error),
            }
        }
        Ok(())
    }
}

/// PCI configuration of one bus of a host bridge.
#[derive(Debug)]
pub(super) struct Bus {
    pub(super) bridge: u64,
    pub(super) bus: u8,
}

impl Bus {
    /// A function's requester id.
    pub(super) fn requester(&self, function: u8) -> u64 {
        u64::from(self.bus) << 8 | u64::from(function)
    }
}

impl Config for Bus {
    fn read(&mut self, function: u8, offset: u8) -> u32 {
        let mut value = u32::MAX;
        let place = (&raw mut value).expose_provenance() as u64;
        let at = [self.bridge, self.requester(function), offset.into(), place];
        // What is not there reads as all ones.
        if call(CONFIG_READ, at) == 0 { value } else { u32::MAX }
    }

    fn write(&mut self, function: u8, offset: u8, value: u32) {
        let at = [self.bridge, self.requester(function), offset.into(), value.into()];
        assert_eq!(call(CONFIG_WRITE, at), 0, "configuration of {function:#x}");
    }
}

/// Ends QEMU, whose exit code says nothing.
pub(crate) fn exit(_: bool) -> ! {
    call(POWER_DOWN, [0]);
    loop {
        call(POLL, [0]);
    }
}
