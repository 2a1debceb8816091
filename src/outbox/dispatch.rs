//! The delivery of what the spool holds: in its order, in its time, by several workers for each mailbox.
//!
//! ```text
//! arrived ─▶ queue ─▶ worker ─▶ courier ─▶ verdicts ─▶ spool
//!              ▲                                │
//!              └────────── later, held ─────────┘
//! ```
//!
//! Invariant: of all processes with this state folder one delivers. Whoever hands over a message waits for nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, warn};

use super::courier::Courier;
use super::current::Current;
use super::entry::Entry;
use super::error::SpoolError;
use super::files::Stamp;
use super::queue::{Hold, Job, Queue};
use super::report::Report;
use super::settle::{Ending, Shared, span};
use super::spool::{Spool, SpoolLock};
use super::worker::Worker;
use crate::attention::Attention;
use crate::clock::Clock;
use crate::config::{Account, Config};
use crate::vocabulary::Way;

/// How often it is looked whether something is due, and whether another process has changed the spool.
const WATCH: Duration = Duration::from_millis(250);

/// How often a process that does not deliver asks whether it may.
const LOCK: Duration = Duration::from_secs(1);

/// How soon what can't be read is tried again.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// Deliveries of a mailbox at once where the provider has no limit: by more, one slow device's mailbox would take the
/// line of all.
const PARALLEL: u32 = 10;

/// Makes couriers; none: there is no such way for this account.
pub type Couriers = Arc<dyn Fn(Way, &Arc<Account>) -> Option<Box<dyn Courier>> + Send + Sync>;

/// What the delivery is made of.
pub struct OutboxParts {
    /// The accounts, and the spool's settings.
    pub config: Arc<Config>,
    /// What waits.
    pub spool: Spool,
    /// The ways to the provider.
    pub couriers: Couriers,
    /// For what lasts longer than the process.
    pub clock: Clock,
    /// Calls a person.
    pub attention: Attention,
    /// Where its tasks hang.
    pub tracker: TaskTracker,
    /// Ends it: nothing new is begun.
    pub stop: CancellationToken,
    /// Drops what is under way then.
    pub cut: CancellationToken,
}

/// The way to the delivery. Clones lead to the same.
#[derive(Clone)]
pub struct Outbox {
    events: mpsc::UnboundedSender<Signal>,
    current: Arc<Current>,
}

/// What the dispatcher is told.
pub(super) enum Signal {
    /// A message was accepted.
    Arrived(Box<Entry>),
    /// A message was not taken, for this reason.
    NotTaken(String),
    /// Something has changed that may have been a reason to wait.
    Wake,
    /// Another configuration is in force.
    Changed,
    /// A worker is done with a message, and has none.
    Done {
        /// Which one.
        worker: u64,
        /// With what, and how.
        done: Box<(Job, Ending)>,
    },
    /// This message, which had waited for too long, is put away.
    GivenUp(String),
    /// A worker has ended.
    Left {
        /// Which one.
        worker: u64,
        /// Whose.
        mailbox: String,
    },
}

impl Outbox {
    /// Starts the delivery of what waits and of what comes.
    pub fn start(parts: OutboxParts) -> Self {
        let (events, inbox) = mpsc::unbounded_channel();
        let OutboxParts { config, spool, couriers, clock, attention, tracker, stop, cut } = parts;
        let queue = Queue::new(&config.spool);
        let current = Arc::new(Current::new(config, couriers));
        let report = Report::new(Arc::clone(&current), spool.clone(), clock.clone(), attention);
        let shared = Shared {
            current: Arc::clone(&current),
            spool,
            clock,
            report,
            events: events.clone(),
            stop,
            cut,
            closed: Mutex::default(),
            broken: Mutex::default(),
        };
        let dispatcher = Dispatcher {
            shared: Arc::new(shared),
            tracker: tracker.clone(),
            queue,
            workers: HashMap::new(),
            numbers: 0,
            seen: None,
            read_at: None,
        };
        tracker.spawn(dispatcher.run(inbox));
        Self { events, current }
    }

    /// Delivers by another configuration from now on: what is under way goes on as it has begun.
    pub fn set(&self, config: Arc<Config>, couriers: Couriers) {
        self.current.set(config, couriers);
        let _ = self.events.send(Signal::Changed);
    }

