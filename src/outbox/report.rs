//! Who is told of mail that does not go out: the account's `notify` address by a bounce, a person by
//! `on_attention`, the log.
//!
//! Invariant: no report about a report (RFC 5321 section 6.1), and a person is called once for one outage, and at most
//! once an hour for a mailbox's failed messages, and for messages that are not taken.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::bounce::{Bounce, Failure, MAX_HEADER, bounce, is_refusal};
use super::current::Current;
use super::entry::{Entry, Source};
use super::queue::{Held, Hold};
use super::smtp::remedy;
use super::spool::Spool;
use super::summary::messages;
use crate::attention::{Attention, Call};
use crate::clock::{Clock, Timestamp};
use crate::config::SenderRule;
use crate::explain::split_hint;
use crate::protocol::{Envelope, Recipient};

/// Between two calls about failed messages of a mailbox.
const CALL_AGAIN: Duration = Duration::from_secs(3600);

/// An outage that is longer than this concerns a person, also if it may end by itself.
const LONG_OUTAGE: Duration = Duration::from_secs(3600);

/// Attempts that show that it needs a person, if the provider's words say so.
const SURE: u32 = 2;

/// Who hands bounces over, for people.
const DEVICE: &str = "gatepost";

/// See the module.
pub(super) struct Report {
    current: Arc<Current>,
    spool: Spool,
    clock: Clock,
    attention: Attention,
    told: Mutex<HashMap<String, Told>>,
    /// Failed messages that people know of and the disk does not.
    reported: Mutex<HashSet<String>>,
    /// When people were last told that no message is taken.
    not_taken_at: Mutex<Option<Timestamp>>,
}

/// What a person knows of a mailbox.
#[derive(Default)]
struct Told {
    /// That it is held.
    held: bool,
    /// When it was last told that messages have failed.
    failed_at: Option<Timestamp>,
    /// What has failed since.
    failed: u64,
    /// The last of them.
    reason: String,
    remedy: String,
}

impl Report {
    pub(super) fn new(
        current: Arc<Current>,
        spool: Spool,
        clock: Clock,
        attention: Attention,
    ) -> Self {
        let (told, reported, not_taken_at) = Default::default();
        Self { current, spool, clock, attention, told, reported, not_taken_at }
    }

    /// A message has failed: its `refused` tell for whom and why. The bounce, if there is one.
    pub(super) async fn failed(&self, entry: &Entry) -> Option<Entry> {
        let Entry { id, mailbox, progress, .. } = entry;
        if !self.reported().insert(id.clone()) {
            return None;
        }
        let said = progress.last_error.clone().unwrap_or_default();
        let recipients = progress.refused.len();
        let to_do = remedy(&said, mailbox);
        error!(
            recipients,
            attempts = progress.attempts,
            said,
            remedy = to_do.as_deref(),
            "message not delivered: it is in the failed folder"
        );
        let to_do = to_do.unwrap_or_else(|| {
            format!("gatepost spool show {id}; once the cause is gone: gatepost spool retry {id}")
        });
        self.count_failed(mailbox, said, to_do);
        self.bounce(entry).await
    }

    /// The message is in the failed folder.
    pub(super) fn settled(&self, id: &str) {
        self.reported().remove(id);
    }

    /// A message was not taken: a device that tries once has lost it.
    pub(super) fn not_taken(&self, why: &str) {
        let now = self.clock.now();
        {
            let mut told_at = self.not_taken_at.lock().unwrap_or_else(PoisonError::into_inner);
            // Set back, the clock keeps nobody from being called.
            if told_at.is_some_and(|at| at <= now && now.saturating_since(at) < CALL_AGAIN) {
                return;
            }
            *told_at = Some(now);
        }
        let (why, hint) = split_hint(why);
        let hint = hint.unwrap_or("gatepost doctor");
        error!(why, hint, "no message is taken: devices are answered 452 4.3.1");
        self.call("spool_full", "all mailboxes", why.to_owned(), hint.to_owned());
    }

    /// A mailbox can send nothing.
    pub(super) fn held(&self, mailbox: &str, held: &Held, hold: &Hold) {
        let now = self.clock.now();
        let Held { reason, remedy, .. } = held;
        let long = now.saturating_since(hold.since) >= LONG_OUTAGE;
        let sure = remedy.is_some() && hold.failures >= SURE;
        let until = hold.until.text();
        {
            let mut all = self.told();
            let told = all.entry(mailbox.to_owned()).or_default();
            if told.held || !(long || sure) {
                if hold.failures > 1 {
                    debug!(mailbox, reason, until, "mail is still held");
                } else {
                    info!(mailbox, reason, until, "mail is held");
                }
                return;
            }
            told.held = true;
        }
        let remedy = remedy.clone().unwrap_or_else(|| {
            format!(
                "what is wrong tells: gatepost doctor {mailbox}. Nothing is lost: gatepost tries on"
            )
        });
        error!(mailbox, reason, remedy, until, "mail can't be delivered");
        self.call("delivery_held", mailbox, reason.clone(), remedy);
    }

