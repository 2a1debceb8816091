//! What stands in the challenge of an upstream that takes no token.
#![no_main]

use gatepost_fuzz::upstream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| upstream::check_challenge(data));
