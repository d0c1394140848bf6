//! See `c2c_controller::fuzzing::egress_rules`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    c2c_controller::fuzzing::egress_rules(data);
});
