//! A message that is cut for Microsoft Graph.
#![no_main]

use gatepost_fuzz::mime;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| mime::check(data));
