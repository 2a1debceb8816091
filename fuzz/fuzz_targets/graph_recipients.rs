//! To whom Microsoft Graph would send a message.
#![no_main]

use gatepost_fuzz::graph;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| graph::check_recipients(data));
