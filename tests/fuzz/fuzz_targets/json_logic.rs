#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| edgehold_fuzz_targets::json_logic(data));
