//! The answer to a sign-in by browser.
#![no_main]

use gatepost_fuzz::redirect;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| redirect::check(data));
