//! See `c2c_cni::fuzzing::garden`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    c2c_cni::fuzzing::garden(data);
});
