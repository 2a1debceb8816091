//! What comes of an attempt: written down, told, and when it is tried again.
//!
//! Invariant: what the provider has taken is on the disk as taken before anything else happens with the message. Where
//! the disk fails, memory knows it, and nothing is sent again as long as this process lives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, error, field, info, info_span, warn};

use super::courier::Verdict;
use super::current::Current;
use super::dispatch::Signal;
use super::entry::Entry;
use super::error::SpoolError;
use super::queue::{self, Held};
use super::report::Report;
use super::smtp::remedy;
use super::spool::Spool;
use crate::clock::{Clock, Timestamp};
use crate::config::Account;
use crate::protocol::Recipient;
use crate::vocabulary::Way;

/// How long a way that was closed is left out while there is another one.
const CLOSED: Duration = Duration::from_secs(3600);

/// How often a session may break off at a message before that is taken for the message's own fault.
const BREAKS: u32 = 3;

/// After an error of the disk.
const DISK_AGAIN: Duration = Duration::from_secs(60);

/// What all workers share.
pub(super) struct Shared {
    pub(super) current: Arc<Current>,
    pub(super) spool: Spool,
    pub(super) clock: Clock,
    pub(super) report: Report,
    pub(super) events: mpsc::UnboundedSender<Signal>,
    pub(super) stop: CancellationToken,
    pub(super) cut: CancellationToken,
    /// Ways that were closed to a mailbox, and when.
    pub(super) closed: Mutex<HashMap<(String, Way), Timestamp>>,
    /// How often a session broke off at these messages.
    pub(super) broken: Mutex<HashMap<String, u32>>,
}

/// What became of a job.
pub(super) enum Ending {
    /// The provider has answered, and the message has left the spool.
    Gone,
    /// It is not there any more.
    Forgotten,
    /// The provider has answered, and the message waits.
    Later(Entry),
    /// It waits for a reason that is not the provider's.
    PutBack(Entry),
    /// The mailbox can send nothing.
    Held(Entry, Held),
}

impl Shared {
    /// The provider has told of each recipient.
    pub(super) async fn answered(
        &self,
        mut entry: Entry,
        recipients: &[Recipient],
        verdicts: Vec<Verdict>,
    ) -> Ending {
        let now = self.clock.now();
        let progress = &mut entry.progress;
        (progress.attempts, progress.last_try) = (progress.attempts + 1, Some(now));
        (progress.next_try, progress.last_error) = (None, None);
        let mut said = String::new();
        let (mut taken, mut refused) = (false, false);
        let unheard = std::iter::repeat_with(|| Verdict::Later("no answer".into()));
        for (recipient, verdict) in recipients.iter().zip(verdicts.into_iter().chain(unheard)) {
            match verdict {
                Verdict::Delivered(words) => {
                    progress.done.push(recipient.address.clone());
                    (taken, said) = (true, words);
                }
                Verdict::Refused(words) => {
                    refused = true;
                    progress.last_error = Some(words.clone());
                    progress.refused.push((recipient.address.clone(), words));
                }
                Verdict::Later(words) => progress.last_error = Some(words),
            }
        }
        let whole = entry.progress.refused.is_empty() && entry.remaining().is_empty();
        if whole {
            return self.finish(entry, &said).await;
        }
        let next = queue::next_try(&self.current.get().config.spool, &entry, now);
        entry.progress.next_try = next.filter(|_| !entry.remaining().is_empty());
        match self.spool.note(&entry, taken || refused).await {
            Ok(()) => {}
            // A person dropped it meanwhile.
            Err(SpoolError::Gone(_)) => return Ending::Gone,
            Err(error) => error!(%error, "the progress of a message can't be written"),
        }
        if entry.remaining().is_empty() {
            return self.finish(entry, &said).await;
        }
        if next.is_none() {
            return self.give_up(entry).await;
        }
        let Entry { progress, .. } = &entry;
        let next = progress.next_try.map(Timestamp::text);
        info!(attempts = progress.attempts, said = progress.last_error, next, "message waits");
        Ending::Later(entry)
    }

    /// It has waited for too long.
    async fn give_up(&self, mut entry: Entry) -> Ending {
        let days = humantime::format_duration(self.current.get().config.spool.give_up);
        let last = entry.progress.last_error.as_deref().unwrap_or("it was not tried");
        // RFC 3463 section 3.5: delivery time expired.
        let said = format!("4.4.7 not delivered within {days}; at last: {last}");
        refuse_remaining(&mut entry, &said);
        self.finish(entry, "").await
    }

    /// The same, as often as it takes; a stop leaves it where it is.
    pub(super) async fn give_up_at_last(&self, entry: Entry) {
        let mut ending = self.give_up(entry).await;
        while let Ending::Later(entry) = ending {
            if self.stop.run_until_cancelled(sleep(DISK_AGAIN)).await.is_none() {
                return;
            }
            ending = self.finish(entry, "").await;
        }
    }

