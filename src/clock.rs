//! Wall-clock time, in one place, so that tests can pause it.
//!
//! Invariant: nothing else in the crate reads the system's clock for a date. Durations of waiting are
//! tokio's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since 1970.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// The beginning of a day in UTC; `None`: there is no such day.
    pub fn of_date(year: i32, month: u8, day: u8) -> Option<Self> {
        let month = time::Month::try_from(month).ok()?;
        let date = time::Date::from_calendar_date(year, month, day).ok()?;
        Self::of_unix_seconds(date.midnight().assume_utc().unix_timestamp())
    }

    /// From seconds since 1970; `None`: beyond all days.
    pub fn of_unix_seconds(seconds: i64) -> Option<Self> {
        seconds.checked_mul(1000).map(Self)
    }

    /// For people: `2027-01-31 07:05 UTC`.
    pub fn text(self) -> String {
        let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
        let date = time::OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1000)).ok();
        date.and_then(|date| date.format(format).ok()).unwrap_or_else(|| "beyond all dates".into())
    }

    /// For a message's `Date` (RFC 5322 section 3.3).
    pub fn mail_date(self) -> String {
        let date = time::OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1000)).ok();
        let format = &time::format_description::well_known::Rfc2822;
        date.and_then(|date| date.format(format).ok()).unwrap_or_default()
    }

    /// Later by `duration`.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Earlier by `duration`.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long it is from now until then; nothing if that is past.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Notices when the clock is set, and when the machine has slept: the wall clock goes on then, waiting does not.
#[derive(Clone, Copy, Debug)]
pub struct Jumps {
    wall: Timestamp,
    waited: tokio::time::Instant,
}

/// Less is no jump: time servers correct a clock by steps of a fraction of a second, and a slow machine reads both
/// clocks at some distance.
const JUMP: Duration = Duration::from_secs(60);

impl Jumps {
    /// Looks from `now` on.
    pub fn new(now: Timestamp) -> Self {
        Self { wall: now, waited: tokio::time::Instant::now() }
    }

    /// Whether the clock has jumped since it was looked at last.
    pub fn has_jumped(&mut self, now: Timestamp) -> bool {
        let expected = self.wall.plus(self.waited.elapsed());
        *self = Self::new(now);
        now.saturating_since(expected).max(expected.saturating_since(now)) > JUMP
    }
}

/// Where the time comes from.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Goes with tokio's clock, so that it stands still when that is paused, from a start that can be set.
    Tokio {
        start: Arc<AtomicI64>,
        origin: tokio::time::Instant,
    },
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock for tests, which is paused and advanced with tokio's.
    pub fn with_tokio() -> Self {
        let start = Arc::new(AtomicI64::new(Self::system().now().as_millis()));
        Self(Source::Tokio { start, origin: tokio::time::Instant::now() })
    }

    /// Sets a clock for tests, and its clones, forward or back, as people and time servers do.
    pub fn set_off(&self, millis: i64) {
        if let Source::Tokio { start, .. } = &self.0 {
            start.fetch_add(millis, Ordering::Relaxed);
        }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(0).plus(since)
            }
            Source::Tokio { start, origin } => {
                Timestamp(start.load(Ordering::Relaxed)).plus(origin.elapsed())
            }
        }
    }
}
