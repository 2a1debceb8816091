//! `[guard]`: what holds back those who guess, and those who only wait.
//!
//! Invariant: plain values, checked.

use std::time::Duration;

/// `[guard]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    /// Different wrong passwords from one source for one mailbox until it is locked; none: it never is.
    pub attempts: Option<u32>,
    /// How long the first lock lasts; each further one twice as long, up to [`GuardSettings::LONGEST`] times.
    pub lock: Duration,
    /// How long the answer to a wrong password is held back at most.
    pub delay: Duration,
    /// Connections of one source that have not logged in.
    pub waiting_per_source: usize,
    /// Such connections of all sources.
    pub waiting: usize,
}

impl GuardSettings {
    /// The longest lock, in first ones: with the default a quarter of an hour.
    pub const LONGEST: u32 = 15;
}

impl Default for GuardSettings {
    /// OWASP's Authentication Cheat Sheet has a threshold, a window and an exponential lock-out, without figures;
    /// NIST SP 800-63B section 5.2.2 allows a hundred failures in all. Ten different ones are no typing error, and
    /// a minute ends before a person calls for help.
    ///
    /// A site of many devices behind one address that all come at once has room among the waiting, and all of them
    /// together have some tens of MiB (measured by tests/siege.rs).
    fn default() -> Self {
        Self {
            attempts: Some(10),
            lock: Duration::from_secs(60),
            delay: Duration::from_secs(4),
            waiting_per_source: 512,
            waiting: 2048,
        }
    }
}
