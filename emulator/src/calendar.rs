//! The time of day in the forms that the emulated services write, all of them UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Who writes the date.
#[derive(Clone, Copy)]
pub(super) enum Style {
    /// `23-Nov-2026 09:08:05 +0000`, RFC 3501 `date-time`.
    Imap,
    /// `Mon, 23 Nov 2026 09:08:05 +0000`, RFC 5322 section 3.3.
    Mail,
    /// `2026-11-23 09:08:05Z`, as in Entra's error descriptions.
    Entra,
    /// `2026-11-23T09:08:05Z`, RFC 3339, as Graph writes it.
    Graph,
}

/// The present moment in words.
pub(super) fn now(style: Style) -> String {
    at(SystemTime::now(), style)
}

/// A moment in words.
pub(super) fn at(moment: SystemTime, style: Style) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    // the date type of the certificates saves a calendar here
    let now = rcgen::date_time_ymd(1970, 1, 1) + since;
    let (year, month, day) = (now.year(), now.month().to_string(), now.day());
    let clock = format!("{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second());
    match style {
        Style::Imap => format!("{day:02}-{month:.3}-{year} {clock} +0000"),
        Style::Mail => {
            let weekday = now.weekday().to_string();
            format!("{weekday:.3}, {day} {month:.3} {year} {clock} +0000")
        }
        Style::Entra => format!("{year}-{:02}-{day:02} {clock}Z", u8::from(now.month())),
        Style::Graph => format!("{year}-{:02}-{day:02}T{clock}Z", u8::from(now.month())),
    }
}
