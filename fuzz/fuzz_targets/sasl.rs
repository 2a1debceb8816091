//! PLAIN and LOGIN through each protocol.
#![no_main]

use gatepost_fuzz::sasl;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| sasl::check(data));
