//! The end of a way that has several phases.
//!
//! Invariant: no phase goes beyond the end of the whole, and who comes too late is told how long was waited.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// When the whole way must be done.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

/// A phase was not over in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late(Duration);

impl Deadline {
    /// From now.
    pub fn within(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// Waits at most `limit`, and not beyond the end of the whole.
    pub async fn phase<T>(self, limit: Duration, wait: impl Future<Output = T>) -> Result<T, Late> {
        let limit = self.at_most(limit);
        timeout(limit, wait).await.map_err(|_| Late(limit))
    }

    /// What is left of `limit`.
    pub(super) fn at_most(self, limit: Duration) -> Duration {
        limit.min(self.0.saturating_duration_since(Instant::now()))
    }
}

impl Late {
    pub(super) fn after(waited: Duration) -> Self {
        Self(waited)
    }
}

/// `within 10 s`.
impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "within {} s", self.0.as_millis().div_ceil(1000).max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_phase_ends_with_its_limit_or_with_the_whole() {
        let deadline = Deadline::within(Duration::from_secs(25));
        for (limit, told) in [(10, "within 10 s"), (10, "within 10 s"), (10, "within 5 s")] {
            let late = deadline.phase(Duration::from_secs(limit), pending::<()>()).await;
            assert_eq!(late.unwrap_err().to_string(), told);
        }
    }
}