    /// The mailbox can send again.
    pub(super) fn recovered(&self, mailbox: &str, hold: &Hold) {
        if let Some(told) = self.told().get_mut(mailbox) {
            told.held = false;
        }
        let seconds = self.clock.now().saturating_since(hold.since).as_secs();
        info!(mailbox, seconds, "mail goes out again");
    }

    /// Tells what has failed within the hours that are over.
    pub(super) fn look(&self) {
        let now = self.clock.now();
        let mut due = Vec::new();
        for (mailbox, told) in self.told().iter_mut() {
            // Set back, the clock keeps nobody from being called.
            let recent = |at: Timestamp| at <= now && now.saturating_since(at) < CALL_AGAIN;
            if told.failed > 0 && !told.failed_at.is_some_and(recent) {
                let count = std::mem::take(&mut told.failed);
                told.failed_at = Some(now);
                let (reason, remedy) =
                    (std::mem::take(&mut told.reason), std::mem::take(&mut told.remedy));
                due.push((mailbox.clone(), count, reason, remedy));
            }
        }
        for (mailbox, count, reason, remedy) in due {
            self.call(
                "message_failed",
                &mailbox,
                format!("{} not delivered: {reason}", messages(count)),
                remedy,
            );
        }
    }

    fn count_failed(&self, mailbox: &str, said: String, remedy: String) {
        {
            let mut all = self.told();
            let told = all.entry(mailbox.to_owned()).or_default();
            told.failed += 1;
            (told.reason, told.remedy) = (said, remedy);
        }
        self.look();
    }

    fn call(&self, event: &'static str, mailbox: &str, reason: String, remedy: String) {
        self.attention.call(Call { event, account: mailbox.to_owned(), reason, remedy });
    }

    /// To the account's `notify` address, by the same mailbox.
    async fn bounce(&self, entry: &Entry) -> Option<Entry> {
        let account = self.current.get().config.account(&entry.mailbox)?;
        let notify = account.notify.as_deref().filter(|_| !entry.bounce)?;
        let header = match self.spool.header(entry, MAX_HEADER).await {
            Ok(header) => header,
            Err(error) => {
                warn!(%error, "a failed message's header can't be read");
                Vec::new()
            }
        };
        let message = bounce(&Bounce {
            mailbox: &entry.mailbox,
            notify,
            queue_id: &entry.id,
            device: &entry.device,
            arrived: entry.arrived,
            now: self.clock.now(),
            failures: &failures(entry),
            header: &header,
            original_sender: &entry.envelope.sender,
            attempts: entry.progress.attempts,
        });
        let source = Source {
            mailbox: entry.mailbox.clone(),
            device: DEVICE.into(),
            peer: None,
            sender: SenderRule::Keep,
        };
        // Exchange takes mail of a mailbox in its own name only, so that the sender is not empty; that no report
        // comes back is asked for instead (RFC 3461 section 4.1).
        let recipient =
            Recipient { address: notify.to_owned(), parameters: vec!["NOTIFY=NEVER".into()] };
        let (sender, parameters) = (entry.mailbox.clone(), Vec::new());
        let envelope = Envelope { sender, parameters, recipients: vec![recipient] };
        match self.spool.enqueue(source, envelope, &message, true).await {
            Ok(bounce) => Some(bounce),
            Err(error) => {
                error!(notify, %error, "nobody can be told by mail of a failed message");
                None
            }
        }
    }

    fn reported(&self) -> MutexGuard<'_, HashSet<String>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, HashMap<String, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failures(entry: &Entry) -> Vec<Failure<'_>> {
    let refused = entry.progress.refused.iter();
    refused
        .map(|(recipient, said)| Failure { recipient, code: code_of(said), said, remedy: None })
        .collect()
}

/// The enhanced code (RFC 3463) in `550 5.1.1 nobody`, or at the beginning.
fn code_of(said: &str) -> Option<&str> {
    said.split(' ').take(2).find(|word| is_refusal(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_read_from_the_words() {
        assert_eq!(code_of("550 5.1.1 nobody"), Some("5.1.1"));
        assert_eq!(code_of("4.4.7 given up"), Some("4.4.7"));
        assert_eq!(code_of("550 no such user 5.1.1"), None);
        assert_eq!(code_of("10.0.0.1 5.x.y"), None);
    }
}
