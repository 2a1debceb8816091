//! What a failed token request means: try again, or get a person.
//!
//! Invariant: only an OAuth error (RFC 6749 section 5.2) that says so is permanent. A captive portal's page,
//! a gateway's 404 or half an answer is transient, whatever its status.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;

use crate::clock::{Clock, Timestamp};
use crate::config::Grant;
use crate::explain;
use crate::vocabulary::Cause;

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
        /// What the provider's support asks for, if a request got that far.
        trace: Option<Box<Trace>>,
    },
    /// It won't work until a person acts.
    #[error("{reason}")]
    Permanent {
        /// What happened, in the token endpoint's words.
        reason: String,
        /// What the person must act on.
        cause: Cause,
        /// What the provider's support asks for, if a request got that far.
        trace: Option<Box<Trace>>,
    },
}

/// The names of one token request, as Microsoft's support asks for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Ours.
    pub client_request_id: String,
    /// Entra's.
    pub trace_id: Option<String>,
    /// Entra's.
    pub correlation_id: Option<String>,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client-request-id {}", self.client_request_id)?;
        for (name, id) in [("trace", &self.trace_id), ("correlation", &self.correlation_id)] {
            if let Some(id) = id {
                write!(f, ", {name} id {id}")?;
            }
        }
        Ok(())
    }
}

/// Longest pause that is honoured. A token endpoint that asks for more is asked again all the same.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Longest part of an error description that is kept: the sentence, without the trace behind it.
const DESCRIPTION: usize = 300;

/// Longest trace id that is kept: a GUID has 36 characters.
const LONGEST_ID: usize = 64;

/// RFC 6749 section 5.2, with what Entra adds.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct OAuthError {
    pub(super) error: String,
    #[serde(default)]
    pub(super) error_description: String,
    #[serde(default)]
    error_codes: Vec<u32>,
    trace_id: Option<String>,
    correlation_id: Option<String>,
}

/// An answer that is not a success.
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) oauth: Option<OAuthError>,
    pub(super) client_request_id: String,
}

impl TokenError {
    /// One that passes.
    pub fn transient(reason: impl Into<String>) -> Self {
        Self::Transient { reason: reason.into(), retry_after: None, trace: None }
    }

    /// One that stays.
    pub fn permanent(reason: impl Into<String>, cause: Cause) -> Self {
        Self::Permanent { reason: reason.into(), cause, trace: None }
    }

    /// Where nobody signs in, it is the app that is refused, in whatever words (RFC 7523 section 3.1).
    pub(super) fn by_grant(self, grant: Grant) -> Self {
        match self {
            Self::Permanent { reason, trace, .. } if !grant.is_delegated() => {
                Self::Permanent { reason, cause: Cause::Registration, trace }
            }
            other => other,
        }
    }

    /// The names of the request, for people's support.
    pub fn trace(&self) -> Option<&Trace> {
        match self {
            Self::Transient { trace, .. } | Self::Permanent { trace, .. } => trace.as_deref(),
        }
    }
}

impl From<Refused> for TokenError {
    fn from(refused: Refused) -> Self {
        let Refused { status, retry_after, oauth, client_request_id } = refused;
        let reason = match &oauth {
            Some(oauth) => oauth.text(),
            None => format!("the token endpoint answered with HTTP status {status}"),
        };
        let id = |id: fn(&OAuthError) -> &Option<String>| {
            oauth.as_ref().and_then(|oauth| id(oauth).as_deref()).map(|id| words(id, LONGEST_ID))
        };
        let trace = Some(Box::new(Trace {
            client_request_id,
            trace_id: id(|oauth| &oauth.trace_id),
            correlation_id: id(|oauth| &oauth.correlation_id),
        }));
        // RFC 6749 section 5.2 has 400 and 401; with another status it is a gateway's word.
        let stays = matches!(status, 400 | 401 | 403);
        match oauth {
            Some(oauth) if stays && !oauth.is_transient() => {
                Self::Permanent { reason, cause: oauth.cause(), trace }
            }
            _ => {
                let retry_after = retry_after.as_deref().and_then(self::retry_after);
                Self::Transient { reason, retry_after, trace }
            }
        }
    }
}

impl OAuthError {
    fn is_transient(&self) -> bool {
        matches!(self.error.as_str(), "temporarily_unavailable" | "server_error" | "slow_down")
            || self.error_codes.iter().any(|code| passes(*code))
    }

    /// RFC 6749 sections 4.1.2.1 and 5.2, RFC 8628 section 3.5, and OpenID Connect Core section 3.1.2.6.
    fn cause(&self) -> Cause {
        match self.error.as_str() {
            "invalid_grant"
            | "access_denied"
            | "expired_token"
            | "interaction_required"
            | "login_required"
            | "consent_required"
            | "account_selection_required" => Cause::SignIn,
            _ => Cause::Registration,
        }
    }

    pub(super) fn text(&self) -> String {
        let clean =
            |text: &str| words(text.split("Trace ID").next().unwrap_or_default(), DESCRIPTION);
        match clean(&self.error_description) {
            description if description.is_empty() => clean(&self.error),
            description => format!("{}: {description}", clean(&self.error)),
        }
    }
}

/// Entra's codes that pass by themselves although their `error` does not say so.
fn passes(code: u32) -> bool {
    explain::best(&format!("AADSTS{code}")).is_some_and(|entry| entry.transient)
}

/// A peer's words on one line.
fn words(text: &str, longest: usize) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|c| !c.is_control()).take(longest).collect()
}

/// What `Retry-After` says (RFC 9110 section 10.2.3), in seconds or as a date; an hour at most.
pub fn retry_after(value: &str) -> Option<Duration> {
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

    fn error(status: u16, retry_after: Option<&str>, body: &str) -> TokenError {
        let oauth = serde_json::from_str(body).ok();
        let retry_after = retry_after.map(str::to_owned);
        Refused { status, retry_after, oauth, client_request_id: "ours".into() }.into()
    }

    fn permanent(status: u16, body: &str) -> bool {
        matches!(error(status, None, body), TokenError::Permanent { .. })
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
        let body = r#"{"error":"invalid_grant","error_description":"AADSTS50173: The grant was revoked.\r\nTrace ID: 77","trace_id":"77","correlation_id":"78"}"#;
        let error = error(400, None, body);
        assert_eq!(error.to_string(), "invalid_grant: AADSTS50173: The grant was revoked.");
        let trace = error.trace().unwrap().to_string();
        assert_eq!(trace, "client-request-id ours, trace id 77, correlation id 78");
    }

    #[test]
    fn retry_after_in_seconds_or_as_a_date() {
        let wait = |value| match error(429, Some(value), "") {
            TokenError::Transient { retry_after, .. } => retry_after,
            TokenError::Permanent { .. } => None,
        };
        assert_eq!(wait("17"), Some(Duration::from_secs(17)));
        assert_eq!(wait("999999"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
    }
}
