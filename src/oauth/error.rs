//! What a failed token request means: try again, or get a person.
//!
//! Invariant: only an OAuth error (RFC 6749 section 5.2) that says so is permanent. A captive portal's page,
//! a gateway's 404 or half an answer is transient, whatever its status.

use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;

use crate::clock::{Clock, Timestamp};

/// A token request that brought no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It may work later as it is.
    #[error("{reason}")]
    Transient {
        /// What happened.
        reason: String,
        /// How long the token endpoint wants to be left alone, if it said so.
        retry_after: Option<Duration>,
    },
    /// It won't work until a person acts.
    #[error("{reason}")]
    Permanent {
        /// What happened, in the token endpoint's words.
        reason: String,
    },
}

/// Longest pause that is honoured. A token endpoint that asks for more is asked again all the same.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Longest part of an error description that is kept: the sentence, without the trace behind it.
const DESCRIPTION: usize = 300;

/// Entra's codes that pass by themselves although their `error` does not say so: 90006 external server,
/// 90033 and 90100 transient fault of the service.
const TRANSIENT_CODES: [u32; 3] = [90006, 90033, 90100];

/// RFC 6749 section 5.2, with Entra's `error_codes`.
#[derive(Deserialize)]
struct OAuthError {
    error: String,
    #[serde(default)]
    error_description: String,
    #[serde(default)]
    error_codes: Vec<u32>,
}

impl TokenError {
    pub(super) fn transient(reason: impl Into<String>) -> Self {
        Self::Transient { reason: reason.into(), retry_after: None }
    }

    /// Of an answer that is not a success.
    pub(super) fn of_answer(status: u16, retry_after: Option<&str>, body: &[u8]) -> Self {
        let oauth: Option<OAuthError> = serde_json::from_slice(body).ok();
        let reason = match &oauth {
            Some(oauth) => oauth.text(),
            None => format!("the token endpoint answered with HTTP status {status}"),
        };
        // RFC 6749 section 5.2 has 400 and 401; with another status it is a gateway's word.
        let stays = matches!(status, 400 | 401 | 403);
        match oauth {
            Some(oauth) if stays && !oauth.is_transient() => Self::Permanent { reason },
            _ => Self::Transient { reason, retry_after: retry_after.and_then(parse_retry_after) },
        }
    }
}

impl OAuthError {
    fn is_transient(&self) -> bool {
        matches!(self.error.as_str(), "temporarily_unavailable" | "server_error" | "slow_down")
            || self.error_codes.iter().any(|code| TRANSIENT_CODES.contains(code))
    }

    fn text(&self) -> String {
        let clean = |text: &str| {
            let first = text.split("Trace ID").next().unwrap_or_default();
            let words = first.split_whitespace().collect::<Vec<_>>().join(" ");
            words.chars().filter(|c| !c.is_control()).take(DESCRIPTION).collect::<String>()
        };
        match clean(&self.error_description) {
            description if description.is_empty() => clean(&self.error),
            description => format!("{}: {description}", clean(&self.error)),
        }
    }
}

/// RFC 9110 section 10.2.3: seconds or a date.
fn parse_retry_after(value: &str) -> Option<Duration> {
    let until = || httpdate::parse_http_date(value).ok()?.duration_since(UNIX_EPOCH).ok();
    let wait = match value.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => Timestamp::from_millis(0).plus(until()?).saturating_since(Clock::system().now()),
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permanent(status: u16, body: &str) -> bool {
        matches!(TokenError::of_answer(status, None, body.as_bytes()), TokenError::Permanent { .. })
    }

    #[test]
    fn only_an_oauth_error_is_permanent() {
        let revoked =
            r#"{"error":"invalid_grant","error_description":"AADSTS50173: revoked. Trace ID: 1"}"#;
        assert!(permanent(400, revoked));
        assert!(permanent(401, r#"{"error":"invalid_client"}"#));
        assert!(!permanent(500, revoked));
        assert!(!permanent(429, revoked));
        assert!(!permanent(408, revoked));
        assert!(!permanent(400, "<html>captive portal</html>"));
        assert!(!permanent(404, ""));
        assert!(!permanent(404, r#"{"error":"no such route"}"#));
        assert!(!permanent(400, r#"{"error":"temporarily_unavailable"}"#));
        assert!(!permanent(400, r#"{"error":"invalid_grant","error_codes":[90033]}"#));
    }

    #[test]
    fn the_reason_is_the_sentence_without_the_trace() {
        let body = r#"{"error":"invalid_grant","error_description":"AADSTS50173: The grant was revoked.\r\nTrace ID: 77"}"#;
        let error = TokenError::of_answer(400, None, body.as_bytes());
        assert_eq!(error.to_string(), "invalid_grant: AADSTS50173: The grant was revoked.");
    }

    #[test]
    fn retry_after_in_seconds_or_as_a_date() {
        let wait = |value| match TokenError::of_answer(429, Some(value), b"") {
            TokenError::Transient { retry_after, .. } => retry_after,
            TokenError::Permanent { .. } => None,
        };
        assert_eq!(wait("17"), Some(Duration::from_secs(17)));
        assert_eq!(wait("999999"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
    }
}
