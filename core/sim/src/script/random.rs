//! Scripts by chance, or from the bytes of a fuzzer.
//!
//! A script is made of ideas of a few steps each, so that steps meet: what happens during a pin
//! happens mostly to the memory that is being pinned.

use super::{Deed, How, Op, Part, Script, What};
use crate::inject::HostCall;

impl Script {
    /// A script of at least so many steps, the same for the same seed.
    #[must_use]
    pub fn random(seed: u64, steps: usize) -> Self {
        let mut writer = Writer { dice: Dice::Seed(seed), ops: Vec::new() };
        if writer.dice.often(8) {
            // Later it would mostly be some other mapping that is meant.
            writer.new_block();
        }
        while writer.ops.len() < steps {
            writer.idea();
        }
        Self(writer.ops)
    }

    /// The script that these bytes choose.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut writer = Writer { dice: Dice::Bytes(bytes.iter()), ops: Vec::new() };
        while writer.dice.has_more() {
            writer.idea();
        }
        Self(writer.ops)
    }
}

/// Where choices come from.
enum Dice<'a> {
    Seed(u64),
    Bytes(std::slice::Iter<'a, u8>),
}

impl Dice<'_> {
    fn has_more(&self) -> bool {
        match self {
            Self::Seed(_) => true,
            Self::Bytes(bytes) => bytes.len() > 0,
        }
    }

    fn byte(&mut self) -> u8 {
        match self {
            Self::Seed(state) => {
                // SplitMix64.
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut word = *state;
                word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                (word ^ word >> 31).to_le_bytes()[0]
            }
            Self::Bytes(bytes) => bytes.next().copied().unwrap_or(0),
        }
    }

    /// Less than `n`.
    fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    /// `true` so many times in 16.
    fn often(&mut self, times: u8) -> bool {
        self.below(16) < times
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }
}

struct Writer<'a> {
    dice: Dice<'a>,
    ops: Vec<Op>,
}

