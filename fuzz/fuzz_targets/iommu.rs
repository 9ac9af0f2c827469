//! Tables of an IOMMU in memory of arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = pinfold_sim::hostile_io::run(input);
});
