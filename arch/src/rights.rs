//! What a caller asks for and what a page table grants.

bitflags::bitflags! {
    /// What the device will do with the memory.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Access: u8 {
        /// The device reads memory.
        const READ = 1;
        /// The device writes memory.
        const WRITE = 2;
    }
}

bitflags::bitflags! {
    /// What an entry, or a whole path of entries, allows. Rights only narrow on the way down: the
    /// walker takes the intersection.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Rights: u8 {
        /// Loads are allowed.
        const READ = 1;
        /// Stores are allowed.
        const WRITE = 2;
        /// Instruction fetches are allowed.
        const EXECUTE = 4;
        /// Unprivileged code may use it.
        const USER = 8;
    }
}

impl Rights {
    /// What unprivileged code needs to do what `access` asks.
    #[must_use]
    pub const fn needed(access: Access) -> Self {
        let read = if access.contains(Access::READ) { Self::READ } else { Self::empty() };
        let write = if access.contains(Access::WRITE) { Self::WRITE } else { Self::empty() };
        Self::USER.union(read).union(write)
    }

    /// Whether unprivileged code with these rights could do what `access` asks.
    #[must_use]
    pub const fn allow(self, access: Access) -> bool {
        self.contains(Self::needed(access))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privileged_page_allows_nothing() {
        assert!(!Rights::all().difference(Rights::USER).allow(Access::READ));
    }

    #[test]
    fn writing_needs_the_write_right() {
        let read_only = Rights::READ | Rights::USER;
        assert!(read_only.allow(Access::READ));
        assert!(!read_only.allow(Access::WRITE));
        assert!(!read_only.allow(Access::READ | Access::WRITE));
    }
}
