//! What a load balancer says before its client.
#![no_main]

use gatepost_fuzz::proxy_header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| proxy_header::check(data));