    /// There is nobody left to send it to.
    pub(super) async fn finish(&self, entry: Entry, said: &str) -> Ending {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).remove(&entry.id);
        let failed = !entry.progress.refused.is_empty();
        let done = if failed {
            if let Some(bounce) = self.report.failed(&entry).await {
                let _ = self.events.send(Signal::Arrived(Box::new(bounce)));
            }
            self.spool.fail(&entry).await
        } else {
            self.spool.delivered(&entry, said).await
        };
        match done {
            Ok(()) | Err(SpoolError::Gone(_)) => {}
            Err(error) => {
                error!(%error, failed, "a message can't be taken out of the queue; it is not sent again");
                return Ending::Later(self.again(entry));
            }
        }
        if failed {
            self.report.settled(&entry.id);
        } else {
            let millis = self.clock.now().saturating_since(entry.arrived).as_millis();
            let millis = u64::try_from(millis).unwrap_or(u64::MAX);
            info!(attempts = entry.progress.attempts, millis, said, "message delivered");
        }
        Ending::Gone
    }

    pub(super) async fn held(&self, mut entry: Entry, held: Held) -> Ending {
        if self.stop.is_cancelled() {
            return Ending::PutBack(entry);
        }
        entry.progress.last_try = Some(self.clock.now());
        entry.progress.last_error = Some(held.reason.clone());
        // So that it is due at once after a restart: the outage may be over.
        entry.progress.next_try = None;
        match self.spool.note(&entry, false).await {
            Err(SpoolError::Gone(_)) => return Ending::Forgotten,
            Err(error) => warn!(%error, "the progress of a message can't be written"),
            Ok(()) => {}
        }
        Ending::Held(entry, held)
    }

    pub(super) async fn unreadable(&self, mut entry: Entry, error: SpoolError) -> Ending {
        match error {
            SpoolError::Gone(_) => {
                debug!("dropped by a person");
                Ending::Forgotten
            }
            SpoolError::Damaged { .. } => {
                let said = format!("5.3.0 {error}");
                refuse_remaining(&mut entry, &said);
                self.finish(entry, "").await
            }
            error => {
                error!(%error, "a message can't be read; it is tried again");
                Ending::PutBack(self.again(entry))
            }
        }
    }

    /// At first the mailbox's trouble, then the message's.
    pub(super) async fn broken(
        &self,
        entry: Entry,
        recipients: &[Recipient],
        reason: String,
    ) -> Ending {
        let breaks = {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            let breaks = broken.entry(entry.id.clone()).or_default();
            *breaks += 1;
            *breaks
        };
        if breaks <= BREAKS {
            return self.held(entry, Held { reason, wait: None, remedy: None }).await;
        }
        self.set_aside(entry, recipients, &reason).await
    }

    /// It may be this message's own fault: it waits by its own schedule, and the others have their turn.
    pub(super) async fn set_aside(
        &self,
        entry: Entry,
        recipients: &[Recipient],
        why: &str,
    ) -> Ending {
        let verdicts = vec![Verdict::Later(why.to_owned()); recipients.len()];
        match self.answered(entry, recipients, verdicts).await {
            Ending::Later(entry) => Ending::PutBack(entry),
            ending => ending,
        }
    }

    fn again(&self, mut entry: Entry) -> Entry {
        entry.progress.next_try = Some(self.clock.now().plus(DISK_AGAIN));
        entry
    }

    /// In the account's order, without those that are closed; if all are, a person may have opened one.
    pub(super) fn ways(&self, account: &Account) -> Vec<Way> {
        let now = self.clock.now();
        let mut closed = self.closed();
        closed.retain(|_, at| *at <= now && now.saturating_since(*at) < CLOSED);
        let is_open = |way: &&Way| !closed.contains_key(&(account.mailbox.clone(), **way));
        let open: Vec<Way> = account.via.iter().filter(is_open).copied().collect();
        if open.is_empty() { account.via.clone() } else { open }
    }

    pub(super) fn close(&self, account: &Account, way: Way, said: &str) {
        let known = self.closed().insert((account.mailbox.clone(), way), self.clock.now());
        if known.is_none() {
            warn!(%way, said, "this way is closed to the mailbox");
        }
    }

    pub(super) fn closed(&self) -> MutexGuard<'_, HashMap<(String, Way), Timestamp>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is logged within is about this message.
pub(super) fn span(entry: &Entry) -> Span {
    let Entry { id, mailbox, device, .. } = entry;
    info_span!("delivery", id, mailbox, device, way = field::Empty)
}

fn refuse_remaining(entry: &mut Entry, said: &str) {
    for Recipient { address, .. } in entry.remaining() {
        entry.progress.refused.push((address, said.to_owned()));
    }
    entry.progress.last_error = Some(said.to_owned());
}

pub(super) fn all_closed(said: Option<String>, account: &Account) -> Held {
    let reason = said.unwrap_or_else(|| "the account has no way".into());
    let remedy = remedy(&reason, &account.mailbox);
    let remedy = remedy.unwrap_or_else(|| format!("gatepost doctor {} tells why", account.mailbox));
    Held { reason, wait: None, remedy: Some(remedy) }
}

pub(super) fn no_account() -> Held {
    Held {
        reason: "the mailbox is no longer in the configuration".into(),
        wait: None,
        remedy: Some("add its [[account]] again, or: gatepost spool drop".into()),
    }
}
