//! The header of a device's message.
#![no_main]

use gatepost_fuzz::mend;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| mend::check(data));
