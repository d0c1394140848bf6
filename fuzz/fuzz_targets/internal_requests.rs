//! See `c2c_controller::fuzzing::internal_requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    c2c_controller::fuzzing::internal_requests(data);
});
