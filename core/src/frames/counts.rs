//! The count word of a folio, as a value: what may be added and taken away.

/// References, pins, and who owns a folio, as they were at one instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts(pub(super) u64);

impl Counts {
    /// The most references or pins that are counted.
    pub const MAX: u32 = (1 << 31) - 1;
    pub(super) const FROZEN: u64 = 1 << 31;
    pub(super) const CLAIMED: u64 = 1 << 63;

    /// References, pins among them.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "31 bits")]
    pub const fn references(self) -> u32 {
        (self.0 as u32) & Self::MAX
    }

    /// Pins, in pages.
    #[must_use]
    pub const fn pins(self) -> u32 {
        (self.0 >> 32) as u32 & Self::MAX
    }

    /// Whether somebody owns the folio alone.
    #[must_use]
    pub const fn is_frozen(self) -> bool {
        self.0 & Self::FROZEN != 0
    }

    /// Whether somebody is moving it.
    #[must_use]
    pub const fn is_claimed(self) -> bool {
        self.0 & Self::CLAIMED != 0
    }

    /// The word with these counts and the claim of `self`.
    const fn with(self, references: u64, pins: u64) -> Self {
        Self(references | pins << 32 | self.0 & Self::CLAIMED)
    }

    #[inline]
    pub(super) fn plus(self, references: u64, pins: u64) -> Result<Self, CountError> {
        // The bits above the counts are clear but for a claim, and stay clear if the sums fit.
        let sum = Self(self.0.wrapping_add(references | pins << 32));
        let fits = references.max(pins) <= u64::from(Self::MAX);
        if fits && self.references() != 0 && (self.0 | sum.0) & (Self::FROZEN | Self::CLAIMED) == 0
        {
            return Ok(sum);
        }
        self.plus_checked(references, pins)
    }

    /// [`plus`](Self::plus) step by step: what is wrong, or a plain reference beside a claim.
    #[cold]
    fn plus_checked(self, references: u64, pins: u64) -> Result<Self, CountError> {
        let (old_references, old_pins) = (u64::from(self.references()), u64::from(self.pins()));
        if old_references == 0 {
            return Err(CountError::Gone);
        }
        if pins != 0 && self.is_claimed() {
            return Err(CountError::Claimed);
        }
        // Room first, so that a huge argument cannot wrap the sum.
        let max = u64::from(Self::MAX);
        if references > max - old_references || pins > max - old_pins {
            return Err(CountError::Overflow);
        }
        Ok(self.with(old_references + references, old_pins + pins))
    }

    #[inline]
    pub(super) fn minus(self, references: u64, pins: u64) -> Result<Self, CountError> {
        let (old_references, old_pins) = (u64::from(self.references()), u64::from(self.pins()));
        // Nobody holds anything on a folio that is free or that somebody owns alone: not even
        // nothing can be given back, or it would get a second owner.
        if old_references == 0 {
            return Err(CountError::NotHeld);
        }
        // Plain references are those beside the pins; one kind cannot be dropped as the other.
        let plain = references.checked_sub(pins);
        if pins > old_pins || plain.is_none() || plain > old_references.checked_sub(old_pins) {
            return Err(CountError::NotHeld);
        }
        let left = old_references - references;
        if left == 0 {
            return Ok(Self(Self::FROZEN));
        }
        Ok(self.with(left, old_pins - pins))
    }

    pub(super) fn claimed(self) -> Result<Self, CountError> {
        if self.is_claimed() {
            return Err(CountError::Claimed);
        }
        let held = self.plus(1, 0)?;
        Ok(Self(held.0 | Self::CLAIMED))
    }

    pub(super) fn unclaimed(self) -> Result<Self, CountError> {
        if !self.is_claimed() {
            return Err(CountError::NotHeld);
        }
        Self(self.0 & !Self::CLAIMED).minus(1, 0)
    }
}

/// Why a count was not taken or given back. No count has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CountError {
    /// It has no references, or somebody owns it alone.
    #[error("the folio has no references or is frozen")]
    Gone,
    /// Somebody is moving it.
    #[error("the folio is being moved")]
    Claimed,
    /// The count would exceed its limit.
    #[error("the folio's count is at its limit")]
    Overflow,
    /// It is not the folio any more that was looked up.
    #[error("the folio has changed")]
    Changed,
    /// It has fewer counts than were to be taken away.
    #[error("the folio does not have so many counts")]
    NotHeld,
    /// Too many others changed the count at the same time.
    #[error("the folio's count is contended")]
    Contended,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(references: u64, pins: u64) -> Counts {
        Counts(references | pins << 32)
    }

    #[test]
    fn a_count_at_its_limit_refuses_and_stays() {
        let max = u64::from(Counts::MAX);
        assert_eq!(counts(max, 0).plus(1, 1), Err(CountError::Overflow));
        assert_eq!(counts(1, 0).plus(u64::MAX, u64::MAX), Err(CountError::Overflow));
        assert_eq!(counts(1, 0).plus(max - 1, max - 1), Ok(counts(max, max - 1)));
    }

    #[test]
    fn the_short_way_to_add_says_what_the_long_way_says() {
        let max = u64::from(Counts::MAX);
        let edges = [0, 1, 2, max - 1, max, max + 1, u64::MAX - max, u64::MAX];
        let words = [0, 1, max - 1, max, Counts::FROZEN]
            .into_iter()
            .flat_map(|low| [0, 1, max - 1, max].map(|pins| low | pins << 32))
            .flat_map(|word| [word, word | Counts::CLAIMED]);
        for word in words.map(Counts) {
            for (references, pins) in edges.into_iter().flat_map(|r| edges.map(|p| (r, p))) {
                assert_eq!(
                    word.plus(references, pins),
                    word.plus_checked(references, pins),
                    "{word:?} + {references}, {pins}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_added_to_a_folio_without_references() {
        assert_eq!(Counts(0).plus(1, 1), Err(CountError::Gone));
        assert_eq!(Counts(Counts::FROZEN).plus(1, 0), Err(CountError::Gone));
    }

    #[test]
    fn pins_and_plain_references_are_not_mixed_up() {
        assert_eq!(counts(3, 2).minus(3, 3), Err(CountError::NotHeld));
        assert_eq!(counts(3, 2).minus(2, 0), Err(CountError::NotHeld));
        assert_eq!(counts(3, 2).minus(1, 0), Ok(counts(2, 2)));
        assert_eq!(counts(3, 2).minus(2, 2), Ok(counts(1, 0)));
        assert_eq!(Counts(0).minus(1, 1), Err(CountError::NotHeld));
        assert_eq!(Counts(0).minus(0, 0), Err(CountError::NotHeld));
        assert_eq!(Counts(Counts::FROZEN).minus(0, 0), Err(CountError::NotHeld));
    }

    #[test]
    fn the_last_reference_freezes() {
        assert_eq!(counts(2, 2).minus(2, 2), Ok(Counts(Counts::FROZEN)));
    }

    #[test]
    fn a_claim_is_one_reference_and_keeps_pins_off() {
        let claimed = counts(1, 0).claimed().unwrap();
        assert_eq!(claimed.references(), 2);
        assert_eq!(claimed.plus(1, 1), Err(CountError::Claimed));
        assert!(claimed.plus(1, 0).is_ok_and(Counts::is_claimed));
        assert_eq!(claimed.claimed(), Err(CountError::Claimed));
        assert_eq!(claimed.unclaimed(), Ok(counts(1, 0)));
        assert_eq!(counts(1, 0).unclaimed(), Err(CountError::NotHeld));
    }
}
