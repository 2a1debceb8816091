//! The content of a message, by DATA and by BDAT, in and out again.
#![no_main]

use gatepost_fuzz::smtp_content;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| smtp_content::check(data));
