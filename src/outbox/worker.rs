//! One message after another of a mailbox: handed to a courier, and what comes of it written down.
//!
//! Invariant: what the provider has taken is on the disk as taken before anything else happens with the message. Where
//! the disk fails, memory knows it, and nothing is sent again as long as this process lives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, info, info_span, warn};

use super::begun::Begun;
use super::courier::{Courier, Message, Outcome, Verdict};
use super::dispatch::{Couriers, Event};
use super::entry::Entry;
use super::error::SpoolError;
use super::queue::{self, Held, Job};
use super::report::Report;
use super::smtp::remedy;
use super::spool::{Spool, SpoolLock};
use crate::clock::{Clock, Timestamp};
use crate::config::{Account, Config};
use crate::protocol::{Envelope, Recipient};
use crate::vocabulary::Way;

/// How long a connection is kept for a mailbox's next message. A scanner sends its pages one by one, some seconds
/// apart; a connection that is kept for longer is missing elsewhere.
const IDLE: Duration = Duration::from_secs(5);

/// How long a way that was closed is left out while there is another one.
const CLOSED: Duration = Duration::from_secs(3600);

/// After an error of the disk.
const DISK_AGAIN: Duration = Duration::from_secs(60);

/// What all workers share.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) spool: Spool,
    pub(super) couriers: Couriers,
    pub(super) clock: Clock,
    pub(super) report: Report,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) stop: CancellationToken,
    pub(super) cut: CancellationToken,
    /// Ways that were closed to a mailbox, and when.
    pub(super) closed: Mutex<HashMap<(String, Way), Timestamp>>,
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

/// Why there was no attempt, or none that is known.
enum Stopped {
    /// gatepost is being stopped.
    Cut,
    /// The spool's.
    Unreadable(SpoolError),
}

