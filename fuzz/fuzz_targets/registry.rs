//! Registrations, mappings and removals made of arbitrary bytes, run against a plain list.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    // A long script is as good as several short ones, and slower to reduce.
    if input.len() <= 1024 {
        let _ = pinfold_sim::regions::run(input);
    }
});
