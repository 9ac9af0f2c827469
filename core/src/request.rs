//! What a caller asks for: which addresses, how, and in whose name.

use pinfold_arch::{Access, AddrRange};

bitflags::bitflags! {
    /// How to pin.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct PinFlags: u32 {
        /// Nobody bounds how long: the long-term policy applies.
        #[doc(alias = "FOLL_LONGTERM")]
        const LONGTERM = 1;
        /// Do not fault: what is absent or not writable is an error.
        #[doc(alias = "FOLL_NOFAULT")]
        const NOFAULT = 2;
        /// Refuse whatever is not anonymous memory.
        #[doc(alias = "FOLL_ANON")]
        const ANONYMOUS = 4;
        /// Accept peer-to-peer device memory. Never together with `LONGTERM`.
        #[doc(alias = "FOLL_PCI_P2PDMA")]
        const PEER_TO_PEER = 8;
    }
}

/// Who holds pins: a device, a domain, a guest. The embedder chooses the numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HolderId(pub u32);

/// What to pin, how, for whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinRequest {
    /// Which addresses.
    pub range: AddrRange,
    /// What the device will do.
    pub access: Access,
    /// How.
    pub flags: PinFlags,
    /// Who holds the pins.
    pub holder: HolderId,
    /// Who is charged.
    pub account: AccountId,
    /// Whether the holder agreed to let go when asked. Recorded with the pins; asking comes later.
    pub revocable: bool,
}

impl PinRequest {
    /// A long-term pin that is not revocable, by holder 0, on account 0. Name other fields where they matter:
    ///
    /// ```
    /// # use pinfold::*;
    /// # let range = AddrRange::new(VirtAddr::new(0), PageCount::ONE, PageShift::SIZE_4K)?;
    /// let request = PinRequest { holder: HolderId(3), ..PinRequest::longterm(range, Access::READ) };
    /// # let _ = request; Ok::<(), pinfold_arch::addr::RangeError>(())
    /// ```
    #[must_use]
    pub const fn longterm(range: AddrRange, access: Access) -> Self {
        Self {
            range,
            access,
            flags: PinFlags::LONGTERM,
            holder: HolderId(0),
            account: AccountId(0),
            revocable: false,
        }
    }
}

/// Who is charged. The embedder chooses the numbers (a process, a user, a control group).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AccountId(pub u32);