    /// The spool has this message now.
    pub fn arrived(&self, entry: Entry) {
        // Behind a stop nobody listens, and the next start finds it.
        let _ = self.events.send(Signal::Arrived(Box::new(entry)));
    }

    /// The spool could not take a message: a person is told.
    pub fn not_taken(&self, error: &SpoolError) {
        let _ = self.events.send(Signal::NotTaken(error.to_string()));
    }

    /// A sign-in or the like has changed: what waits for a person is tried now.
    pub fn wake(&self) {
        let _ = self.events.send(Signal::Wake);
    }
}

/// The only one who knows what waits and who is at work.
struct Dispatcher {
    shared: Arc<Shared>,
    tracker: TaskTracker,
    queue: Queue,
    /// Of each mailbox.
    workers: HashMap<String, Vec<AtWork>>,
    numbers: u64,
    /// Of the spool, when it was last read; none: it has to be.
    seen: Option<Stamp>,
    /// When it is to be read again, because some of it could not be.
    read_at: Option<Instant>,
}

struct AtWork {
    number: u64,
    jobs: mpsc::Sender<Job>,
    idle: bool,
}

impl Dispatcher {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Signal>) {
        let stop = self.shared.stop.clone();
        let Some(Some(lock)) = stop.run_until_cancelled(self.lock(&mut inbox)).await else {
            return;
        };
        let lock = Arc::new(lock);
        // It may have changed while another process delivered.
        self.queue.set(&self.shared.current.get().config.spool);
        let mut watch = interval(WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(event) = inbox.recv() => self.take(event, &lock),
                _ = watch.tick() => self.look(&lock).await,
            }
        }
    }

    /// Waits until no other process delivers. What arrives meanwhile is found in the spool.
    async fn lock(&self, inbox: &mut mpsc::UnboundedReceiver<Signal>) -> Option<SpoolLock> {
        let mut told = false;
        loop {
            match self.shared.spool.lock() {
                Ok(Some(lock)) => return Some(lock),
                Ok(None) if !told => info!("another gatepost delivers what this spool holds"),
                Err(error) if !told => warn!(%error, "the spool can't be locked; trying again"),
                _ => {}
            }
            told = true;
            sleep(LOCK).await;
            while inbox.try_recv().is_ok() {}
        }
    }

    fn take(&mut self, event: Signal, lock: &Arc<SpoolLock>) {
        match event {
            Signal::Arrived(entry) => {
                let mailbox = entry.mailbox.clone();
                self.queue.arrived(*entry);
                self.give_out(&mailbox, lock);
            }
            Signal::NotTaken(why) => self.shared.report.not_taken(&why),
            Signal::Changed => {
                self.queue.set(&self.shared.current.get().config.spool);
                self.take(Signal::Wake, lock);
            }
            Signal::Wake => {
                self.shared.closed().clear();
                self.queue.try_now();
                self.give_out_all(lock);
            }
            Signal::Done { worker, done } => {
                let (job, ending) = *done;
                let mailbox = job.entry.mailbox.clone();
                if let Some(at_work) = self.worker(&mailbox, worker) {
                    at_work.idle = true;
                }
                self.end(&job, ending, lock);
                self.give_out(&mailbox, lock);
            }
            Signal::GivenUp(id) => self.queue.given_up(&id),
            Signal::Left { worker, mailbox } => {
                if let Some(workers) = self.workers.get_mut(&mailbox) {
                    workers.retain(|at_work| at_work.number != worker);
                }
                self.workers.retain(|_, workers| !workers.is_empty());
                self.give_out(&mailbox, lock);
            }
        }
    }

    fn end(&mut self, job: &Job, ending: Ending, lock: &Arc<SpoolLock>) {
        let now = self.shared.clock.now();
        let mailbox = &job.entry.mailbox;
        let over: Option<Hold> = match ending {
            Ending::Gone => self.queue.gone(job),
            Ending::Later(entry) => self.queue.later(job, entry),
            Ending::Forgotten => {
                self.queue.forget(job);
                None
            }
            Ending::PutBack(entry) => {
                self.queue.put_back(entry);
                None
            }
            Ending::Held(entry, held) => {
                let (hold, expired) = self.queue.held(job, entry, &held, now);
                self.shared.report.held(mailbox, &held, &hold);
                self.give_up(expired, &held.reason, lock);
                None
            }
        };
        if let Some(hold) = over {
            self.shared.report.recovered(mailbox, &hold);
        }
    }

    /// What waited for its mailbox all the time has the mailbox's reason.
    fn give_up(&self, expired: Vec<Entry>, reason: &str, lock: &Arc<SpoolLock>) {
        if expired.is_empty() {
            return;
        }
        let (shared, lock, reason) =
            (Arc::clone(&self.shared), Arc::clone(lock), reason.to_owned());
        self.tracker.spawn(async move {
            for mut entry in expired {
                let (id, span) = (entry.id.clone(), span(&entry));
                entry.progress.last_error.get_or_insert_with(|| reason.clone());
                shared.give_up_at_last(entry).instrument(span).await;
                let _ = shared.events.send(Signal::GivenUp(id));
            }
            drop(lock);
        });
    }

    /// Takes over what another process has changed, and gives out what is due.
    async fn look(&mut self, lock: &Arc<SpoolLock>) {
        let stamp = self.shared.spool.stamp();
        let changed = self.seen != Some(stamp);
        if changed || self.read_at.is_some_and(|at| at <= Instant::now()) {
            match self.shared.spool.survey().await {
                Ok(survey) => {
                    self.read_at = (!survey.unread.is_empty()).then(|| Instant::now() + READ_AGAIN);
                    self.queue.take_over(survey);
                    self.seen = Some(stamp);
                    if changed {
                        // A person wants something.
                        self.queue.try_now();
                    }
                }
                Err(error) => warn!(%error, "the spool can't be read; trying again"),
            }
        }
        self.queue.tidy(self.shared.clock.now());
        self.shared.report.look();
        self.give_out_all(lock);
    }

    fn give_out_all(&mut self, lock: &Arc<SpoolLock>) {
        for mailbox in self.queue.mailboxes() {
            self.give_out(&mailbox, lock);
        }
    }

    /// To workers that have nothing to do, and to new ones up to the limit.
    fn give_out(&mut self, mailbox: &str, lock: &Arc<SpoolLock>) {
        let now = self.shared.clock.now();
        let limit = self.limit(mailbox);
        loop {
            let workers = self.workers.get(mailbox);
            let idle = workers.and_then(|workers| workers.iter().rev().find(|it| it.idle));
            let idle = idle.map(|at_work| at_work.number);
            if idle.is_none() && workers.map_or(0, Vec::len) >= limit {
                return;
            }
            let Some(mut job) = self.queue.next(mailbox, now) else { return };
            if let Some(at_work) = idle.and_then(|number| self.worker(mailbox, number)) {
                at_work.idle = false;
                match at_work.jobs.try_send(job) {
                    Ok(()) => continue,
                    // It is about to leave.
                    Err(TrySendError::Closed(back) | TrySendError::Full(back)) => job = back,
                }
            }
            self.hire(mailbox, job, lock);
        }
    }

    fn hire(&mut self, mailbox: &str, job: Job, lock: &Arc<SpoolLock>) {
        self.numbers += 1;
        let (number, (jobs, inbox)) = (self.numbers, mpsc::channel(1));
        let worker = Worker::new(Arc::clone(&self.shared), number, Arc::clone(lock));
        self.tracker.spawn(worker.run(job, inbox));
        let at_work = AtWork { number, jobs, idle: false };
        self.workers.entry(mailbox.to_owned()).or_default().push(at_work);
    }

    fn worker(&mut self, mailbox: &str, number: u64) -> Option<&mut AtWork> {
        self.workers.get_mut(mailbox)?.iter_mut().find(|at_work| at_work.number == number)
    }

    fn limit(&self, mailbox: &str) -> usize {
        let account = self.shared.current.get().config.account(mailbox);
        let limit = account.map_or(Some(1), |account| account.limits.connections);
        usize::try_from(limit.unwrap_or(PARALLEL).max(1)).unwrap_or(1)
    }
}
