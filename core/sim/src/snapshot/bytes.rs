//! The small encodings that sections are made of, both directions: variable-length numbers, signed
//! differences, text, and the checksum.

use super::{SectionTag, SnapshotError};

/// Reads one section from front to back; every error names the section and the offset.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    section: SectionTag,
    bytes: &'a [u8],
    /// Offset of `bytes` in the file.
    base: usize,
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(section: SectionTag, bytes: &'a [u8], base: usize) -> Self {
        Self { section, bytes, base, position: 0 }
    }

    /// Offset in the file of what is read next.
    pub(super) fn at(&self) -> usize {
        self.base + self.position
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], SnapshotError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let taken = rest
            .get(..count)
            .ok_or(SnapshotError::Truncated { section: self.section, at: self.at() })?;
        self.position += count;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, SnapshotError> {
        Ok(self.take(1)?[0])
    }

    /// A number of up to 64 bits, seven in each byte, the lowest first.
    pub(super) fn number(&mut self) -> Result<u64, SnapshotError> {
        let at = self.at();
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.bad(at, "number"))
    }

    /// A difference to add with wrap-around.
    pub(super) fn difference(&mut self) -> Result<u64, SnapshotError> {
        let folded = self.number()?;
        Ok((folded >> 1) ^ (folded & 1).wrapping_neg())
    }

    /// A count of items of which each takes `item` bytes of the file or more.
    pub(super) fn count(&mut self, item: usize, limit: u64) -> Result<u64, SnapshotError> {
        let at = self.at();
        let count = self.number()?;
        let fit = u64::try_from(self.left() / item.max(1)).unwrap_or(u64::MAX);
        self.at_most(at, count, limit.min(fit))
    }

    pub(super) fn at_most(&self, at: usize, count: u64, limit: u64) -> Result<u64, SnapshotError> {
        if count > limit {
            return Err(SnapshotError::BadCount { section: self.section, at, count, limit });
        }
        Ok(count)
    }

    pub(super) fn text(&mut self) -> Result<String, SnapshotError> {
        let length = self.count(1, u64::MAX)?;
        let at = self.at();
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        match str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.bad(at, "text")),
        }
    }

    pub(super) fn end(&self) -> Result<(), SnapshotError> {
        if self.left() > 0 {
            return Err(SnapshotError::TrailingBytes { section: self.section, at: self.at() });
        }
        Ok(())
    }

    pub(super) fn bad(&self, at: usize, what: &'static str) -> SnapshotError {
        SnapshotError::BadValue { section: self.section, at, what }
    }
}

pub(super) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// What to add to `expected`, with wrap-around, to get `value`: small either way when they are
/// near each other.
pub(super) fn put_difference(out: &mut Vec<u8>, value: u64, expected: u64) {
    let difference = value.wrapping_sub(expected);
    put_number(out, (difference << 1) ^ (difference >> 63).wrapping_neg());
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_number(out, count as u64);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// What each byte does to a checksum of zero.
const CRC_OF_BYTE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// CRC-32 as in zip and PNG: polynomial 0x04c11db7, bits reflected, start and end inverted.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        crc >> 8 ^ CRC_OF_BYTE[usize::from(crc.to_le_bytes()[0] ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8]) -> Reader<'_> {
        Reader::new(SectionTag(*b"TEST"), bytes, 0)
    }

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, 127, 128, 300, u64::MAX >> 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_number(&mut bytes, value);
            assert_eq!(reader(&bytes).number(), Ok(value));
        }
    }

    #[test]
    fn differences_come_back_and_are_short() {
        for (value, expected) in [(5, 5), (4, 5), (6, 5), (0, u64::MAX), (u64::MAX, 0)] {
            let mut bytes = Vec::new();
            put_difference(&mut bytes, value, expected);
            assert_eq!(bytes.len(), 1);
            let difference = reader(&bytes).difference().expect("just written");
            assert_eq!(expected.wrapping_add(difference), value);
        }
    }

    #[test]
    fn a_number_above_64_bits_is_refused() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        let bad = SnapshotError::BadValue { section: SectionTag(*b"TEST"), at: 0, what: "number" };
        assert_eq!(reader(&bytes).number(), Err(bad));
    }

    #[test]
    fn checksum_of_the_usual_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
