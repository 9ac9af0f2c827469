//! Page tables made of arbitrary bytes: walked, pinned and unpinned.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    pinfold_sim::hostile::walk_and_pin(input);
});
