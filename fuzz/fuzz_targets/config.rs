//! The text of a configuration.
#![no_main]

use gatepost_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| config::check(data));
