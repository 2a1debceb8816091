//! One message after another of a mailbox, handed to a courier; what comes of it is settled by [`Shared`].
//!
//! Invariant: a worker ends with its connections closed, and the dispatcher hears what became of each of its messages.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{Instrument, Span, error};

use super::begun::Begun;
use super::courier::{Courier, Message, Outcome, Verdict};
use super::current::Setup;
use super::dispatch::Signal;
use super::entry::Entry;
use super::error::SpoolError;
use super::queue::{Held, Job};
use super::settle::{Ending, Shared, all_closed, no_account, span};
use super::spool::SpoolLock;
use crate::config::Account;
use crate::protocol::{Envelope, Recipient};
use crate::vocabulary::Way;

/// How long a connection is kept for a mailbox's next message. A scanner sends its pages one by one, some seconds
/// apart; a connection that is kept for longer is missing elsewhere.
const IDLE: Duration = Duration::from_secs(5);

/// What is told of a message at which gatepost itself fails.
const FAULT: &str = "4.3.0 gatepost has a fault, and this message meets it: please report it";

/// Why there was no attempt, or none that is known.
enum Stopped {
    /// gatepost is being stopped.
    Cut,
    /// The spool's.
    Unreadable(SpoolError),
    /// gatepost's own.
    Fault,
}

/// See the module.
pub(super) struct Worker {
    shared: Arc<Shared>,
    number: u64,
    /// What the couriers were made by.
    setup: Arc<Setup>,
    couriers: HashMap<Way, Box<dyn Courier>>,
    /// Nobody else delivers as long as this one is at work.
    _lock: Arc<SpoolLock>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, number: u64, lock: Arc<SpoolLock>) -> Self {
        let setup = shared.current.get();
        Self { shared, number, setup, couriers: HashMap::new(), _lock: lock }
    }

    /// Until there was nothing to do for a while, or somebody else has more need of its connection.
    pub(super) async fn run(mut self, first: Job, mut jobs: mpsc::Receiver<Job>) {
        let mailbox = first.entry.mailbox.clone();
        let mut next = Some(first);
        while let Some(job) = next {
            let ending = self.deliver(&job.entry).instrument(span(&job.entry)).await;
            // Nobody listens any more behind a stop: the disk knows it all.
            let _ = self
                .shared
                .events
                .send(Signal::Done { worker: self.number, done: Box::new((job, ending)) });
            next = self.next(&mut jobs).await;
        }
        self.close().await;
        let _ = self.shared.events.send(Signal::Left { worker: self.number, mailbox });
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

    async fn close(&mut self) {
        for courier in self.couriers.values_mut() {
            courier.close().await;
        }
        self.couriers.clear();
    }

    /// Under another configuration no courier goes on that was made by the former one.
    async fn follow(&mut self) {
        let setup = self.shared.current.get();
        if !Arc::ptr_eq(&setup, &self.setup) {
            self.close().await;
            self.setup = setup;
        }
    }

    async fn deliver(&mut self, entry: &Entry) -> Ending {
        self.follow().await;
        let shared = Arc::clone(&self.shared);
        let entry = entry.clone();
        let recipients = entry.remaining();
        if recipients.is_empty() {
            return shared.finish(entry, "it was delivered before").await;
        }
        let Some(account) = self.setup.config.account(&entry.mailbox) else {
            return shared.held(entry, no_account()).await;
        };
        let (mut closed, mut unsuited) = (None, Vec::new());
        for way in shared.ways(&account) {
            Span::current().record("way", tracing::field::display(way));
            match self.attempt(way, &account, &entry, &recipients).await {
                Err(Stopped::Cut) => return Ending::PutBack(entry),
                Err(Stopped::Unreadable(error)) => return shared.unreadable(entry, error).await,
                Err(Stopped::Fault) => {
                    error!("gatepost itself has failed at a message; standard error tells where");
                    return shared.set_aside(entry, &recipients, FAULT).await;
                }
                Ok(Outcome::Answered(verdicts)) => {
                    shared.closed().remove(&(account.mailbox.clone(), way));
                    return shared.answered(entry, &recipients, verdicts).await;
                }
                Ok(Outcome::Held { reason, wait, remedy }) => {
                    return shared.held(entry, Held { reason, wait, remedy }).await;
                }
                Ok(Outcome::Broken { reason }) => {
                    return shared.broken(entry, &recipients, reason).await;
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
        let mut message = Message { envelope, content, begun };
        // Whatever is wrong with a message or with gatepost, its lane must not wait for ever.
        let sending = AssertUnwindSafe(courier.send(&mut message)).catch_unwind();
        let outcome = tokio::select! {
            biased;
            () = shared.cut.cancelled() => return Err(Stopped::Cut),
            outcome = sending => outcome,
        };
        let Ok(outcome) = outcome else {
            self.couriers.remove(&way);
            return Err(Stopped::Fault);
        };
        if matches!(outcome, Outcome::Closed { .. }) {
            courier.close().await;
        }
        Ok(outcome)
    }

    fn courier(&mut self, way: Way, account: &Arc<Account>) -> Option<&mut Box<dyn Courier>> {
        if !self.couriers.contains_key(&way) {
            let courier = (self.setup.couriers)(way, account)?;
            self.couriers.insert(way, courier);
        }
        self.couriers.get_mut(&way)
    }
}
