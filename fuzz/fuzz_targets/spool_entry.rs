//! A file of the spool.
#![no_main]

use gatepost_fuzz::spool_entry;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| spool_entry::check(data));
