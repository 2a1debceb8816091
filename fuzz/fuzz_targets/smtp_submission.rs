//! What an SMTP server answers to a message that is handed over.
#![no_main]

use gatepost_fuzz::smtp_submission;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| smtp_submission::check(data));
