//! All desks, what they share, and the tasks that look after them: one calls those that are due, one reads the store.
//!
//! Invariant: what all principals need is done once for all: the clock is looked at, and the store is asked for its
//! news. Who is at rest costs neither a timer nor a question to the store.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::agenda::Agenda;
use super::desk::Desk;
use super::lane::Lane;
use super::renewal::{Basis, Means};
use super::{Principal, TokenEndpoint};
use crate::backoff::Backoff;
use crate::clock::Jumps;
use crate::config::Account;
use crate::store::{News, Seen, StoreError};

/// Longest time between two looks at the clock, which may jump when a laptop was suspended, and at the store: whatever
/// has kept its news away keeps them no longer than this.
const LOOK: Duration = Duration::from_secs(30);

/// Pauses between tries to read the store, while it fails.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Sign-ins that are read at once: a quarter of a megabyte, and a millisecond of the store's one connection, for which a
/// login may have to wait.
const READ_AT_ONCE: usize = 64;

/// See the module.
pub(super) struct Office {
    means: Arc<Means>,
    pub(super) agenda: Agenda,
    /// By the principals' keys.
    desks: RwLock<HashMap<String, Arc<Desk>>>,
    lanes: Mutex<Vec<Arc<Lane>>>,
    /// There are desks that want the store read, or the store has news.
    to_read: Notify,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Office {
    /// Without desks yet.
    pub(super) fn open(means: Means, tracker: &TaskTracker, stop: CancellationToken) -> Arc<Self> {
        let office = Arc::new(Self {
            means: Arc::new(means),
            agenda: Agenda::default(),
            desks: RwLock::default(),
            lanes: Mutex::default(),
            to_read: Notify::new(),
            tracker: tracker.clone(),
            stop,
        });
        office.spawn(call(Arc::clone(&office)));
        let reading = Reading { office: Arc::clone(&office), seen: None };
        let closing = Arc::clone(&office);
        office.track(async move {
            reading.go_on().await;
            closing.desks().into_iter().for_each(|(_, desk)| desk.close(&closing));
        });
        office
    }

    /// Has the principals of `accounts` from now on.
    pub(super) fn set(
        self: &Arc<Self>,
        accounts: &[Arc<Account>],
        endpoint: impl Fn(&Principal) -> Arc<dyn TokenEndpoint>,
    ) {
        let mut lanes = Vec::new();
        let principals = Principal::of_all(accounts);
        let mut desks = self.desks.write().unwrap_or_else(PoisonError::into_inner);
        let gone = desks.extract_if(|key, _| !principals.contains_key(key));
        gone.for_each(|(_, desk)| desk.close(self));
        let more = principals.len().saturating_sub(desks.len());
        desks.reserve(more);
        for (key, (principal, mailbox)) in principals {
            let lane = self.lane(endpoint(&principal), &mut lanes);
            let basis = Basis { principal, mailbox: mailbox.to_owned(), lane };
            match desks.entry(key) {
                Entry::Occupied(desk) => desk.get().set(self, basis),
                Entry::Vacant(free) => drop(free.insert(Desk::new(&self.means, basis))),
            }
        }
        *self.lanes.lock().unwrap_or_else(PoisonError::into_inner) = lanes;
        drop(desks);
        self.to_read.notify_one();
    }

    /// The one to this endpoint: as before, or among those that are new.
    fn lane(
        self: &Arc<Self>,
        endpoint: Arc<dyn TokenEndpoint>,
        new: &mut Vec<Arc<Lane>>,
    ) -> Arc<Lane> {
        let leads_there = |lane: &&Arc<Lane>| Arc::ptr_eq(&lane.endpoint, &endpoint);
        if let Some(lane) = new.iter().find(leads_there) {
            return Arc::clone(lane);
        }
        let former = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let former = former.iter().find(leads_there).cloned();
        let lane = former.unwrap_or_else(|| Lane::begin(endpoint, self));
        new.push(Arc::clone(&lane));
        lane
    }

    /// None: its account has left the configuration.
    pub(super) fn desk(&self, key: &str) -> Option<Arc<Desk>> {
        self.desks.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn desks(&self) -> Vec<(String, Arc<Desk>)> {
        let desks = self.desks.read().unwrap_or_else(PoisonError::into_inner);
        desks.iter().map(|(key, desk)| (key.clone(), Arc::clone(desk))).collect()
    }

    /// Another process has written to the store.
    pub(super) fn store_changed(&self) {
        self.to_read.notify_one();
    }

    /// Runs a task until the stop.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.track(async move { stop.run_until_cancelled(task).await.unwrap_or_default() });
    }

    /// Runs a task to its end.
    pub(super) fn track(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }
}

/// Calls those whose time has come, without end.
async fn call(office: Arc<Office>) {
    loop {
        let (at, desk) = office.agenda.next().await;
        desk.call(&office, at);
    }
}

/// Who reads the store.
struct Reading {
    office: Arc<Office>,
    /// Up to where its news are known.
    seen: Option<Seen>,
}

impl Reading {
    /// Until the stop, and never in the middle: what is read may lead to a write.
    async fn go_on(mut self) {
        let stop = self.office.stop.clone();
        let mut time = Jumps::new(self.office.means.clock.now());
        let mut pauses = Backoff::new(FIRST_PAUSE, LOOK);
        while !stop.is_cancelled() {
            let pause = match self.look().await {
                Ok(()) => {
                    pauses.reset();
                    LOOK
                }
                // Told by those who have nothing else to do.
                Err(failure) => {
                    debug!(failure = failure.brief(), "the sign-ins can't be read; trying again");
                    pauses.pause()
                }
            };
            let news = timeout(pause, self.office.to_read.notified());
            stop.run_until_cancelled(news).await;
            if time.has_jumped(self.office.means.clock.now()) {
                info!("the clock has jumped: all tokens are judged anew");
                let desks = self.office.desks();
                desks.iter().for_each(|(_, desk)| desk.notice_time(&self.office));
            }
        }
    }

