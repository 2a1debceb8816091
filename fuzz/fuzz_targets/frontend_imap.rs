//! What an IMAP client says before its login.
#![no_main]

use gatepost::vocabulary::Protocol;
use gatepost_fuzz::frontend;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| frontend::check(Protocol::Imap, data));
