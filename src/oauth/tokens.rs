//! What a login sees of OAuth: a fresh access token, at once if there is one.
//!
//! Invariant: a login waits for a token request only when no usable token is there, and then for the one
//! request that is under way. For a better token than a usable one it waits but a moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::desk::Desk;
use super::office::Office;
use super::renewal::Means;
use super::{AccessToken, NoToken, Principal, TokenEndpoint};
use crate::attention::Attention;
use crate::clock::Clock;
use crate::config::Account;
use crate::protocol::Refusal;
use crate::store::Store;
use crate::vocabulary::{Protocol, Resource};

/// Longest wait for a token that lives longer than the one that is there. Entra answers in well under a second;
/// while it is out of order, clients should not notice.
const MOMENT: Duration = Duration::from_secs(2);

/// After the upstream has rejected even a token that was renewed for it, its rejections of this mailbox and
/// protocol lead to no further renewal for this long: it is not the token then.
const NO_MORE_FORCED: Duration = Duration::from_secs(5);

/// The tokens of all principals. What goes on in the background ends when this is gone.
pub struct Tokens {
    office: Arc<Office>,
    clock: Clock,
    /// Doors at which a renewed token was rejected too, and when.
    hopeless: Mutex<HashMap<Door, Instant>>,
    _end: DropGuard,
}

/// A mailbox, and by which protocol; none: by Microsoft Graph.
type Door = (String, Option<Protocol>);

impl Tokens {
    /// Begins with the principals of `accounts`; `endpoint` tells where its tokens come from.
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
        let means =
            Means { store: store.clone(), clock: clock.clone(), attention: attention.clone() };
        let stop = stop.child_token();
        Self {
            office: Office::open(means, tracker, stop.clone()),
            clock: clock.clone(),
            hopeless: Mutex::default(),
            _end: stop.drop_guard(),
        }
    }

    /// Has the principals of `accounts` from now on. Those that ask as before keep their token and their pauses, but are
    /// tried again if the app is refused; the others begin anew, when a request of theirs that is under way has come to
    /// its end.
    pub fn set(
        &self,
        accounts: &[Arc<Account>],
        endpoint: impl Fn(&Principal) -> Arc<dyn TokenEndpoint>,
    ) {
        self.office.set(accounts, endpoint);
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
        let desk = self.desk(account)?;
        let now = self.clock.now();
        let current = desk.current(resource);
        if let Some(token) = current.filter(|token| token.is_alive(now)) {
            if token.is_fresh(now) {
                return Ok(token);
            }
            let other = desk.demand(&self.office, resource, Some(token.generation));
            let other = timeout(MOMENT, other).await;
            if let Ok(Ok(other)) = other {
                return Ok(other);
            }
            if token.is_alive(self.clock.now()) {
                return Ok(token);
            }
        }
        desk.demand(&self.office, resource, None).await
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
        self.office.store_changed();
    }

    async fn other(
        &self,
        account: &Account,
        resource: Resource,
        rejected: &AccessToken,
    ) -> Result<AccessToken, NoToken> {
        let desk = self.desk(account)?;
        desk.demand(&self.office, resource, Some(rejected.generation)).await
    }

    fn is_hopeless(&self, door: &Door) -> bool {
        let since = self.hopeless().get(door).copied();
        since.is_some_and(|since| since.elapsed() < NO_MORE_FORCED)
    }

    fn hopeless(&self) -> std::sync::MutexGuard<'_, HashMap<Door, Instant>> {
        self.hopeless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn desk(&self, account: &Account) -> Result<Arc<Desk>, NoToken> {
        self.office.desk(&Principal::of(account).key()).ok_or(NoToken::Stopping)
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
