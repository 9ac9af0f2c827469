//! What the registers of the stopped machine say about its page tables: which format they are in,
//! and where they begin.

use pinfold_arch::format::FormatError;
use pinfold_arch::format::s390x::Facilities;
use pinfold_arch::{Aarch64, AnyFormat, PageFormat, PageShift, PowerRadix, S390x, Table, X86_64};

use super::bytes::{Reader, put_number};
use super::{Snapshot, SnapshotError};

/// An architecture that snapshots exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotArch {
    /// x86_64 with 4 KiB base pages.
    X86_64,
    /// aarch64, VMSAv8-64 stage 1.
    Aarch64,
    /// s390x, dynamic address translation.
    S390x,
    /// 64-bit POWER with radix-tree translation.
    PowerRadix,
}

impl SnapshotArch {
    const ALL: [Self; 4] = [Self::X86_64, Self::Aarch64, Self::S390x, Self::PowerRadix];

    /// Number of this architecture in the file's header.
    pub const fn id(self) -> u32 {
        match self {
            Self::X86_64 => 1,
            Self::Aarch64 => 2,
            Self::S390x => 3,
            Self::PowerRadix => 4,
        }
    }

    pub(super) fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.id() == id)
    }

    /// Entries of every table, where all have the same number; then the file does not say it.
    pub(super) const fn table_entries(self) -> Option<usize> {
        match self {
            Self::X86_64 => Some(512),
            Self::Aarch64 | Self::S390x | Self::PowerRadix => None,
        }
    }
}

/// The registers that say how the user half of a space is translated, as they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mmu {
    /// x86_64.
    X86_64 {
        /// CR3; its low 12 bits are not part of the address.
        cr3: u64,
        /// Levels of tables: 5 where CR4.LA57 is set, otherwise 4.
        levels: u8,
        /// Width of a physical address in bits.
        phys_bits: u8,
        /// Whether the no-execute bit of an entry has its meaning (EFER.NXE).
        no_execute: bool,
    },
    /// aarch64.
    Aarch64 {
        /// TTBR0_EL1.
        ttbr0: u64,
        /// TCR_EL1: granule, size of the address space, whether addresses have 52 bits (DS), and who
        /// keeps the access flag and the dirty state.
        tcr: u64,
        /// Width of a physical address in bits (ID_AA64MMFR0_EL1.PARange); TCR_EL1.IPS may say less.
        pa_bits: u8,
    },
    /// s390x.
    S390x {
        /// The primary address-space-control element, control register 1.
        asce: u64,
        /// What the CPU adds to the format and control register 0 has enabled.
        facilities: Facilities,
    },
    /// POWER.
    PowerRadix {
        /// First doubleword of the process's entry in the process table, in the processor's order
        /// of bytes.
        process: u64,
    },
}

/// Why a snapshot's registers name no tables that can be walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MmuError {
    /// The format does not exist like this, or its root is none.
    #[error("page-table format: {0}")]
    Format(#[from] FormatError),
    /// The kernel has other base pages than its tables.
    #[error("base pages of {said} bytes, but the tables have them of {tables}")]
    BasePages {
        /// What the snapshot says, in bytes.
        said: u64,
        /// What the registers say, in bytes.
        tables: u64,
    },
}

impl Mmu {
    /// Whose registers these are.
    #[must_use]
    pub const fn arch(&self) -> SnapshotArch {
        match self {
            Self::X86_64 { .. } => SnapshotArch::X86_64,
            Self::Aarch64 { .. } => SnapshotArch::Aarch64,
            Self::S390x { .. } => SnapshotArch::S390x,
            Self::PowerRadix { .. } => SnapshotArch::PowerRadix,
        }
    }

