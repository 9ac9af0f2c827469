//! A virtio disk (Virtual I/O Device, version 1.1: 2.6 split queues, 4.1.4 its registers, 5.2 disks) whose
//! first sector is the buffer. It is reset before each transfer: after one that was blocked nothing else
//! helps.

use pinfold_arch::{Iova, PhysAddr};
use pinfold_unikernel::dma::{Dma, TRANSFER};
use pinfold_unikernel::memory::Memory;

use super::zpci::Function;

/// The space where it has its registers, in QEMU, and where in it those are that notify.
const SPACE: u64 = 4;
const NOTIFY: u64 = 0x3000;
/// Registers of a virtio device, with their bytes.
const FEATURES_SELECT: (u64, u64) = (0x08, 4);
const FEATURES: (u64, u64) = (0x0c, 4);
const STATUS: (u64, u64) = (0x14, 1);
const QUEUE_SIZE: (u64, u64) = (0x18, 2);
const QUEUE_ENABLE: (u64, u64) = (0x1c, 2);
const QUEUE_DESCRIPTORS: (u64, u64) = (0x20, 8);
const QUEUE_MADE: (u64, u64) = (0x28, 8);
const QUEUE_USED: (u64, u64) = (0x30, 8);
/// Steps on the way to a device that works.
const SEEN: u64 = 1 | 2;
const FEATURES_OK: u64 = 8;
const WORKS: u64 = 4;
/// Of version 1, and behind an IOMMU: bits 32 and 33.
const UPPER_FEATURES: u64 = 3;
/// Where the queue and its request are in the page of the window, behind what is moved.
const DESCRIPTORS: u64 = 1024;
const MADE: u64 = 1536;
const USED: u64 = 2048;
const REQUEST: u64 = 2560;
const RESULT: u64 = 2592;
/// Of a descriptor: another follows; the device writes.
const NEXT: u64 = 1 << 32;
const WRITES: u64 = 2 << 32;
const NEXT_PLACE: u32 = 48;
/// What is asked for.
const FROM_DISK: u64 = 0;
const TO_DISK: u64 = 1;
/// Looks at the queue after which a transfer is taken for blocked.
const PATIENCE: u32 = 1_000_000;

/// The disk.
#[derive(Debug)]
pub(super) struct Disk<'m> {
    pub(super) function: Function,
    pub(super) memory: &'m Memory,
    /// Where the device finds the window.
    pub(super) window: Iova,
}

impl Disk<'_> {
    fn transfer(&self, what: u64, data: [u64; 2]) {
        let there = |offset: u64| self.window.raw() + offset;
        let write = |offset: u64, words: [u64; 2]| {
            let place = PhysAddr::new(self.memory.window().raw() + offset);
            self.memory.store(place, words.map(u64::to_le));
        };
        let [at, moved] = data;
        write(DESCRIPTORS, [there(REQUEST), 16 | NEXT | 1 << NEXT_PLACE]);
        write(DESCRIPTORS + 16, [at, moved | NEXT | 2 << NEXT_PLACE]);
        write(DESCRIPTORS + 32, [there(RESULT), 1 | WRITES]);
        // One request, the first descriptor's.
        write(MADE, [1 << 16, 0]);
        write(USED, [0, 0]);
        write(REQUEST, [what, 0]);
        self.start();
        if !self.function.try_store(SPACE, NOTIFY, 2, 0) {
            return;
        }
        let used = PhysAddr::new(self.memory.window().raw() + USED);
        for _ in 0..PATIENCE {
            let done =
                self.memory.load::<1>(used).is_some_and(|[word]| u64::from_le(word) >> 16 & 1 == 1);
            if done || self.function.is_in_error() {
                return;
            }
        }
    }

    fn start(&self) {
        let set = |(offset, bytes), value| self.function.store(SPACE, offset, bytes, value);
        set(STATUS, 0);
        set(STATUS, SEEN);
        set(FEATURES_SELECT, 0);
        set(FEATURES, 0);
        set(FEATURES_SELECT, 1);
        set(FEATURES, UPPER_FEATURES);
        set(STATUS, SEEN | FEATURES_OK);
        let (offset, bytes) = STATUS;
        let status = self.function.load(SPACE, offset, bytes);
        assert_eq!(status, SEEN | FEATURES_OK, "a disk behind an IOMMU");
        set(QUEUE_SIZE, 4);
        set(QUEUE_DESCRIPTORS, self.window.raw() + DESCRIPTORS);
        set(QUEUE_MADE, self.window.raw() + MADE);
        set(QUEUE_USED, self.window.raw() + USED);
        set(QUEUE_ENABLE, 1);
        set(STATUS, SEEN | FEATURES_OK | WORKS);
    }
}

impl Dma for Disk<'_> {
    fn read(&mut self, at: u64) {
        self.transfer(TO_DISK, [at, TRANSFER]);
    }

    fn write(&mut self, at: u64) {
        self.transfer(FROM_DISK, [at, TRANSFER | WRITES]);
    }
}
