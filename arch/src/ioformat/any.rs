//! One of the built-in IOMMU formats, chosen at run time: what [`AnyFormat`](crate::AnyFormat) is for
//! page tables.

use super::amdvi::AmdVi;
use super::smmu::Smmu;
use super::tce::Tce;
use super::vtd::Vtd;
use super::zpci::Zpci;
use super::{IoEntry, IoFormat, IoTable, LeafSizes};
use crate::addr::{Iova, PageShift, PhysAddr};
use crate::format::EncodeError;

/// Writes the enumeration, and hands each call on to the format inside.
macro_rules! formats {
    ($($Format:ident),*) => {
        /// Any of the built-in IOMMU formats, with its configuration.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum AnyIoFormat {
            $(#[doc = concat!("See [`", stringify!($Format), "`].")] $Format($Format),)*
        }

        $(impl From<$Format> for AnyIoFormat {
            fn from(format: $Format) -> Self {
                Self::$Format(format)
            }
        })*

        impl IoFormat for AnyIoFormat {
            fn name(&self) -> &'static str {
                match self { $(Self::$Format(format) => format.name(),)* }
            }

            fn big_endian(&self) -> bool {
                match self { $(Self::$Format(format) => format.big_endian(),)* }
            }

            fn base(&self) -> PageShift {
                match self { $(Self::$Format(format) => format.base(),)* }
            }

            fn last(&self) -> Iova {
                match self { $(Self::$Format(format) => format.last(),)* }
            }

            fn top(&self, base: PhysAddr) -> IoTable {
                match self { $(Self::$Format(format) => format.top(base),)* }
            }

            fn levels(&self) -> u8 {
                match self { $(Self::$Format(format) => format.levels(),)* }
            }

            fn with_levels(&self, levels: u8) -> Option<Self> {
                match self { $(Self::$Format(format) => format.with_levels(levels).map(Self::from),)* }
            }

            fn below(&self, at: &IoTable, base: PhysAddr) -> Option<IoTable> {
                match self { $(Self::$Format(format) => format.below(at, base),)* }
            }

            fn leaf_sizes(&self, at: &IoTable) -> LeafSizes {
                match self { $(Self::$Format(format) => format.leaf_sizes(at),)* }
            }

            #[inline]
            fn decode(&self, at: &IoTable, raw: u64) -> IoEntry {
                match self { $(Self::$Format(format) => format.decode(at, raw),)* }
            }

            #[inline]
            fn encode(&self, at: &IoTable, index: u32, entry: IoEntry) -> Result<u64, EncodeError> {
                match self { $(Self::$Format(format) => format.encode(at, index, entry),)* }
            }

            fn address_bits(&self, at: &IoTable) -> u64 {
                match self { $(Self::$Format(format) => format.address_bits(at),)* }
            }

            fn volatile_bits(&self) -> u64 {
                match self { $(Self::$Format(format) => format.volatile_bits(),)* }
            }

            fn replaces(&self) -> bool {
                match self { $(Self::$Format(format) => format.replaces(),)* }
            }

            fn splits(&self) -> bool {
                match self { $(Self::$Format(format) => format.splits(),)* }
            }
        }
    };
}

formats! { AmdVi, Smmu, Tce, Vtd, Zpci }