    /// Reads what is new, and what was not read yet.
    async fn look(&mut self) -> Result<(), StoreError> {
        let News { seen, tokens } = self.office.means.store.news(self.seen).await?;
        match tokens {
            None => self.office.desks().iter().for_each(|(_, desk)| desk.hear(None)),
            Some(changed) => {
                for (key, revision) in changed {
                    if let Some(desk) = self.office.desk(&key) {
                        desk.hear(Some(revision));
                    }
                }
            }
        }
        self.seen = Some(seen);
        let mut unread = self.office.desks();
        unread.retain(|(_, desk)| desk.is_unread());
        for some in unread.chunks(READ_AT_ONCE) {
            if self.office.stop.is_cancelled() {
                break;
            }
            self.read(some).await?;
        }
        Ok(())
    }

    async fn read(&self, unread: &[(String, Arc<Desk>)]) -> Result<(), StoreError> {
        let office = &self.office;
        let (mut keys, mut taken) = (Vec::new(), Vec::new());
        for (key, desk) in unread {
            if let Some(renewal) = desk.to_be_read(office) {
                keys.push(key.clone());
                taken.push((key, desk, renewal));
            }
        }
        if taken.is_empty() {
            return Ok(());
        }
        // Whoever waits for one of them has waited for this: it is brought to its end.
        let mut tokens = match office.means.store.tokens(&keys).await {
            Ok(tokens) => tokens,
            Err(failure) => {
                taken.into_iter().for_each(|(_, desk, renewal)| desk.is_not_read(office, renewal));
                return Err(failure);
            }
        };
        for (key, desk, mut renewal) in taken {
            let (token, revision) = tokens.remove(key).unwrap_or_default();
            let read = renewal.take_over(token, revision).await;
            desk.has_read(office, renewal, read);
        }
        Ok(())
    }
}
