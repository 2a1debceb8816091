//! What an SMTP client says to a spool.
#![no_main]

use gatepost_fuzz::smtp_receiver;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| smtp_receiver::check(data));
