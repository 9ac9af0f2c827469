//! Books of what is charged to whom.

use std::collections::BTreeMap;
use std::sync::Mutex;

use pinfold::host::OverLimit;
use pinfold::{AccountId, PageCount};

use crate::lock::lock;

#[derive(Clone, Copy, Default, Debug)]
struct Book {
    charged: u64,
    limit: Option<u64>,
}

/// All accounts. Without a limit an account may be charged anything.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    books: Mutex<BTreeMap<u32, Book>>,
}

impl Accounts {
    pub(crate) fn limit(&self, account: AccountId, pages: Option<PageCount>) {
        lock(&self.books).entry(account.0).or_default().limit = pages.map(PageCount::raw);
    }

    pub(crate) fn charge(&self, account: AccountId, pages: PageCount) -> Result<(), OverLimit> {
        let mut books = lock(&self.books);
        let book = books.entry(account.0).or_default();
        let sum = book.charged.checked_add(pages.raw()).ok_or(OverLimit)?;
        if book.limit.is_some_and(|limit| sum > limit) {
            return Err(OverLimit);
        }
        book.charged = sum;
        Ok(())
    }

    /// Whether so much was charged.
    pub(crate) fn uncharge(&self, account: AccountId, pages: PageCount) -> bool {
        let mut books = lock(&self.books);
        let book = books.entry(account.0).or_default();
        let left = book.charged.checked_sub(pages.raw());
        book.charged = left.unwrap_or(0);
        left.is_some()
    }

    /// Accounts that are charged anything, with how much.
    pub(crate) fn charged(&self) -> BTreeMap<u32, u64> {
        let books = lock(&self.books);
        let charged = books.iter().filter(|(_, book)| book.charged != 0);
        charged.map(|(id, book)| (*id, book.charged)).collect()
    }
}
