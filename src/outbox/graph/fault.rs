//! What went wrong with a request to Graph, and what that means.
//!
//! Invariant: only what Graph says of the message itself is told of the message; what is true of the whole mailbox
//! holds or closes the way. An answer that another server may have written refuses nothing.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::explain;
use crate::outbox::{Outcome, Verdict};

/// No success.
#[derive(Debug)]
pub(super) enum Fault {
    /// Graph's answer.
    Said(Said),
    /// None came.
    Silent {
        /// In words.
        reason: String,
        /// The request had gone out: it may have been done.
        asked: bool,
    },
    /// The message is not one for Graph.
    Unsuited(String),
    /// The message can't be read.
    Unreadable(io::Error),
    /// Known before any request was made.
    Outcome(Outcome),
}

/// An error as Graph tells it.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) status: u16,
    /// `ErrorSendAsDenied`; empty: it was no error of Graph's form.
    pub(super) code: String,
    pub(super) message: String,
    pub(super) request_id: String,
    pub(super) wait: Option<Duration>,
}

/// What an error is about.
enum About {
    /// The provider's state, for the mailbox.
    Now,
    /// The mailbox and this way, for good.
    Way,
    /// This message, for now.
    MessageNow,
    /// This message, for good.
    Message,
}

impl Fault {
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Said(said) => Some(said.status),
            _ => None,
        }
    }

    /// Whether another attempt may find it otherwise, with nobody doing anything.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Said(said) => matches!(said.about(), About::Now | About::MessageNow),
            Self::Silent { .. } | Self::Unreadable(_) => true,
            Self::Unsuited(_) | Self::Outcome(_) => false,
        }
    }

    /// The same of a draft: it needs a permission of its own, without which small messages go all the same.
    pub(super) fn of_draft(self) -> Self {
        match self {
            Self::Said(said) if said.status == 403 && matches!(said.about(), About::Way) => {
                Self::Unsuited(format!(
                    "{said}; a message above 3 MB goes by a draft, for which Graph wants the permission Mail.ReadWrite"
                ))
            }
            fault => fault,
        }
    }

    /// The same of an upload: what its address refuses says nothing of the mailbox, and another one may work.
    pub(super) fn of_upload(self) -> Self {
        match self {
            Self::Said(said) if !matches!(said.about(), About::Now) => {
                Self::Silent { reason: format!("an upload for {said}"), asked: true }
            }
            fault => fault,
        }
    }

    /// What to tell of a message with so many recipients.
    pub(super) fn outcome(self, mailbox: &str, recipients: usize) -> Outcome {
        let all = |verdict: Verdict| Outcome::Answered(vec![verdict; recipients]);
        match self {
            Self::Outcome(outcome) => outcome,
            Self::Unsuited(said) => Outcome::Unsuited { said },
            Self::Unreadable(error) => {
                all(Verdict::Later(format!("the spooled message can't be read: {error}")))
            }
            // Nobody was reached: another message would not fare better.
            Self::Silent { reason, asked: false } => {
                Outcome::Held { reason, wait: None, remedy: None }
            }
            // It may be this one's size: the others have their turn.
            Self::Silent { reason, asked: true } => all(Verdict::Later(reason)),
            Self::Said(said) => {
                let words = said.to_string();
                match said.about() {
                    About::Now => Outcome::Held { reason: words, wait: said.wait, remedy: None },
                    About::Way => Outcome::Closed { said: with_remedy(&words, mailbox) },
                    About::MessageNow => all(Verdict::Later(words)),
                    About::Message => all(Verdict::Refused(with_remedy(&words, mailbox))),
                }
            }
        }
    }
}

impl Said {
    /// Codes: Microsoft Graph error responses, and Exchange's own (`ResponseCodeType` of its web services).
    fn about(&self) -> About {
        if self.code.is_empty() {
            // A gateway's page. 500 may be one message's.
            return if self.status == 500 { About::MessageNow } else { About::Now };
        }
        match (self.status, self.code.as_str()) {
            (_, "ErrorSendAsDenied") => About::Message,
            // What has passed by the next hour or day.
            (
                403,
                "ErrorExceededMessageLimit"
                | "ErrorMessageSubmissionBlocked"
                | "ErrorQuotaExceeded"
                | "ErrorAccountSuspend",
            ) => About::Now,
            (401 | 403, _) => About::Way,
            // A draft of ours that is gone.
            (404, "ErrorItemNotFound") => About::MessageNow,
            (404, _) => About::Way,
            (429 | 502 | 503 | 504 | 507 | 509, _) => About::Now,
            (408 | 409 | 412 | 423 | 500.., _) => About::MessageNow,
            (400.., _) => About::Message,
            // A redirect: Graph has none here.
            _ => About::Now,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(said) => said.fmt(f),
            Self::Silent { reason, .. } => f.write_str(reason),
            Self::Unsuited(said) => f.write_str(said),
            Self::Unreadable(error) => error.fmt(f),
            Self::Outcome(_) => f.write_str("there is no token"),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, code, message, request_id, .. } = self;
        write!(f, "Microsoft Graph: HTTP status {status}")?;
        if !code.is_empty() {
            write!(f, ", {code}: {message}")?;
        }
        write!(f, " (request-id {request_id})")
    }
}

fn with_remedy(words: &str, mailbox: &str) -> String {
    match explain::best(words) {
        Some(entry) => format!("{words}; remedy: {}", entry.remedy_for(mailbox)),
        None => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16, code: &str) -> Outcome {
        let (code, message) = (code.to_owned(), "said".to_owned());
        let wait = Some(Duration::from_secs(7));
        let said = Said { status, code, message, request_id: "id".into(), wait };
        Fault::Said(said).outcome("jane@contoso.com", 2)
    }

    #[test]
    fn what_each_error_is_about() {
        let held =
            |status, code| matches!(outcome(status, code), Outcome::Held { wait: Some(_), .. });
        let closed = |status, code| matches!(outcome(status, code), Outcome::Closed { .. });
        let message = |status, code| match outcome(status, code) {
            Outcome::Answered(verdicts) if verdicts.len() == 2 => {
                Some(matches!(verdicts.first(), Some(Verdict::Refused(_))))
            }
            _ => None,
        };
        assert!(held(429, "ApplicationThrottled") && held(503, "serviceNotAvailable"));
        assert!(held(403, "") && held(404, "") && held(502, ""), "a gateway's");
        assert!(held(403, "ErrorExceededMessageLimit"));
        assert!(closed(401, "InvalidAuthenticationToken") && closed(403, "ErrorAccessDenied"));
        assert!(closed(404, "ErrorInvalidUser") && closed(404, "MailboxNotEnabledForRESTAPI"));
        assert_eq!(message(403, "ErrorSendAsDenied"), Some(true));
        assert_eq!(message(400, "ErrorInvalidRecipients"), Some(true));
        assert_eq!(message(404, "ErrorItemNotFound"), Some(false));
        assert_eq!(message(500, "ErrorInternalServerError"), Some(false));
        assert_eq!(message(409, "ErrorIrresolvableConflict"), Some(false));
        assert_eq!(message(413, "ErrorMessageSizeExceeded"), Some(true));
    }

    #[test]
    fn the_words_name_the_request_and_the_remedy() {
        let Outcome::Closed { said } = outcome(403, "ErrorAccessDenied") else { panic!() };
        assert!(said.contains("ErrorAccessDenied: said (request-id id)"), "{said}");
        assert!(said.contains("remedy: ") && said.contains("gatepost entra script"), "{said}");
    }
}
