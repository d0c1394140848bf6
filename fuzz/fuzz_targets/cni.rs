//! See `c2c_cni::fuzzing::cni`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    c2c_cni::fuzzing::cni(data);
});
