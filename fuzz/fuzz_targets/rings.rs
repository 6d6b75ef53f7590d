#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ipc_framework::fuzzing::run("rings", input));
