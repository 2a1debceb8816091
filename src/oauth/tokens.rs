//! What a login sees of OAuth: a fresh access token, at once if there is one.
//!
//! Invariant: a login waits for a token request only when no usable token is there, and then for the one
//! request that is under way. For a better token than a usable one it waits but a moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::renewal::{Current, Demand, Renewal, Trouble};
use super::{AccessToken, Principal, TokenEndpoint};
use crate::attention::Attention;
use crate::clock::Clock;
use crate::config::Account;
use crate::protocol::Refusal;
use crate::store::Store;
use crate::vocabulary::Protocol;

/// Longest wait of a login for its token. Clients give a login about half a minute.
const LOGIN_WAIT: Duration = Duration::from_secs(20);

/// Longest wait for a token that lives longer than the one that is there. Entra answers in well under a second;
/// while it is out of order, clients should not notice.
const MOMENT: Duration = Duration::from_secs(2);

/// Logins that may wait for one renewal; more wait for their turn to wait.
const WAITING: usize = 1024;

/// After the upstream has rejected even a token that was renewed for it, its rejections of this mailbox and
/// protocol lead to no further renewal for this long: it is not the token then.
const NO_MORE_FORCED: Duration = Duration::from_secs(5);

/// The tokens of all principals.
pub struct Tokens {
    clock: Clock,
    slots: HashMap<String, Slot>,
    /// Mailboxes and protocols for which a renewed token was rejected too, and when.
    hopeless: Mutex<HashMap<(String, Protocol), Instant>>,
}

/// A principal's token and the way to its task.
struct Slot {
    current: Current,
    news: Arc<Notify>,
    task: mpsc::Sender<Demand>,
}

impl Tokens {
    /// Starts a task for each principal of `accounts`; `endpoint` tells where its tokens come from.
    pub fn start(
        accounts: &[Arc<Account>],
        endpoint: impl Fn(&Principal) -> Arc<dyn TokenEndpoint>,
        store: &Store,
        clock: &Clock,
        attention: &Attention,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let mut slots = HashMap::new();
        for account in accounts {
            let principal = Principal::of(account);
            slots.entry(principal.key()).or_insert_with(|| {
                let (task, inbox) = mpsc::channel(WAITING);
                let endpoint = endpoint(&principal);
                let mailbox = account.mailbox.clone();
                let (store, clock) = (store.clone(), clock.clone());
                let renewal =
                    Renewal::new(principal, mailbox, endpoint, store, clock, attention.clone());
                let (current, news) = (Arc::clone(&renewal.current), Arc::clone(&renewal.news));
                tracker.spawn(renewal.run(inbox, stop.clone()));
                Slot { current, news, task }
            });
        }
        Self { clock: clock.clone(), slots, hopeless: Mutex::default() }
    }

    /// A token for the mailbox of `account`.
    pub async fn get(&self, account: &Account) -> Result<AccessToken, Refusal> {
        let slot = self.slot(account)?;
        let now = self.clock.now();
        let current = slot.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(token) = current.filter(|token| token.is_alive(now)) {
            if token.is_fresh(now) {
                return Ok(token);
            }
            let other = timeout(MOMENT, slot.demand(account, Some(token.generation))).await;
            if let Ok(Ok(other)) = other {
                return Ok(other);
            }
            if token.is_alive(self.clock.now()) {
                return Ok(token);
            }
        }
        slot.demand(account, None).await
    }

    /// Another token than `rejected`, which the upstream does not take. `None` if a new one was rejected
    /// a moment ago too.
    pub async fn get_other(
        &self,
        account: &Account,
        protocol: Protocol,
        rejected: &AccessToken,
    ) -> Option<Result<AccessToken, Refusal>> {
        let hopeless = self.hopeless().get(&(account.mailbox.clone(), protocol)).copied();
        if hopeless.is_some_and(|since| since.elapsed() < NO_MORE_FORCED) {
            return None;
        }
        Some(match self.slot(account) {
            Ok(slot) => slot.demand(account, Some(rejected.generation)).await,
            Err(refusal) => Err(refusal),
        })
    }

    /// Even the other token was rejected.
    pub fn give_up(&self, account: &Account, protocol: Protocol) {
        let mut hopeless = self.hopeless();
        hopeless.retain(|_, since| since.elapsed() < NO_MORE_FORCED);
        hopeless.insert((account.mailbox.clone(), protocol), Instant::now());
    }

    /// Another process has written to the store.
    pub fn store_changed(&self) {
        for slot in self.slots.values() {
            slot.news.notify_one();
        }
    }

    fn hopeless(&self) -> std::sync::MutexGuard<'_, HashMap<(String, Protocol), Instant>> {
        self.hopeless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, account: &Account) -> Result<&Slot, Refusal> {
        self.slots.get(&Principal::of(account).key()).ok_or(Refusal::ShuttingDown)
    }
}

impl Slot {
    async fn demand(
        &self,
        account: &Account,
        other_than: Option<u64>,
    ) -> Result<AccessToken, Refusal> {
        let ask = async {
            let (reply, answer) = oneshot::channel();
            self.task.send(Demand { other_than, reply }).await.ok()?;
            answer.await.ok()
        };
        match timeout(LOGIN_WAIT, ask).await {
            Ok(Some(Ok(token))) => Ok(token),
            Ok(Some(Err(Trouble::Transient(reason)))) => Err(Refusal::UpstreamDown { reason }),
            Ok(Some(Err(Trouble::SignInNeeded))) => {
                Err(Refusal::SignInNeeded { mailbox: account.mailbox.clone() })
            }
            Ok(None) => Err(Refusal::ShuttingDown),
            Err(_) => {
                let reason = "the token endpoint does not answer".into();
                Err(Refusal::UpstreamDown { reason })
            }
        }
    }
}
