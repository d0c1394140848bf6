//! See `c2c_controller::fuzzing::agent_socket`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    c2c_controller::fuzzing::agent_socket(data);
});
