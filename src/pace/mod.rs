//! The provider's limits, kept: each mailbox has so many SMTP connections, messages a minute and recipients
//! a day, and what the provider asks to be left alone for is left alone.
//!
//! Limits are counted for the user that logs in at the provider's SMTP server: accounts that submit as one
//! person share them, by the limits of the account that came first.
//!
//! Invariant: connections and messages come in the order in which they were asked for. Whoever gives up
//! waiting leaves the queue at once, and whoever drops a [`Turn`] gives its place to the next.

mod places;
mod usage;
mod window;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use crate::attention::{Attention, Call};
use crate::clock::Clock;
use crate::config::{Account, Config, Device, Limits};
use crate::protocol::Refusal;
use crate::store::{MailboxUse, Store, StoreError};
use crate::vocabulary::Protocol;
use places::{Place, Places};
use usage::Counts;
pub use usage::is_near;
use window::{Slot, Window};

/// The time in which messages are counted, of `messages_per_minute` and of a device's `rate`.
const MINUTE: Duration = Duration::from_secs(60);

/// Longer by this, messages are let go: the answer to a message may reach gatepost before the provider has
/// counted it, and a message whose connection broke is counted later than gatepost sees that.
const MARGIN: Duration = Duration::from_secs(1);

/// For how long a message counts behind its end.
pub const COUNTED: Duration = MINUTE.saturating_add(MARGIN);

/// How long a mailbox is left alone when the provider says 432 without a time. It says so when another program
/// has the mailbox's connections, whose sessions last for seconds; the pause doubles each time that it was too
/// short.
const FIRST_HOLD: Duration = Duration::from_secs(3);

/// The longest such pause: what the provider counts by the minute is over after one.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// So long after a pause without another 432, the next one begins with the first length again.
const FORGET_HOLD: Duration = Duration::from_secs(300);

/// More is no back-off: Exchange's are minutes.
const LONGEST_TOLD: Duration = Duration::from_secs(86_400);

/// How long an IMAP or POP3 login waits while its mailbox is held back: such clients wait half a minute for an
/// answer to a login, of which the login upstream takes the rest.
const READER_WAIT: Duration = Duration::from_secs(20);

/// Pause between two writes of the counts.
const SAVE: Duration = Duration::from_secs(1);

/// How often people are told that the provider has refused for the day's recipients.
const TELL_AGAIN: Duration = Duration::from_secs(86_400);

/// What to do about the day's recipients.
const REMEDY: &str = "beyond its limit the mail server refuses this mailbox's mail until older recipients are \
                      a day old: find out who sends so much, spread it over more mailboxes, or use the \
                      provider's service for bulk mail";

/// The limits of all mailboxes.
pub struct Pace {
    store: Store,
    clock: Clock,
    attention: Attention,
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    holds: Mutex<HashMap<(String, Protocol), Hold>>,
    devices: Mutex<HashMap<String, Arc<Window>>>,
    counts: Counts,
}

/// One mailbox's way to the SMTP server.
struct Lane {
    mailbox: String,
    limits: Mutex<Limits>,
    places: Arc<Places>,
    /// How many wait for a place.
    queued: AtomicUsize,
    messages: Arc<Window>,
    /// When people were told last that the day's recipients are used up.
    told: Mutex<Option<Instant>>,
}

/// The time for which a mailbox is left alone.
#[derive(Clone, Copy)]
struct Hold {
    until: Instant,
    /// How long it was, when the provider did not say.
    guess: Duration,
}

/// A connection to the provider; dropped, the next one gets it.
pub struct Turn {
    pace: Arc<Pace>,
    /// Of SMTP alone.
    lane: Option<Arc<Lane>>,
    /// The message that is on its way. Before the place: its end is counted when the place is still taken.
    message: Mutex<Option<Slot>>,
    _place: Option<Place>,
}

impl Pace {
    /// Nothing is used yet; see [`Pace::load`].
    pub fn new(store: Store, clock: Clock, attention: Attention) -> Arc<Self> {
        Arc::new(Self {
            store,
            clock,
            attention,
            lanes: Mutex::default(),
            holds: Mutex::default(),
            devices: Mutex::default(),
            counts: Counts::default(),
        })
    }

    /// Takes over the day's recipients from the store.
    pub async fn load(&self) -> Result<(), StoreError> {
        self.counts.load(&self.store, self.clock.now()).await
    }

    /// Counts a message of a former life towards the minute; oldest first, before any of this one.
    pub fn remember(&self, account: &Account, ago: Duration) {
        self.lane(account).messages.remember(ago);
    }

    /// Has the limits of another configuration from now on. What is counted goes on counting.
    pub fn set(&self, config: &Config) {
        let lanes = locked(&self.lanes);
        let mut submit = HashMap::new();
        for account in &config.accounts {
            let (mailbox, _) = key(account, Protocol::Smtp);
            if lanes.contains_key(&mailbox) {
                submit.entry(mailbox).or_insert_with(|| Arc::clone(account));
            }
        }
        for (mailbox, lane) in lanes.iter() {
            let account = submit.remove(mailbox);
            if let Some(account) = account.or_else(|| config.account(mailbox)) {
                lane.set(&account.limits);
            }
        }
        drop(lanes);
        locked(&self.devices).retain(|name, window| {
            let device = config.devices.iter().find(|device| device.name == *name);
            if let Some(device) = device {
                window.set_limit(device.rate);
            }
            device.is_some()
        });
    }

