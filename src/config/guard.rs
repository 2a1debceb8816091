//! `[guard]`: what gatepost bears of clients that have not logged in.
//!
//! Invariant: plain values, checked.

/// `[guard]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    /// Connections of one source that have not logged in.
    pub waiting_per_source: usize,
    /// Such connections of all sources.
    pub waiting: usize,
}

impl Default for GuardSettings {
    /// A site of many devices behind one address that all come at once has room, and all of the waiting together have
    /// some tens of MiB (measured by tests/siege.rs).
    fn default() -> Self {
        Self { waiting_per_source: 512, waiting: 2048 }
    }
}