    /// The format and its top table. Where the registers say what the base pages are, `base` is not
    /// asked.
    fn tables(&self, base: PageShift) -> Result<(AnyFormat, Table), MmuError> {
        match *self {
            Self::X86_64 { cr3, levels, phys_bits, no_execute } => {
                let format = X86_64::new(levels, phys_bits)?.with_no_execute(no_execute);
                Ok((format.into(), format.root(cr3)?))
            }
            Self::Aarch64 { ttbr0, tcr, pa_bits } => {
                let format = Aarch64::from_tcr(tcr, false, pa_bits)?;
                Ok((format.into(), format.root(ttbr0)?))
            }
            Self::S390x { asce, facilities } => {
                let (format, root) = S390x::from_asce(asce, facilities)?;
                Ok((format.into(), root))
            }
            Self::PowerRadix { process } => {
                let (format, root) = PowerRadix::from_process_entry(base, process)?;
                Ok((format.into(), root))
            }
        }
    }
}

impl Snapshot {
    /// The format of the captured tables, and their top table: the one place where registers become
    /// these.
    ///
    /// # Errors
    /// [`MmuError`] if there is no such format or no such root.
    ///
    /// # Examples
    ///
    /// ```
    /// use pinfold::PageFormat;
    /// use pinfold_sim::snapshot::Snapshot;
    ///
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/snapshots/x86_64-6.12.snap");
    /// let snapshot = Snapshot::parse(&std::fs::read(path)?)?;
    /// let (format, root) = snapshot.format()?;
    /// assert_eq!(format.name(), "x86_64");
    /// assert!(snapshot.tables.iter().any(|table| table.addr == root.base.raw()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn format(&self) -> Result<(AnyFormat, Table), MmuError> {
        let base = PageShift::new(self.base_shift);
        let (format, root) = self.mmu.tables(base.unwrap_or(PageShift::SIZE_4K))?;
        let said = base.map_or(0, PageShift::bytes);
        let tables = format.base().bytes();
        if said != tables {
            return Err(MmuError::BasePages { said, tables });
        }
        Ok((format, root))
    }
}

/// The payload of `MMU `: the registers, and log2 of the base page size.
pub(super) fn read(
    arch: SnapshotArch,
    reader: &mut Reader<'_>,
) -> Result<(Mmu, u8), SnapshotError> {
    let within = |reader: &mut Reader<'_>, limits: std::ops::RangeInclusive<u8>, what| {
        let at = reader.at();
        let value = reader.byte()?;
        if limits.contains(&value) { Ok(value) } else { Err(reader.bad(at, what)) }
    };
    const WIDTH: &str = "width of physical addresses";
    let mmu = match arch {
        SnapshotArch::X86_64 => Mmu::X86_64 {
            cr3: reader.number()?,
            levels: within(reader, 4..=5, "number of levels")?,
            phys_bits: within(reader, 32..=64, WIDTH)?,
            no_execute: within(reader, 0..=1, "flag")? == 1,
        },
        SnapshotArch::Aarch64 => Mmu::Aarch64 {
            ttbr0: reader.number()?,
            tcr: reader.number()?,
            pa_bits: within(reader, 32..=64, WIDTH)?,
        },
        SnapshotArch::S390x => {
            let asce = reader.number()?;
            let bits = within(reader, 0..=Facilities::all().bits(), "facilities")?;
            Mmu::S390x { asce, facilities: Facilities::from_bits_truncate(bits) }
        }
        SnapshotArch::PowerRadix => Mmu::PowerRadix { process: reader.number()? },
    };
    Ok((mmu, within(reader, 12..=16, "page size")?))
}

pub(super) fn write(out: &mut Vec<u8>, mmu: &Mmu, base_shift: u8) {
    match *mmu {
        Mmu::X86_64 { cr3, levels, phys_bits, no_execute } => {
            put_number(out, cr3);
            out.extend_from_slice(&[levels, phys_bits, u8::from(no_execute)]);
        }
        Mmu::Aarch64 { ttbr0, tcr, pa_bits } => {
            put_number(out, ttbr0);
            put_number(out, tcr);
            out.push(pa_bits);
        }
        Mmu::S390x { asce, facilities } => {
            put_number(out, asce);
            out.push(facilities.bits());
        }
        Mmu::PowerRadix { process } => put_number(out, process),
    }
    out.push(base_shift);
}
