//! What a real-mode function must keep to, in tables: the functions that must be there, what they
//! may cost, and the loops that they may have.

use super::isa::Isa;

/// The section of every real-mode function, until a linker merges it with others.
pub(crate) const SECTION: &str = ".text.realmode";

/// One call of the real-mode interface, as C and Rust name it.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) c: &'static str,
    pub(crate) rust: &'static str,
    /// The most bytes of code on x86_64, with everything that it calls. A function that only takes
    /// arguments from C and calls another that is here may add [`WRAPPER_BYTES`].
    pub(crate) bytes: Option<u64>,
    /// How many instructions change memory that others see.
    pub(crate) changes: Changes,
}

/// Atomic read-modify-write instructions in the code, callees included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    /// On no machine.
    None,
    /// Exactly one on x86_64; on others a compiler may write it several times.
    One,
}

/// The most bytes on x86_64 of a C function, besides the Rust function that it calls.
pub(crate) const WRAPPER_BYTES: u64 = 128;

const fn service(
    c: &'static str,
    rust: &'static str,
    bytes: Option<u64>,
    changes: Changes,
) -> Service {
    Service { c, rust, bytes, changes }
}

impl Service {
    /// The most plain stores of the function with this name, callees included. What changes nothing
    /// has an answer: C gives a pointer for it, Rust's comes in registers.
    pub(crate) fn stores(&self, name: &str) -> u64 {
        u64::from(self.changes == Changes::None && name == self.c)
    }
}

/// The calls that must be there.
pub(crate) const SERVICES: &[Service] = &[
    service(
        "pinfold_realmode_lookup",
        "pinfold::realmode::RealMode::lookup",
        Some(256),
        Changes::None,
    ),
    service(
        "pinfold_realmode_translate",
        "pinfold::realmode::RealMode::translate",
        None,
        Changes::None,
    ),
    service("pinfold_realmode_map_get", "pinfold::realmode::RealMode::map_get", None, Changes::One),
    service("pinfold_realmode_map_put", "pinfold::realmode::RealMode::map_put", None, Changes::One),
    service(
        "pinfold_realmode_mark_dirty",
        "pinfold::realmode::RealMode::mark_dirty",
        None,
        Changes::One,
    ),
];

/// The service that has this readable name.
pub(crate) fn service_named(name: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|service| service.c == name || service.rust == name)
}

/// How often the first instruction of a loop runs at most, and what in the source says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) rounds: u64,
    pub(crate) why: &'static str,
}

/// Levels of the directory: each is `NODE_ORDER` bits below the last, from a shift below 64 on.
const DIRECTORY: Bound = Bound { rounds: 8, why: "64 / NODE_ORDER levels of a directory" };
/// Nodes of a pin table on the way to an entry: `layout::is_below` has room for three.
const TABLE: Bound = Bound { rounds: 3, why: "layout::is_below: three levels of a pin table" };
/// Tries to change a word that others change.
const TRIES: Bound = Bound { rounds: 64, why: "sync::TRIES" };

/// The loops that a function may have besides those that only reserve again: at most one that reads, and at
/// most one that changes memory. A compiler may have unrolled either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loops {
    pub(crate) reading: Option<Bound>,
    pub(crate) changing: Option<Bound>,
}

const LOOPS: &[(&str, Loops)] = &[
    ("lookup", Loops { reading: Some(DIRECTORY), changing: None }),
    ("translate", Loops { reading: Some(TABLE), changing: None }),
    ("map_get", Loops { reading: None, changing: Some(TRIES) }),
    ("map_put", Loops { reading: None, changing: Some(TRIES) }),
    ("mark_dirty", Loops { reading: Some(TABLE), changing: Some(TRIES) }),
];

/// The loops that the function of this readable name may have.
pub(crate) fn loops(name: &str) -> Loops {
    let service = service_named(name);
    let method = service.and_then(|service| service.rust.rsplit("::").next());
    LOOPS
        .iter()
        .find(|(of, _)| method == Some(*of))
        .map_or_else(Loops::default, |(_, loops)| *loops)
}

impl Loops {
    /// The bound of a loop that changes memory, or of one that does not.
    pub(crate) fn bound(&self, changes: bool) -> Option<Bound> {
        if changes { self.changing } else { self.reading }
    }
}

/// The most bytes of stack that a call may use, callees included. The calling convention of s390x
/// has each caller leave 160 bytes for whomever it calls.
pub(crate) const fn stack_limit(isa: Isa) -> u64 {
    match isa {
        Isa::X86_64 | Isa::Aarch64 | Isa::Power => 256,
        Isa::S390x => 512,
    }
}