    /// Writes the day's recipients to the store.
    pub async fn save(&self) -> Result<(), StoreError> {
        self.counts.save(&self.store, self.clock.now()).await
    }

    /// Writes them whenever they have changed, without end.
    pub async fn keep_saving(&self) {
        let mut writable = true;
        loop {
            self.counts.changed.notified().await;
            let saved = self.save().await;
            if let (Err(failure), true) = (&saved, writable) {
                let failure = failure.brief();
                warn!(failure, "the day's recipients can't be written; trying again");
            }
            if saved.is_err() {
                self.counts.changed.notify_one();
            }
            writable = saved.is_ok();
            sleep(SAVE).await;
        }
    }

    /// Waits for an SMTP connection of this mailbox.
    pub async fn turn(self: &Arc<Self>, account: &Account) -> Turn {
        let lane = self.lane(account);
        let place = lane.place().await;
        self.wait_for_hold(&(lane.mailbox.clone(), Protocol::Smtp)).await;
        Turn { pace: Arc::clone(self), lane: Some(lane), message: Mutex::default(), _place: place }
    }

    /// The same for a client that waits for the answer to its login. IMAP and POP3 have no limit of
    /// connections, but a mailbox may be held back.
    pub async fn turn_within(
        self: &Arc<Self>,
        account: &Account,
        protocol: Protocol,
    ) -> Result<Turn, Refusal> {
        let key = key(account, protocol);
        let held = self.held(&key);
        if protocol == Protocol::Smtp {
            let bound = account.limits.wait;
            if held > bound {
                return Err(Refusal::NoTurn { reason: held_back(held) });
            }
            return match timeout(bound, self.turn(account)).await {
                Ok(turn) => Ok(turn),
                Err(_) => Err(Refusal::NoTurn { reason: self.reason(account, &key) }),
            };
        }
        if held > READER_WAIT || timeout(READER_WAIT, self.wait_for_hold(&key)).await.is_err() {
            return Err(Refusal::UpstreamBusy { said: held_back(self.held(&key)) });
        }
        let message = Mutex::default();
        Ok(Turn { pace: Arc::clone(self), lane: None, message, _place: None })
    }

    /// The provider wants this mailbox left alone, for `wait` if it said how long. It throttles by mailbox and
    /// protocol: who reads too much may still send.
    pub fn hold(&self, account: &Account, protocol: Protocol, wait: Option<Duration>) {
        let (now, key) = (Instant::now(), key(account, protocol));
        let mut holds = locked(&self.holds);
        let hold = holds.entry(key.clone()).or_insert(Hold { until: now, guess: Duration::ZERO });
        let length = match wait {
            Some(wait) => wait.min(LONGEST_TOLD),
            // Those that were under way when it began hear it too.
            None if hold.until > now => return,
            None => {
                let forgotten = now.duration_since(hold.until) > FORGET_HOLD;
                let guess = if forgotten { Duration::ZERO } else { hold.guess };
                hold.guess = (guess * 2).clamp(FIRST_HOLD, LONGEST_HOLD);
                hold.guess
            }
        };
        hold.until = hold.until.max(now + length);
        let (mailbox, seconds) = (key.0, length.as_secs_f32());
        info!(mailbox, %protocol, seconds, "the mail server asks for a pause: held back");
    }

    /// Whether the device is within its own rate; counts the message.
    pub fn device_may_send(&self, device: &Device) -> bool {
        let Some(rate) = device.rate else { return true };
        let mut devices = locked(&self.devices);
        let window = devices.entry(device.name.clone());
        let window = window.or_insert_with(|| Window::new(Some(rate), MINUTE));
        window.try_enter().is_some()
    }

    /// The provider has refused a message because of the day's recipients.
    pub fn recipients_used_up(&self, account: &Account, said: &str) {
        let lane = self.lane(account);
        let mut told = locked(&lane.told);
        if told.is_some_and(|at| at.elapsed() < TELL_AGAIN) {
            return;
        }
        *told = Some(Instant::now());
        self.call(&lane.mailbox, format!("the mail server refuses more recipients: {said}"));
    }

