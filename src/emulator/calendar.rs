//! Dates in the three forms that the emulated services write, and the one that IMAP clients send.
//!
//! Invariant: everything is UTC, and a date that cannot be read is `None`, never today.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]; // 1 January 1970 was a Thursday
const DAY: i64 = 86_400;

/// A point in time, split as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) year: i32,
    pub(super) month: u8,
    pub(super) day: u8,
    seconds: i64,
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self::from_unix(i64::try_from(since).unwrap_or(0))
    }
}

impl Moment {
    /// Days to year, month and day, counting in eras of 400 years that begin on 1 March.
    fn from_unix(seconds: i64) -> Self {
        let shifted = seconds.div_euclid(DAY) + 719_468; // days from 0000-03-01 to 1970-01-01
        let (era, in_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
        let in_year = in_era - (365 * year + year / 4 - year / 100);
        let month = (5 * in_year + 2) / 153;
        let day = in_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        Self {
            year: i32::try_from(year).unwrap_or_default(),
            month: u8::try_from(month).unwrap_or(1),
            day: u8::try_from(day).unwrap_or(1),
            seconds,
        }
    }

    /// `23-Nov-2026 09:08:05 +0000`, RFC 3501 `date-time`.
    pub(super) fn imap(&self) -> String {
        format!("{:02}-{}-{:04} {} +0000", self.day, self.month_name(), self.year, self.clock())
    }

    /// `Mon, 23 Nov 2026 09:08:05 +0000`, RFC 5322 section 3.3.
    pub(super) fn mail(&self) -> String {
        let weekday = usize::try_from(self.seconds.div_euclid(DAY).rem_euclid(7)).unwrap_or(0);
        let weekday = WEEKDAYS.get(weekday).unwrap_or(&"Thu");
        format!(
            "{weekday}, {} {} {:04} {} +0000",
            self.day,
            self.month_name(),
            self.year,
            self.clock()
        )
    }

    /// `2026-11-23 09:08:05Z`, as in Entra's error descriptions.
    pub(super) fn entra(&self) -> String {
        format!("{:04}-{:02}-{:02} {}Z", self.year, self.month, self.day, self.clock())
    }

    fn month_name(&self) -> &'static str {
        MONTHS.get(usize::from(self.month.saturating_sub(1))).copied().unwrap_or("Jan")
    }

    fn clock(&self) -> String {
        let second = self.seconds.rem_euclid(DAY);
        format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
    }
}

/// Days since 1970 of a point in time, for the SEARCH keys that compare dates.
pub(super) fn days(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).unwrap_or(0) / DAY
}

/// Reads an RFC 3501 `date` (`1-Feb-2024`) as days since 1970.
pub(super) fn parse_date(text: &str) -> Option<i64> {
    let mut parts = text.trim().split('-');
    let day: i64 = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|known| known.eq_ignore_ascii_case(name))?;
    let year: i64 = parts.next()?.parse().ok()?;
    if !(1..=31).contains(&day) || !(0..=9_999).contains(&year) {
        return None;
    }
    // the inverse of `from_unix`, with years that begin in March
    let month = (i64::try_from(month).ok()? + 10) % 12;
    let year = year - i64::from(month >= 10);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// Reads an RFC 3501 `date-time`, with its zone.
pub(super) fn parse_date_time(text: &str) -> Option<SystemTime> {
    let mut parts = text.split_whitespace();
    let date = parse_date(parts.next()?)?;
    let clock: Vec<i64> = parts.next()?.split(':').map_while(|part| part.parse().ok()).collect();
    let [hours, minutes, seconds] = clock.as_slice() else { return None };
    let zone: i64 = parts.next()?.parse().ok()?;
    if clock.iter().any(|part| !(0..=60).contains(part)) || !(-2_400..=2_400).contains(&zone) {
        return None;
    }
    let zone = (zone / 100 * 60 + zone % 100) * 60;
    let total = date * DAY + hours * 3_600 + minutes * 60 + seconds - zone;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(total).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_day_is_written_and_read() {
        let moment = Moment::from_unix(1_709_210_096);
        assert_eq!(moment.imap(), "29-Feb-2024 12:34:56 +0000");
        assert_eq!(moment.mail(), "Thu, 29 Feb 2024 12:34:56 +0000");
        assert_eq!(moment.entra(), "2024-02-29 12:34:56Z");
        let read = parse_date_time("29-Feb-2024 14:34:56 +0200");
        assert_eq!(read, Some(UNIX_EPOCH + Duration::from_secs(1_709_210_096)));
        assert_eq!(parse_date("1-Jan-1970"), Some(0));
        assert_eq!(parse_date("yesterday"), None);
        assert_eq!(parse_date("1-Jan-9223372036854775807"), None);
        assert_eq!(parse_date_time("1-Jan-2024 9223372036854775807:00:00 +0000"), None);
    }
}