/// See the module.
pub(super) struct Worker {
    shared: Arc<Shared>,
    number: u64,
    couriers: HashMap<Way, Box<dyn Courier>>,
    /// Nobody else delivers as long as this one is at work.
    _lock: Arc<SpoolLock>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, number: u64, lock: Arc<SpoolLock>) -> Self {
        Self { shared, number, couriers: HashMap::new(), _lock: lock }
    }

    /// Until there was nothing to do for a while, or somebody else has more need of its connection.
    pub(super) async fn run(mut self, first: Job, mut jobs: mpsc::Receiver<Job>) {
        let mailbox = first.entry.mailbox.clone();
        let mut next = Some(first);
        while let Some(job) = next {
            let Entry { id, device, .. } = &job.entry;
            let span = info_span!("delivery", id, mailbox, device, way = tracing::field::Empty);
            let ending = self.deliver(&job.entry).instrument(span).await;
            // Nobody listens any more behind a stop: the disk knows it all.
            let _ = self
                .shared
                .events
                .send(Event::Done { worker: self.number, done: Box::new((job, ending)) });
            next = self.next(&mut jobs).await;
        }
        for courier in self.couriers.values_mut() {
            courier.close().await;
        }
        let _ = self.shared.events.send(Event::Left { worker: self.number, mailbox });
    }

    async fn next(&mut self, jobs: &mut mpsc::Receiver<Job>) -> Option<Job> {
        if self.shared.stop.is_cancelled() {
            return None;
        }
        let wanted = futures_util::future::select_all(
            self.couriers
                .values_mut()
                .map(|courier| courier.wanted())
                .chain([Box::pin(sleep(IDLE)) as _]),
        );
        tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => return None,
            job = jobs.recv() => return job,
            _ = wanted => {}
        }
        // One may have been on its way; none comes behind it.
        jobs.close();
        jobs.try_recv().ok()
    }

    async fn deliver(&mut self, entry: &Entry) -> Ending {
        let shared = Arc::clone(&self.shared);
        let entry = entry.clone();
        let recipients = remaining(&entry);
        if recipients.is_empty() {
            return shared.finish(entry, "it was delivered before").await;
        }
        let Some(account) = shared.config.account(&entry.mailbox) else {
            return shared.held(entry, no_account()).await;
        };
        let (mut closed, mut unsuited) = (None, Vec::new());
        for way in shared.ways(&account) {
            Span::current().record("way", tracing::field::display(way));
            match self.attempt(way, &account, &entry, &recipients).await {
                Err(Stopped::Cut) => return Ending::PutBack(entry),
                Err(Stopped::Unreadable(error)) => return shared.unreadable(entry, error).await,
                Ok(Outcome::Answered(verdicts)) => {
                    shared.closed().remove(&(account.mailbox.clone(), way));
                    return shared.answered(entry, &recipients, verdicts).await;
                }
                Ok(Outcome::Held { reason, wait, remedy }) => {
                    return shared.held(entry, Held { reason, wait, remedy }).await;
                }
                Ok(Outcome::Closed { said }) => {
                    shared.close(&account, way, &said);
                    closed = Some(said);
                }
                Ok(Outcome::Unsuited { said }) => unsuited.push(said),
            }
        }
        let Some(said) = unsuited.last() else {
            return shared.held(entry, all_closed(closed, &account)).await;
        };
        let verdict = match unsuited.len() == account.via.len() {
            true => Verdict::Refused(said.clone()),
            // A person may open the way that it needs.
            false => Verdict::Later(format!("{said}; the other way is closed")),
        };
        shared.answered(entry, &recipients, vec![verdict; recipients.len()]).await
    }

    async fn attempt(
        &mut self,
        way: Way,
        account: &Arc<Account>,
        entry: &Entry,
        recipients: &[Recipient],
    ) -> Result<Outcome, Stopped> {
        let shared = Arc::clone(&self.shared);
        let content = shared.spool.content(entry).await.map_err(Stopped::Unreadable)?;
        let Some(courier) = self.courier(way, account) else {
            return Ok(Outcome::Closed { said: format!("the provider has no way by {way}") });
        };
        let Envelope { sender, parameters, .. } = entry.envelope.clone();
        let envelope = Envelope { sender, parameters, recipients: recipients.to_vec() };
        let begun = Begun::of(&shared.spool, &entry.id);
        let mut message = Message { id: entry.id.clone(), envelope, content, begun };
        let outcome = tokio::select! {
            biased;
            () = shared.cut.cancelled() => return Err(Stopped::Cut),
            outcome = courier.send(&mut message) => outcome,
        };
        if matches!(outcome, Outcome::Closed { .. }) {
            courier.close().await;
        }
        Ok(outcome)
    }

    fn courier(&mut self, way: Way, account: &Arc<Account>) -> Option<&mut Box<dyn Courier>> {
        if !self.couriers.contains_key(&way) {
            let courier = (self.shared.couriers)(way, account)?;
            self.couriers.insert(way, courier);
        }
        self.couriers.get_mut(&way)
    }
}