    /// What each mailbox uses, in alphabetical order: those that have sent or were held back.
    pub fn usage(&self) -> Vec<MailboxUse> {
        let now = self.clock.now();
        let mut all: HashMap<String, MailboxUse> = HashMap::new();
        for (mailbox, lane) in locked(&self.lanes).iter() {
            let entry = all.entry(mailbox.clone()).or_default();
            *entry = lane.usage();
            entry.recipients.0 = self.counts.of(mailbox, now);
        }
        for (key, hold) in locked(&self.holds).iter() {
            let left = hold.until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                all.entry(key.0.clone()).or_default().held.push((key.1, now.plus(left)));
            }
        }
        let mut all: Vec<_> =
            all.into_iter().map(|(mailbox, used)| MailboxUse { mailbox, ..used }).collect();
        all.sort_by(|a, b| a.mailbox.cmp(&b.mailbox));
        all.iter_mut().for_each(|used| used.held.sort());
        all
    }

    fn lane(&self, account: &Account) -> Arc<Lane> {
        let (mailbox, _) = key(account, Protocol::Smtp);
        let mut lanes = locked(&self.lanes);
        let lane = lanes.entry(mailbox).or_insert_with_key(|mailbox| {
            let limit = account.limits.recipients_per_day;
            self.counts.warned_before(mailbox, limit, self.clock.now());
            Arc::new(Lane::new(mailbox.clone(), account.limits.clone()))
        });
        Arc::clone(lane)
    }

    /// How long it is held back from now on.
    fn held(&self, key: &(String, Protocol)) -> Duration {
        let until = locked(&self.holds).get(key).map(|hold| hold.until);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    async fn wait_for_hold(&self, key: &(String, Protocol)) {
        loop {
            let until = locked(&self.holds).get(key).map(|hold| hold.until);
            match until {
                // It may have become longer meanwhile.
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// Why a turn did not come.
    fn reason(&self, account: &Account, key: &(String, Protocol)) -> String {
        let held = self.held(key);
        match account.limits.connections {
            Some(1) if held.is_zero() => format!("the one connection of {} is in use", key.0),
            Some(limit) if held.is_zero() => {
                format!("the {limit} connections that {} may have are in use", key.0)
            }
            _ => held_back(held),
        }
    }

    fn count_recipients(&self, lane: &Lane, recipients: u32) {
        let limit = locked(&lane.limits).recipients_per_day;
        let crossed = self.counts.add(&lane.mailbox, recipients, limit, self.clock.now());
        if let (Some(sum), Some(limit)) = (crossed, limit) {
            self.call(&lane.mailbox, format!("{sum} of {limit} recipients in 24 hours"));
        }
    }

    fn call(&self, mailbox: &str, reason: String) {
        let (account, remedy) = (mailbox.to_owned(), REMEDY.to_owned());
        warn!(account, reason, remedy, "the day's recipients are nearly used up");
        self.attention.call(Call { event: "recipients_limit", account, reason, remedy });
    }
}

impl Turn {
    /// Waits until a message may go, and counts it. The one before it has ended.
    pub async fn message(&self) {
        self.message_done();
        let Some(lane) = &self.lane else { return };
        let slot = lane.messages.enter().await;
        *locked(&self.message) = Some(slot);
        self.pace.wait_for_hold(&(lane.mailbox.clone(), Protocol::Smtp)).await;
    }

    /// The message has ended: accepted, refused or given up. The sooner that is told, the sooner another one
    /// may go.
    pub fn message_done(&self) {
        locked(&self.message).take();
    }

    /// Counts towards the day's recipients.
    pub fn recipients(&self, count: u32) {
        if let Some(lane) = &self.lane {
            self.pace.count_recipients(lane, count);
        }
    }

    /// Somebody waits for a connection of this mailbox: give this one back soon.
    pub fn wanted(&self) -> bool {
        self.lane.as_ref().is_some_and(|lane| lane.queued.load(Ordering::Relaxed) > 0)
    }
}

impl Lane {
    fn new(mailbox: String, limits: Limits) -> Self {
        Self {
            mailbox,
            places: Places::new(limits.connections),
            queued: AtomicUsize::new(0),
            messages: Window::new(limits.messages_per_minute, COUNTED),
            told: Mutex::default(),
            limits: Mutex::new(limits),
        }
    }

    fn set(&self, limits: &Limits) {
        *locked(&self.limits) = limits.clone();
        self.places.set_limit(limits.connections);
        self.messages.set_limit(limits.messages_per_minute);
    }

    async fn place(&self) -> Option<Place> {
        // Where somebody waits, none is free.
        if let Some(place) = self.places.try_take() {
            return Some(place);
        }
        let _queued = Queued::new(&self.queued);
        self.places.take().await
    }

    fn usage(&self) -> MailboxUse {
        let limits = locked(&self.limits).clone();
        // What is not limited is not told.
        let told = |limit: Option<u32>, used: usize| limit.map_or(0, |_| used);
        MailboxUse {
            connections: (told(limits.connections, self.places.used()), limits.connections),
            waiting: self.queued.load(Ordering::Relaxed),
            messages: (
                told(limits.messages_per_minute, self.messages.used()),
                limits.messages_per_minute,
            ),
            recipients: (0, limits.recipients_per_day),
            ..MailboxUse::default()
        }
    }
}

/// Counts one who waits, until it is dropped.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn key(account: &Account, protocol: Protocol) -> (String, Protocol) {
    (account.xoauth2_user(protocol).to_lowercase(), protocol)
}

fn held_back(held: Duration) -> String {
    let seconds = held.as_millis().div_ceil(1000);
    format!("it wants this mailbox left alone for another {seconds} seconds")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
