//! See `c2c_controller::fuzzing::rest_policies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    c2c_controller::fuzzing::rest_policies(data);
});
