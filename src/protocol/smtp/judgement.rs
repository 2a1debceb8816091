//! What a reply means for the message, for its mailbox, and for this way of sending.
//!
//! Invariant: by the letter of RFC 5321 section 4.2.1 the first digit decides, 4 for later and 5 for never. What
//! stands here besides is Exchange's: replies that are about the mailbox and not about the message.

use std::time::Duration;

use super::super::upstream::backoff_time;
use super::reply::{Reply, status_of};

/// How long a mailbox rests that has used up its day's quota. It is counted over 24 hours, so that a little of it
/// comes back with every hour.
const QUOTA: Duration = Duration::from_secs(3600);

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Taken.
    Done,
    /// Not now.
    Later,
    /// Never.
    Refused,
    /// Nothing of this mailbox for now, however often another message is tried.
    Held(Option<Duration>),
    /// Nothing of this mailbox by SMTP at all.
    Closed,
}

/// Of the words, those that are about the mailbox.
pub(super) fn judge(reply: &Reply) -> Judgement {
    match reply.code {
        200..300 => Judgement::Done,
        400..600 => known(reply).unwrap_or(if reply.is_transient() {
            Judgement::Later
        } else {
            Judgement::Refused
        }),
        // 3xx where nothing was to be sent.
        _ => Judgement::Later,
    }
}

/// Exchange's.
fn known(reply: &Reply) -> Option<Judgement> {
    let lower = reply.text.to_ascii_lowercase();
    let status = status_of(&lower);
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if status == "5.7.139" || has(&["smtpclientauthentication is disabled"]) {
        return Some(Judgement::Closed);
    }
    // 554 and yet it passes by itself.
    if status == "5.1.90"
        || has(&[
            "submissionquotaexceeded",
            "submission quota was exceeded",
            "daily limit for message",
        ])
    {
        return Some(Judgement::Held(Some(QUOTA)));
    }
    // Blocked for spam, until an administrator has looked: each message would be refused.
    if status == "5.1.8" && has(&["bad outbound sender"]) {
        return Some(Judgement::Held(Some(QUOTA)));
    }
    if has(&["suggested backoff time:"]) {
        return Some(Judgement::Held(backoff_time(&lower)));
    }
    // The session is over or was never logged in: the next one may be better.
    if matches!(reply.code, 421 | 432 | 530) || matches!(status, "4.3.2" | "4.7.500") {
        return Some(Judgement::Held(None));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_exchange() {
        use Judgement::{Closed, Done, Held, Later, Refused};
        let cases = [
            ("250 2.0.0 OK <x@y>", Done),
            ("251 2.1.5 will forward", Done),
            ("450 4.2.1 mailbox busy", Later),
            ("452 4.5.3 too many recipients", Later),
            ("451 4.7.0 Temporary server error. Please try again later. PRX5", Later),
            ("550 5.1.1 no such user", Refused),
            ("550 5.7.60 SMTP; Client does not have permissions to send as this sender", Refused),
            (
                "554 5.2.252 SendAsDenied; a not allowed to send as b; SendAsDeniedException",
                Refused,
            ),
            ("552 5.3.4 Message size exceeds fixed maximum message size", Refused),
            ("432 4.3.2 Concurrent connections limit exceeded", Held(None)),
            ("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", Held(None)),
            ("450 4.3.2 not now", Held(None)),
            ("421 4.4.2 Connection dropped", Held(None)),
            ("451 4.7.500 Server busy. Please try again later", Held(None)),
            ("530 5.7.57 Client not authenticated to send mail.", Held(None)),
            (
                "451 4.7.0 Request is throttled. Suggested Backoff Time: 1500 milliseconds",
                Held(Some(Duration::from_millis(1500))),
            ),
            (
                "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; x",
                Held(Some(QUOTA)),
            ),
            ("550 5.1.90 Your message can't be sent", Held(Some(QUOTA))),
            ("550 5.1.8 Access denied, bad outbound sender AS(42003)", Held(Some(QUOTA))),
            ("550 5.1.8 bad sender's system address", Refused),
            ("535 5.7.139 Authentication unsuccessful", Closed),
            ("550 5.7.1 SmtpClientAuthentication is disabled for the Tenant", Closed),
            ("354 go on", Later),
        ];
        for (line, judgement) in cases {
            let reply = Reply::new(line[..3].parse().unwrap(), &line[4..]);
            assert_eq!(judge(&reply), judgement, "{line}");
        }
    }
}
