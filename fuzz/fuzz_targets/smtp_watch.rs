//! Both sides of an SMTP session that gatepost looks at.
#![no_main]

use gatepost_fuzz::smtp_watch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| smtp_watch::check(data));
