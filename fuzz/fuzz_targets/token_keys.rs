//! See `c2c_controller::fuzzing::token_keys`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    c2c_controller::fuzzing::token_keys(data);
});
