//! Scripts made of arbitrary bytes, run against the model.
#![no_main]

use pinfold_sim::script::{Script, run};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    // A long script is as good as several short ones, and slower to reduce.
    if input.len() <= 1024 {
        run(&Script::from_bytes(input)).expect("the books are right");
    }
});
