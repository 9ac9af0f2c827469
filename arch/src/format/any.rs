//! One of the built-in formats, chosen at run time.
//!
//! For whoever learns only then which tables it is given: a C caller, a snapshot, a tool. Rust users
//! who know take the concrete type, and pay for no choice.

use super::aarch64::{Aarch64, Aarch64Stage2};
use super::power_radix::PowerRadix;
use super::s390x::S390x;
use super::x86_64::X86_64;
use super::{EncodeError, Entry, Geometry, LeafFlags, PageFormat, Table};
use crate::addr::{AddrRange, PageShift, PhysAddr};

/// Writes the enumeration, and hands each call on to the format inside.
macro_rules! formats {
    ($(#[$doc:meta])* $see:vis enum $Any:ident { $($Format:ident),* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $see enum $Any {
            $(#[doc = concat!("See [`", stringify!($Format), "`].")] $Format($Format),)*
        }

        $(impl From<$Format> for $Any {
            fn from(format: $Format) -> Self {
                Self::$Format(format)
            }
        })*

        impl PageFormat for $Any {
            fn name(&self) -> &'static str {
                match self { $(Self::$Format(format) => format.name(),)* }
            }

            fn big_endian(&self) -> bool {
                match self { $(Self::$Format(format) => format.big_endian(),)* }
            }

            fn base(&self) -> PageShift {
                match self { $(Self::$Format(format) => format.base(),)* }
            }

            fn valid(&self, range: &AddrRange) -> bool {
                match self { $(Self::$Format(format) => format.valid(range),)* }
            }

            #[inline]
            fn decode(&self, at: &Table, raw: u64) -> Entry {
                match self { $(Self::$Format(format) => format.decode(at, raw),)* }
            }

            fn encode(&self, at: &Table, entry: Entry) -> Result<u64, EncodeError> {
                match self { $(Self::$Format(format) => format.encode(at, entry),)* }
            }

            #[inline]
            fn address_bits(&self, at: &Table) -> u64 {
                match self { $(Self::$Format(format) => format.address_bits(at),)* }
            }

            fn volatile_bits(&self) -> u64 {
                match self { $(Self::$Format(format) => format.volatile_bits(),)* }
            }
        }

        impl Geometry for $Any {
            fn top(&self, base: PhysAddr) -> Table {
                match self { $(Self::$Format(format) => format.top(base),)* }
            }

            fn below(&self, at: &Table, base: PhysAddr) -> Option<Table> {
                match self { $(Self::$Format(format) => format.below(at, base),)* }
            }

            fn leaf_at(&self, at: &Table) -> bool {
                match self { $(Self::$Format(format) => format.leaf_at(at),)* }
            }

            fn flags(&self) -> LeafFlags {
                match self { $(Self::$Format(format) => format.flags(),)* }
            }
        }
    };
}

formats! {
    /// Any of the built-in formats, with its configuration.
    #[non_exhaustive]
    pub enum AnyFormat { X86_64, Aarch64, Aarch64Stage2, S390x, PowerRadix }
}

formats! {
    /// Either stage of aarch64.
    pub(crate) enum AnyStage { Aarch64, Aarch64Stage2 }
}
