//! Locked-memory limits: who pays for pinned pages.

use pinfold_arch::PageCount;

use crate::request::AccountId;

/// The charge would exceed the account's limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the account's locked-memory limit is reached")]
pub struct OverLimit;

/// Charges and uncharges locked pages.
///
/// A request is charged as a whole before its first pin and given back, to the same account, after
/// its last unpin or on any failure. What goes wrong otherwise: [`account`](super::duties#account).
pub trait Account {
    /// Adds `pages` to what `account` has locked.
    ///
    /// # Context
    /// Any; must not sleep.
    ///
    /// # Errors
    /// [`OverLimit`], and nothing is charged.
    fn charge(&self, account: AccountId, pages: PageCount) -> Result<(), OverLimit>;

    /// Takes back what [`charge`](Self::charge) added. Cannot fail.
    fn uncharge(&self, account: AccountId, pages: PageCount);
}

/// No limits and no books.
#[derive(Clone, Copy, Debug)]
pub struct NoAccount;

impl Account for NoAccount {
    fn charge(&self, _: AccountId, _: PageCount) -> Result<(), OverLimit> {
        Ok(())
    }
    fn uncharge(&self, _: AccountId, _: PageCount) {}
}
