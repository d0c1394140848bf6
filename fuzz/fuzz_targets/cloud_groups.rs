//! See `c2c_controller::fuzzing::cloud_groups`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    c2c_controller::fuzzing::cloud_groups(data);
});