impl Writer<'_> {
    /// A few steps that belong together.
    fn idea(&mut self) {
        match self.dice.below(32) {
            0..5 => self.new_memory(),
            5 => self.new_block(),
            6..10 => {
                let part = self.part();
                let deed = self.deed(part);
                self.ops.push(Op::Do(deed));
            }
            10..20 => self.pin(),
            20..29 => self.unpin(),
            29..31 => {
                let (table, page) = (self.dice.below(6), self.dice.byte());
                self.ops.push(Op::Mark { table, page });
            }
            _ => self.shortage(),
        }
    }

    /// Memory that is mapped, and touched so that there is something to pin.
    fn new_memory(&mut self) {
        let part = self.part();
        let what = self.what();
        self.ops.push(Op::Do(Deed::Map(part, what)));
        // Which mapping it became depends on the others; so it is mostly some other that is hit.
        let part = self.part();
        let touch = if self.dice.often(11) { Deed::Write(part) } else { Deed::Read(part) };
        self.ops.push(Op::Do(touch));
    }

    /// A huge page's worth of small pages, pinned while they are put together, taken or shared.
    fn new_block(&mut self) {
        let part = Part { page: self.dice.below(16), pages: self.dice.below(16), ..self.part() };
        let whole = Part { page: 0, pages: 165, ..part };
        self.ops.push(Op::Do(Deed::Map(whole, What::Small)));
        self.ops.push(Op::Do(Deed::Fill(part)));
        let (call, nth) = (HostCall::Entry as u8, 3 + u16::from(self.dice.below(8)));
        // Pages behind the block that are not there yet: they get the frames that become free.
        let other = Part { page: 160, pages: self.dice.below(16), ..part };
        let deeds = match self.dice.below(4) {
            0 | 1 => [Deed::Collapse(part), Deed::Write(other)],
            2 => [Deed::ForkSlowly(part.space), Deed::Read(part)],
            _ => [Deed::SwapOut(part), Deed::Write(other)],
        };
        for deed in deeds {
            self.ops.push(Op::During { call, nth, deed });
        }
        // For long it would be moved first.
        let how = if self.dice.often(12) { How::Short } else { How::Longterm };
        self.pin_part(part, how);
    }

    fn pin(&mut self) {
        let part = self.part();
        let how = [
            How::Longterm,
            How::Longterm,
            How::Longterm,
            How::Longterm,
            How::Revocable,
            How::Short,
            How::Short,
            How::Short,
            How::NoFault,
            How::Anonymous,
        ];
        let how = self.dice.one_of(&how);
        for _ in 0..self.dice.one_of(&[0, 0, 0, 1, 1, 1, 2, 3]) {
            self.surprise(part);
        }
        self.pin_part(part, how);
    }

    fn pin_part(&mut self, part: Part, how: How) {
        self.ops.push(Op::Pin {
            table: self.dice.below(6),
            part,
            write: self.dice.often(8),
            how,
            account: self.dice.below(2),
            tight: self.dice.often(2),
        });
    }

    fn unpin(&mut self) {
        if self.dice.often(2) {
            let part = self.part();
            self.surprise(part);
        }
        self.ops.push(Op::Unpin { table: self.dice.below(6), dirty: self.dice.often(8) });
    }

    /// Something that will happen in a call that comes next, mostly to `part`.
    fn surprise(&mut self, part: Part) {
        if self.dice.often(4) {
            let nth = self.nth();
            self.ops.push(Op::Fail { call: self.dice.below(HostCall::FALLIBLE.len() as u8), nth });
            return;
        }
        let entry = HostCall::Entry as u8;
        let call = if self.dice.often(7) { entry } else { self.dice.below(entry) };
        let mut nth = self.nth();
        if call == entry && self.dice.often(10) {
            // The first entries lead down to the table that counts.
            nth = 3 + u16::from(self.dice.below(6));
        }
        let next = Part { page: part.page.wrapping_add(1), ..part };
        let one = Part { pages: 0, ..part };
        let to = self.dice.byte();
        let mut during = |deed| self.ops.push(Op::During { call, nth, deed });
        match self.dice.below(6) {
            // The frame is somebody else's at once.
            0 => {
                let aside = [Deed::Move(part, to), Deed::SwapOut(part), Deed::Unmap(one)];
                during(self.dice.one_of(&aside));
                let comes =
                    [Deed::Write(next), Deed::Move(next, to / 4), Deed::Move(next, to / 16)];
                during(self.dice.one_of(&comes));
            }
            1 => {
                during(Deed::ForkSlowly(part.space));
                if self.dice.often(8) {
                    during(Deed::Write(part));
                }
            }
            2 => {
                let other = self.part();
                let deed = self.deed(other);
                self.ops.push(Op::During { call, nth, deed });
            }
            _ => {
                let deed = self.deed(part);
                self.ops.push(Op::During { call, nth, deed });
            }
        }
    }

    /// Which call: mostly one of the first.
    fn nth(&mut self) -> u16 {
        match self.dice.below(4) {
            0..2 => u16::from(self.dice.below(4)),
            2 => u16::from(self.dice.below(32)),
            _ => u16::from(self.dice.byte()) * 2,
        }
    }

    fn shortage(&mut self) {
        let (account, pages) = (self.dice.below(2), self.dice.byte());
        let op = match self.dice.below(6) {
            4 => Op::Step(self.dice.below(13)),
            5 => Op::Step(12),
            0 => Op::Limit { account, pages },
            1 => Op::Limit { account, pages: u8::MAX },
            2 => Op::Do(Deed::Hog(pages)),
            _ => Op::Do(Deed::Release),
        };
        self.ops.push(op);
    }

    /// Small parts and large ones, of few spaces and windows.
    fn part(&mut self) -> Part {
        let page =
            if self.dice.often(13) { self.dice.below(16) } else { 128 + self.dice.below(42) };
        let pages = match self.dice.below(8) {
            0..5 => self.dice.below(16),
            5 => Part::BEYOND + self.dice.below(16),
            _ => 128 + self.dice.below(42),
        };
        Part { space: self.dice.below(3), window: self.dice.below(4), page, pages }
    }

    fn what(&mut self) -> What {
        match self.dice.below(23) {
            0..4 => What::Small,
            4 => What::ReadOnly,
            5..8 => What::Huge,
            8..11 => What::HugeSplit,
            11 => What::HugeZero,
            12..16 => What::Shared(self.dice.below(7)),
            16..20 => What::Private(self.dice.below(7)),
            20 => What::Device,
            _ => What::Hugetlb,
        }
    }

    /// What can happen to a part.
    fn deed(&mut self, part: Part) -> Deed {
        match self.dice.below(39) {
            0..2 => Deed::Unmap(part),
            2..5 => Deed::Protect(part, self.dice.below(4)),
            5..7 => Deed::Read(part),
            7..10 => Deed::Write(part),
            10..12 => Deed::Fork(part.space),
            12..14 => Deed::Exit(part.space),
            14 => {
                let pages = self.dice.one_of(&[0, 1, 9, 128, 140, 191, 191, 191]);
                Deed::Truncate(self.dice.below(7), pages)
            }
            15 => Deed::Shrink,
            16 => Deed::Get(part),
            17..19 => Deed::Put,
            19..23 => Deed::Move(part, self.dice.below(4)),
            23..25 => Deed::SplitMapping(part),
            25..27 => Deed::SplitFolio(part),
            27 => Deed::Contig(self.dice.byte()),
            28 => Deed::FreeContig,
            29..32 => Deed::Collapse(part),
            32..36 => Deed::SwapOut(part),
            36 => Deed::Batch(self.dice.below(16)),
            37 => Deed::Fill(part),
            _ => Deed::Map(part, self.what()),
        }
    }
}
