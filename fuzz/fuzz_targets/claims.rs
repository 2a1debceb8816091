//! What a token says of itself.
#![no_main]

use gatepost_fuzz::tokens;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| tokens::check_claims(data));
