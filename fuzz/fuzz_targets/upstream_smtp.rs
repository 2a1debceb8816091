//! What an SMTP server says up to the login.
#![no_main]

use gatepost::vocabulary::Protocol;
use gatepost_fuzz::upstream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| upstream::check(Protocol::Smtp, data));
