//! The service processor's console (SCLP).

use core::fmt::{self, Write};

use super::instructions::servc;
use super::low::Page;

const WRITE_MASK: u64 = 0x0078_0005;
const WRITE_DATA: u64 = 0x0076_0005;
/// What goes at once.
const CHUNK: usize = 200;
/// Events of the kind "text", as bits from the top, and their number.
const TEXT_EVENTS: u32 = 0x40;
const TEXT: u8 = 0x1a;

/// Says that this program sends text; once, before the first.
pub(super) fn open() {
    let mut block = [0; 32];
    block[1] = 28;
    block[11] = 4;
    block[16..20].copy_from_slice(&TEXT_EVENTS.to_be_bytes());
    send(WRITE_MASK, &block);
}

#[derive(Debug)]
pub(crate) struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(CHUNK) {
            let mut block = [0; CHUNK + 16];
            // Of the block, and of the one event in it.
            block[1] = 14 + chunk.len() as u8;
            block[9] = 6 + chunk.len() as u8;
            block[10] = TEXT;
            for (place, byte) in block[14..].iter_mut().zip(chunk) {
                *place = *byte;
            }
            send(WRITE_DATA, &block);
        }
        Ok(())
    }
}

fn send(command: u64, block: &[u8]) {
    let (words, _) = block.as_chunks::<8>();
    Page::Console.fill(words.iter().map(|word| u64::from_be_bytes(*word)));
    // Busy until it is through with what came before.
    while servc(command, Page::Console.addr()) == 2 {}
}
