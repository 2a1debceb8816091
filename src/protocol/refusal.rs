//! Why a login is refused, whatever the protocol.
//!
//! Invariant: the list is closed, and every Frontend renders every entry. Only [`Refusal::BadCredentials`]
//! and [`Refusal::NotAllowedFromHere`] may look like a wrong password to a client: mail clients throw the
//! stored password away on that. Everything temporary says so in the protocol's own terms.

use std::time::Duration;

/// A login that is not let through, with what the client's user can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown mailbox or wrong password; never told apart.
    BadCredentials,
    /// The password is right, but not for this protocol or from this network.
    NotAllowedFromHere,
    /// The mailbox has no usable sign-in until a person acts.
    SignInNeeded {
        /// Whose sign-in, as the configuration names it.
        mailbox: String,
    },
    /// The provider refuses the app that opens the mailbox, whoever signs in.
    AppRefused {
        /// What its administrator does about it.
        remedy: String,
    },
    /// Too many wrong passwords, by gatepost's own count; this one was not even looked at.
    Throttled {
        /// Until the next one is.
        wait: Duration,
    },
    /// The upstream takes no more connections or requests of this mailbox for now.
    UpstreamBusy {
        /// The upstream's words.
        said: String,
    },
    /// The mailbox has as many connections as it may have, and none became free in time. The session ends
    /// with it: who waits on a connection of its own stands in its own way.
    NoTurn {
        /// What the turn was waited for.
        reason: String,
    },
    /// The upstream or the token endpoint can't be reached, or answers nonsense.
    UpstreamDown {
        /// Which one, and how it failed.
        reason: String,
    },
    /// The token is good, but the upstream does not let it into this mailbox by this protocol.
    NotPermitted {
        /// The upstream's words.
        said: String,
    },
    /// gatepost is being stopped.
    ShuttingDown,
}

impl Refusal {
    /// One word for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BadCredentials => "bad_credentials",
            Self::NotAllowedFromHere => "not_allowed_from_here",
            Self::SignInNeeded { .. } => "sign_in_needed",
            Self::AppRefused { .. } => "app_refused",
            Self::Throttled { .. } => "throttled",
            Self::UpstreamBusy { .. } => "upstream_busy",
            Self::NoTurn { .. } => "no_turn",
            Self::UpstreamDown { .. } => "upstream_down",
            Self::NotPermitted { .. } => "not_permitted",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// Whether it counts as a failed attempt at the password.
    pub fn is_wrong_password(&self) -> bool {
        matches!(self, Self::BadCredentials | Self::NotAllowedFromHere)
    }

    /// Whether the session ends with it.
    pub fn ends_session(&self) -> bool {
        matches!(self, Self::NoTurn { .. })
    }

    /// What happened and what to do next: one line of printable ASCII for the wire.
    pub fn text(&self) -> String {
        let text = match self {
            Self::BadCredentials => {
                "wrong user name or app password; passwords are made by: gatepost password add"
                    .into()
            }
            Self::NotAllowedFromHere => {
                "this app password is not for this protocol or network; see: gatepost password list"
                    .into()
            }
            Self::SignInNeeded { mailbox } => {
                format!(
                    "{mailbox} must be signed in by its administrator: gatepost login {mailbox}"
                )
            }
            Self::AppRefused { remedy } => {
                format!(
                    "{RIGHT_PASSWORD}the provider refuses the app; for its administrator: {remedy}"
                )
            }
            Self::Throttled { wait } => {
                format!(
                    "too many failed logins from here or to this mailbox; try again in {}",
                    time(*wait)
                )
            }
            Self::UpstreamBusy { said } => {
                format!("the mail server is busy, try again later: {said}")
            }
            Self::NoTurn { reason } => {
                format!("no turn at the mail server yet, try again in some minutes: {reason}")
            }
            Self::UpstreamDown { reason } => {
                format!("{RIGHT_PASSWORD}mail can't be had just now: {reason}")
            }
            Self::NotPermitted { said } => {
                format!("{RIGHT_PASSWORD}the mail server refuses this mailbox: {said}")
            }
            Self::ShuttingDown => "gatepost is being restarted; try again".into(),
        };
        printable(&text, MAX_TEXT)
    }

    /// The same for a device, which has no password.
    pub fn text_for_device(&self) -> String {
        let text = self.text();
        text.strip_prefix(RIGHT_PASSWORD).map(str::to_owned).unwrap_or(text)
    }
}

/// What a person at a mail client doubts first.
const RIGHT_PASSWORD: &str = "the password is right, but ";

/// Longest text of a reply: an SMTP reply line has at most 512 octets (RFC 5321 section 4.5.3.1.5),
/// with its code and line end.
const MAX_TEXT: usize = 400;

/// For people, rounded up.
fn time(wait: Duration) -> String {
    match wait.as_millis().div_ceil(1000).max(1) {
        1 => "a second".into(),
        seconds @ 2..=90 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds.div_ceil(60)),
    }
}

/// A peer's or the configuration's words, made fit for a reply or a log line.
pub(super) fn printable(text: &str, longest: usize) -> String {
    let clean = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().map(clean).take(longest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_says_when_it_ends() {
        let said = |millis| Refusal::Throttled { wait: Duration::from_millis(millis) }.text();
        assert!(said(0).ends_with("try again in a second"), "{}", said(0));
        assert!(said(59_001).ends_with("try again in 60 seconds"), "{}", said(59_001));
        assert!(said(61_000 + 30_000).ends_with("try again in 2 minutes"), "{}", said(91_000));
    }

    #[test]
    fn text_is_one_printable_line() {
        let refusal = Refusal::UpstreamDown { reason: format!("a\r\nb\0ü{}", "x".repeat(600)) };
        let text = refusal.text();
        assert!(text.len() <= MAX_TEXT && text.bytes().all(|b| (32..127).contains(&b)));
    }
}
