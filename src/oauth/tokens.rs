//! What a login sees of OAuth: a fresh access token, at once if there is one.
//!
//! Invariant: a login waits for a token request only when no usable token is there, and then for the one
//! request that is under way. For a better token than a usable one it waits but a moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::renewal::{Basis, Demand, Renewal};
use super::slot::Current;
use super::{AccessToken, NoToken, Principal, TokenEndpoint};
use crate::attention::Attention;
use crate::clock::Clock;
use crate::config::Account;
use crate::protocol::Refusal;
use crate::store::Store;
use crate::vocabulary::{Protocol, Resource};

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
    store: Store,
    clock: Clock,
    attention: Attention,
    tracker: TaskTracker,
    stop: CancellationToken,
    tasks: RwLock<HashMap<String, Arc<Task>>>,
    /// Doors at which a renewed token was rejected too, and when.
    hopeless: Mutex<HashMap<Door, Instant>>,
}

/// A mailbox, and by which protocol; none: by Microsoft Graph.
type Door = (String, Option<Protocol>);

/// A principal's tokens and the way to its task, which ends when this is gone.
struct Task {
    mail: Current,
    graph: Current,
    news: Arc<Notify>,
    inbox: mpsc::Sender<Demand>,
    basis: watch::Sender<Basis>,
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
        let tokens = Self::new(store, clock, attention, tracker, stop);
        tokens.set(accounts, endpoint);
        tokens
    }

    /// Of no principals yet.
    pub fn new(
        store: &Store,
        clock: &Clock,
        attention: &Attention,
        tracker: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        Self {
            store: store.clone(),
            clock: clock.clone(),
            attention: attention.clone(),
            tracker: tracker.clone(),
            stop: stop.clone(),
            tasks: RwLock::default(),
            hopeless: Mutex::default(),
        }
    }

    /// Has the principals of `accounts` from now on. Those that ask as before keep their task, with its token and its
    /// pauses, but are tried again if the app is refused; the others begin anew, when a request of theirs that is under
    /// way has come to its end.
    pub fn set(
        &self,
        accounts: &[Arc<Account>],
        endpoint: impl Fn(&Principal) -> Arc<dyn TokenEndpoint>,
    ) {
        let mut bases = HashMap::new();
        for account in accounts {
            let key = Principal::of(account).key();
            bases.entry(key).or_insert_with(|| {
                let principal = Principal::among(accounts, account);
                let endpoint = endpoint(&principal);
                Basis { principal, mailbox: account.mailbox.clone(), endpoint }
            });
        }
        let mut tasks = self.tasks.write().unwrap_or_else(PoisonError::into_inner);
        // Those that are not in it end.
        tasks.retain(|key, _| bases.contains_key(key));
        for (key, basis) in bases {
            match tasks.get(&key) {
                Some(task) => task.set(basis),
                None => drop(tasks.insert(key, Arc::new(self.begin(basis)))),
            }
        }
    }

    fn begin(&self, basis: Basis) -> Task {
        let (sender, inbox) = mpsc::channel(WAITING);
        let (basis, changes) = watch::channel(basis);
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let renewal = Renewal::new(changes, store, clock, self.attention.clone());
        let task = Task {
            mail: renewal.current(Resource::Mail),
            graph: renewal.current(Resource::Graph),
            news: Arc::clone(&renewal.news),
            inbox: sender,
            basis,
        };
        self.tracker.spawn(renewal.run(inbox, self.stop.clone()));
        task
    }

    /// A token for the mailbox of `account`, for IMAP, POP3 and SMTP.
    pub async fn get(&self, account: &Account) -> Result<AccessToken, Refusal> {
        self.get_for(account, Resource::Mail).await.map_err(|why| refusal(account, why))
    }

    /// A token for the mailbox of `account`.
    pub async fn get_for(
        &self,
        account: &Account,
        resource: Resource,
    ) -> Result<AccessToken, NoToken> {
        let task = self.task(account)?;
        let now = self.clock.now();
        let current = task.current(resource);
        if let Some(token) = current.filter(|token| token.is_alive(now)) {
            if token.is_fresh(now) {
                return Ok(token);
            }
            let other = timeout(MOMENT, task.demand(resource, Some(token.generation))).await;
            if let Ok(Ok(other)) = other {
                return Ok(other);
            }
            if token.is_alive(self.clock.now()) {
                return Ok(token);
            }
        }
        task.demand(resource, None).await
    }

    /// Another token than `rejected`, which the upstream does not take. `None` if a new one was rejected
    /// a moment ago too.
    pub async fn get_other(
        &self,
        account: &Account,
        protocol: Protocol,
        rejected: &AccessToken,
    ) -> Option<Result<AccessToken, Refusal>> {
        if self.is_hopeless(&(account.mailbox.clone(), Some(protocol))) {
            return None;
        }
        let other = self.other(account, Resource::Mail, rejected).await;
        Some(other.map_err(|why| refusal(account, why)))
    }

    /// The same for Microsoft Graph.
    pub async fn get_other_for_graph(
        &self,
        account: &Account,
        rejected: &AccessToken,
    ) -> Option<Result<AccessToken, NoToken>> {
        if self.is_hopeless(&(account.mailbox.clone(), None)) {
            return None;
        }
        Some(self.other(account, Resource::Graph, rejected).await)
    }

    /// Even the other token was rejected; no protocol: by Microsoft Graph.
    pub fn give_up(&self, account: &Account, protocol: impl Into<Option<Protocol>>) {
        let mut hopeless = self.hopeless();
        hopeless.retain(|_, since| since.elapsed() < NO_MORE_FORCED);
        hopeless.insert((account.mailbox.clone(), protocol.into()), Instant::now());
    }

    /// Another process has written to the store.
    pub fn store_changed(&self) {
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.values() {
            task.news.notify_one();
        }
    }

    async fn other(
        &self,
        account: &Account,
        resource: Resource,
        rejected: &AccessToken,
    ) -> Result<AccessToken, NoToken> {
        self.task(account)?.demand(resource, Some(rejected.generation)).await
    }

    fn is_hopeless(&self, door: &Door) -> bool {
        let since = self.hopeless().get(door).copied();
        since.is_some_and(|since| since.elapsed() < NO_MORE_FORCED)
    }

    fn hopeless(&self) -> std::sync::MutexGuard<'_, HashMap<Door, Instant>> {
        self.hopeless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None: its account has left the configuration.
    fn task(&self, account: &Account) -> Result<Arc<Task>, NoToken> {
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        tasks.get(&Principal::of(account).key()).cloned().ok_or(NoToken::Stopping)
    }
}

