//! The debugger's side of QEMU's gdbstub, over the child's standard input and output: stop and
//! continue the machine, read registers and physical memory, write a word of the process.
//!
//! The protocol is a text of packets, `$data#checksum`, each acknowledged by a `+`. QEMU describes
//! the registers of a machine in XML; what we need of it is the order of names, so there is no XML
//! library here.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout};

/// What QEMU hands out at once at most, in bytes of memory.
const CHUNK: u64 = 1024;

/// How a machine's registers stand in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

/// A connection to the machine.
#[derive(Debug)]
pub(super) struct Gdb {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    order: ByteOrder,
    /// Numbers of the registers by name; read when the first one is asked for.
    registers: BTreeMap<String, u64>,
}

impl Gdb {
    /// Takes over the standard input and output of a QEMU that was told `-gdb stdio`.
    pub(super) fn of(child: &mut Child, order: ByteOrder) -> Result<Self, String> {
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("QEMU has no standard input or output".into());
        };
        Ok(Self { to, from: BufReader::new(from), order, registers: BTreeMap::new() })
    }

    /// Lets the machine run.
    pub(super) fn go_on(&mut self) -> Result<(), String> {
        self.send(b"c")
    }

    /// Stops the running machine.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        self.to.write_all(&[3]).map_err(|error| gone(&error))?;
        self.to.flush().map_err(|error| gone(&error))?;
        let reply = self.receive()?;
        match reply.first() {
            Some(b'S' | b'T') => Ok(()),
            _ => Err(format!("QEMU did not stop: {}", text(&reply))),
        }
    }

    /// The value of a register of the stopped machine.
    pub(super) fn register(&mut self, name: &str) -> Result<u64, String> {
        if self.registers.is_empty() {
            let mut next = 0;
            self.describe("target.xml", &mut next)?;
        }
        let number = self.registers.get(name);
        let number = number.ok_or(format!("QEMU has no register {name}"))?;
        let reply = self.ask(&format!("p{number:x}"))?;
        let mut bytes = unhex(&reply)
            .filter(|bytes| (1..=8).contains(&bytes.len()))
            .ok_or(format!("QEMU does not tell {name}: {}", text(&reply)))?;
        if self.order == ByteOrder::Little {
            bytes.reverse();
        }
        Ok(bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// Bytes of physical memory.
    pub(super) fn read_physical(&mut self, addr: u64, bytes: u64) -> Result<Vec<u8>, String> {
        self.expect_ok("Qqemu.PhyMemMode:1")?;
        let mut read = Vec::new();
        for at in (0..bytes).step_by(CHUNK as usize) {
            let (from, size) = (addr + at, CHUNK.min(bytes - at));
            let reply = self.ask(&format!("m{from:x},{size:x}"))?;
            let part = unhex(&reply).filter(|part| part.len() as u64 == size);
            read.extend(part.ok_or(format!("QEMU does not read {from:#x}: {}", text(&reply)))?);
        }
        self.expect_ok("Qqemu.PhyMemMode:0")?;
        Ok(read)
    }

    /// Sets all bits of the 8 bytes at an address of the process that the machine was stopped in.
    pub(super) fn set_word(&mut self, addr: u64) -> Result<(), String> {
        self.expect_ok(&format!("M{addr:x},8:ffffffffffffffff"))
    }

    /// Numbers the registers of a description and of those that it includes.
    fn describe(&mut self, file: &str, next: &mut u64) -> Result<(), String> {
        let xml = without_comments(&self.description(file)?);
        for tag in xml.split('<') {
            if tag.starts_with("xi:include ") {
                let file = attribute(tag, "href").ok_or(format!("{file}: {tag}"))?;
                self.describe(file, next)?;
            } else if tag.starts_with("reg ") {
                let name = attribute(tag, "name").ok_or(format!("{file}: {tag}"))?;
                if let Some(number) = attribute(tag, "regnum").and_then(|text| text.parse().ok()) {
                    *next = number;
                }
                self.registers.insert(name.to_owned(), *next);
                *next += 1;
            }
        }
        Ok(())
    }

    fn description(&mut self, file: &str) -> Result<String, String> {
        let mut xml = Vec::new();
        loop {
            let part =
                self.ask(&format!("qXfer:features:read:{file}:{:x},{CHUNK:x}", xml.len()))?;
            match part.split_first() {
                Some((b'm', part)) => xml.extend(part),
                Some((b'l', part)) => {
                    xml.extend(part);
                    return Ok(text(&xml));
                }
                _ => return Err(format!("QEMU does not describe {file}: {}", text(&part))),
            }
        }
    }

    fn expect_ok(&mut self, question: &str) -> Result<(), String> {
        let reply = self.ask(question)?;
        if reply == b"OK" {
            return Ok(());
        }
        Err(format!("QEMU refused {question}: {}", text(&reply)))
    }

    fn ask(&mut self, question: &str) -> Result<Vec<u8>, String> {
        self.send(question.as_bytes())?;
        self.receive()
    }

    fn send(&mut self, data: &[u8]) -> Result<(), String> {
        let mut packet = b"$".to_vec();
        packet.extend(data);
        packet.extend(format!("#{:02x}", checksum(data)).as_bytes());
        self.to.write_all(&packet).map_err(|error| gone(&error))?;
        self.to.flush().map_err(|error| gone(&error))
    }

    /// The next packet, acknowledged. What stands before it are acknowledgements of ours.
    fn receive(&mut self) -> Result<Vec<u8>, String> {
        let mut packet = Vec::new();
        let failed = |error: std::io::Error| gone(&error);
        self.from.skip_until(b'$').map_err(failed)?;
        self.from.read_until(b'#', &mut packet).map_err(failed)?;
        let mut sum = [0; 2];
        self.from.read_exact(&mut sum).map_err(failed)?;
        packet.pop();
        if unhex(&sum) != Some(vec![checksum(&packet)]) {
            return Err(format!("QEMU sent a damaged packet: {}", text(&packet)));
        }
        self.to.write_all(b"+").and_then(|()| self.to.flush()).map_err(failed)?;
        Ok(unescape(&packet))
    }
}

fn checksum(data: &[u8]) -> u8 {
    data.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A `}` says that the next byte was changed, so that it looks like no mark.
fn unescape(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.iter();
    let mut plain = Vec::with_capacity(packet.len());
    while let Some(&byte) = bytes.next() {
        plain.push(if byte == b'}' { bytes.next().map_or(byte, |next| next ^ 0x20) } else { byte });
    }
    plain
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        &[high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}

/// Registers that QEMU does not have stand in comments.
fn without_comments(xml: &str) -> String {
    let mut parts = xml.split("<!--");
    let first = parts.next().unwrap_or_default().to_owned();
    let behind = |part: &str| part.split_once("-->").map_or(String::new(), |(_, rest)| rest.into());
    parts.map(behind).fold(first, |all, part| all + &part)
}

/// The value of `name="value"` in a tag.
fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn gone(error: &std::io::Error) -> String {
    format!("QEMU does not answer any more: {error}")
}

#[cfg(test)]
mod tests {
    use super::{attribute, checksum, unescape, unhex, without_comments};

    #[test]
    fn packets() {
        assert_eq!(checksum(b"OK"), 0x9a);
        assert_eq!(unescape(b"a}\x03b"), b"a#b");
        assert_eq!(unhex(b"0fA0"), Some(vec![0x0f, 0xa0]));
        assert_eq!((unhex(b"0f1"), unhex(b"E+")), (None, None));
    }

    #[test]
    fn attributes_of_a_tag() {
        let tag = "reg name=\"cr3\" bitsize=\"64\" regnum=\"39\"/>\n";
        let found = ["name", "regnum", "num"].map(|name| attribute(tag, name));
        assert_eq!(found, [Some("cr3"), Some("39"), None]);
        let xml = "<!-- a -->\n<reg name=\"a\"/><!--reg name=\"b\"/>\n<reg name=\"c\"/--><x/>";
        assert_eq!(without_comments(xml), "\n<reg name=\"a\"/><x/>");
    }
}