impl Shared {
    /// The provider has told of each recipient.
    async fn answered(
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
        let whole = entry.progress.refused.is_empty() && remaining(&entry).is_empty();
        if whole {
            return self.finish(entry, &said).await;
        }
        let next = queue::next_try(&self.config.spool, &entry, now);
        entry.progress.next_try = next.filter(|_| !remaining(&entry).is_empty());
        match self.spool.note(&entry, taken || refused).await {
            Ok(()) => {}
            // A person dropped it meanwhile.
            Err(SpoolError::Gone(_)) => return Ending::Gone,
            Err(error) => error!(%error, "the progress of a message can't be written"),
        }
        if remaining(&entry).is_empty() {
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
    pub(super) async fn give_up(&self, mut entry: Entry) -> Ending {
        let days = humantime::format_duration(self.config.spool.give_up);
        let last = entry.progress.last_error.as_deref().unwrap_or("it was not tried");
        // RFC 3463 section 3.5: delivery time expired.
        let said = format!("4.4.7 not delivered within {days}; at last: {last}");
        refuse_remaining(&mut entry, &said);
        self.finish(entry, "").await
    }

    /// There is nobody left to send it to.
    async fn finish(&self, entry: Entry, said: &str) -> Ending {
        let failed = !entry.progress.refused.is_empty();
        let done = if failed {
            if let Some(bounce) = self.report.failed(&entry).await {
                let _ = self.events.send(Event::Arrived(Box::new(bounce)));
            }
            self.spool.fail(&entry).await
        } else {
            self.spool.delivered(&entry, said).await
        };
        match done {
            Ok(()) | Err(SpoolError::Gone(_)) => {}
            Err(error) => {
                error!(id = entry.id, %error, failed, "a message can't be taken out of the queue; it is not sent again");
                return Ending::Later(self.again(entry));
            }
        }
        if failed {
            self.report.settled(&entry.id);
        } else {
            let Entry { id, mailbox, device, arrived, progress, .. } = &entry;
            let millis = self.clock.now().saturating_since(*arrived).as_millis();
            let millis = u64::try_from(millis).unwrap_or(u64::MAX);
            info!(
                id,
                mailbox,
                device,
                attempts = progress.attempts,
                millis,
                said,
                "message delivered"
            );
        }
        Ending::Gone
    }

    async fn held(&self, mut entry: Entry, held: Held) -> Ending {
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

    async fn unreadable(&self, mut entry: Entry, error: SpoolError) -> Ending {
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

    fn again(&self, mut entry: Entry) -> Entry {
        entry.progress.next_try = Some(self.clock.now().plus(DISK_AGAIN));
        entry
    }

    /// In the account's order, without those that are closed; if all are, a person may have opened one.
    fn ways(&self, account: &Account) -> Vec<Way> {
        let now = self.clock.now();
        let mut closed = self.closed();
        closed.retain(|_, at| *at <= now && now.saturating_since(*at) < CLOSED);
        let is_open = |way: &&Way| !closed.contains_key(&(account.mailbox.clone(), **way));
        let open: Vec<Way> = account.via.iter().filter(is_open).copied().collect();
        if open.is_empty() { account.via.clone() } else { open }
    }

    fn close(&self, account: &Account, way: Way, said: &str) {
        let known = self.closed().insert((account.mailbox.clone(), way), self.clock.now());
        if known.is_none() {
            warn!(%way, said, "this way is closed to the mailbox");
        }
    }

    pub(super) fn closed(&self) -> MutexGuard<'_, HashMap<(String, Way), Timestamp>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom it still has to go to.
fn remaining(entry: &Entry) -> Vec<Recipient> {
    let progress = &entry.progress;
    let is_settled = |address: &String| {
        progress.done.contains(address) || progress.refused.iter().any(|(who, _)| who == address)
    };
    let all = entry.envelope.recipients.iter();
    all.filter(|recipient| !is_settled(&recipient.address)).cloned().collect()
}

fn refuse_remaining(entry: &mut Entry, said: &str) {
    for Recipient { address, .. } in remaining(entry) {
        entry.progress.refused.push((address, said.to_owned()));
    }
    entry.progress.last_error = Some(said.to_owned());
}

fn all_closed(said: Option<String>, account: &Account) -> Held {
    let reason = said.unwrap_or_else(|| "the account has no way".into());
    let remedy = remedy(&reason, &account.mailbox);
    let remedy = remedy.unwrap_or_else(|| format!("gatepost doctor {} tells why", account.mailbox));
    Held { reason, wait: None, remedy: Some(remedy) }
}

fn no_account() -> Held {
    Held {
        reason: "the mailbox is no longer in the configuration".into(),
        wait: None,
        remedy: Some("add its [[account]] again, or: gatepost spool drop".into()),
    }
}
