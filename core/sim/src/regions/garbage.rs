//! A registry's words at another place, as they are or with other words among them.

use pinfold::sync::{Ordering, Word};
use pinfold::{Areas, PageShift, RealMode, RegionId, VirtAddr};

/// A copy of these words.
pub(super) fn copied(words: &[Word]) -> Vec<Word> {
    words.iter().map(|word| Word::new(word.load(Ordering::Relaxed))).collect()
}

/// Calls all that can be called where translation is off, whatever the words hold. It returns, and
/// that is all that can be said.
pub(super) fn poke(areas: Areas<'_>, words: &[Word], regions: &[RegionId], at: &[VirtAddr]) {
    let Ok(view) = RealMode::open(areas, words) else { return };
    let large = PageShift::new(30).unwrap_or(PageShift::SIZE_4K);
    for va in at {
        let found = [0, 1, 4096, u64::MAX].map(|bytes| view.lookup(*va, bytes).ok());
        let found = found.into_iter().flatten();
        for region in regions.iter().copied().chain(found) {
            for shift in [PageShift::SIZE_4K, large] {
                let _ = view.translate(region, *va, shift);
            }
            let _ = view.map_get(region);
            let _ = view.mark_dirty(region, *va);
            let _ = view.map_put(region);
        }
    }
}

/// Words that are likely to mean something: what is there with a bit or a byte changed, small
/// numbers, entries and links to anywhere.
pub(super) fn spoil(words: &[Word], place: u64, kind: u8, value: u8) {
    let Some(at) = usize::try_from(place).ok().and_then(|place| words.get(place % words.len()))
    else {
        return;
    };
    let was = at.load(Ordering::Relaxed);
    let value = u64::from(value);
    let now = match kind % 8 {
        0 => was ^ 1 << (value & 63),
        1 => was.wrapping_add(value),
        2 => value,
        3 => !value,
        // An entry or a record of the directory, a link of a pin table.
        4 => value << 8 | 1,
        5 => (value * 97 % words.len() as u64) << 8 | 2,
        6 => value << 10 | (value & 0x3f) << 4 | 4,
        _ => value.wrapping_mul(0x0101_0101_0101_0101),
    };
    at.store(now, Ordering::Relaxed);
}