impl Task {
    fn set(&self, basis: Basis) {
        self.basis.send_replace(basis);
    }

    fn current(&self, resource: Resource) -> Option<AccessToken> {
        let current = match resource {
            Resource::Mail => &self.mail,
            Resource::Graph => &self.graph,
        };
        current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn demand(
        &self,
        resource: Resource,
        other_than: Option<u64>,
    ) -> Result<AccessToken, NoToken> {
        let ask = async {
            let (reply, answer) = oneshot::channel();
            self.inbox.send(Demand { resource, other_than, reply }).await.ok()?;
            answer.await.ok()
        };
        match timeout(LOGIN_WAIT, ask).await {
            Ok(answer) => answer.unwrap_or(Err(NoToken::Stopping)),
            Err(_) => Err(NoToken::ForNow("the token endpoint does not answer".into())),
        }
    }
}

fn refusal(account: &Account, why: NoToken) -> Refusal {
    match why {
        NoToken::ForNow(reason) => Refusal::UpstreamDown { reason },
        NoToken::SignInNeeded(_) => Refusal::SignInNeeded { mailbox: account.mailbox.clone() },
        NoToken::AppRefused { remedy, .. } => Refusal::AppRefused { remedy },
        NoToken::Stopping => Refusal::ShuttingDown,
    }
}
