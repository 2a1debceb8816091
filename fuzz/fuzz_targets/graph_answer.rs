//! What Microsoft Graph answers.
#![no_main]

use gatepost_fuzz::graph;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| graph::check_answer(data));
