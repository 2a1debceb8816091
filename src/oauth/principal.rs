//! Whose token it is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use ring::digest;

use crate::config::{Account, App};
use crate::vocabulary::{Resource, Way};

/// An app registration by itself, or a person who signed in to it. Its mailboxes share its token.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The app registration.
    pub app: Arc<App>,
    /// The person, for grants that are one's own.
    pub user: Option<String>,
    /// One of its mailboxes sends by Microsoft Graph: it needs tokens for that, too.
    pub graph: bool,
    /// One of those is somebody else's.
    pub shared: bool,
}

impl Principal {
    /// Whose token opens the mailbox of `account`, with what it needs for the others of `accounts`.
    pub fn among(accounts: &[Arc<Account>], account: &Account) -> Self {
        let mut principal = Self::of(account);
        let key = principal.key();
        let all = accounts.iter().map(|other| Self::of(other));
        all.filter(|other| other.key() == key).for_each(|other| principal.also(&other));
        principal
    }

    /// The principals of all `accounts` by their keys, each with its first mailbox.
    pub fn of_all(accounts: &[Arc<Account>]) -> HashMap<String, (Self, &str)> {
        let mut all: HashMap<_, (Self, &str)> = HashMap::new();
        for account in accounts {
            let principal = Self::of(account);
            match all.entry(principal.key()) {
                Entry::Vacant(new) => drop(new.insert((principal, &account.mailbox))),
                Entry::Occupied(mut known) => known.get_mut().0.also(&principal),
            }
        }
        all
    }

    /// What it needs for another of its mailboxes.
    fn also(&mut self, other: &Self) {
        self.graph |= other.graph;
        self.shared |= other.shared;
    }

    /// Whose token opens the mailbox of `account`.
    pub fn of(account: &Account) -> Self {
        let user = || account.signed_in_as.as_ref().unwrap_or(&account.mailbox).to_lowercase();
        let user = account.app.grant.is_personal().then(user);
        let graph = account.goes_by(Way::Graph);
        let own = user.as_ref().is_none_or(|user| *user == account.mailbox.to_lowercase());
        Self { app: Arc::clone(&account.app), user, graph, shared: graph && !own }
    }

    /// What a token for `resource` is asked for with; empty: there is none. Graph has permissions of their own for
    /// others' mailboxes.
    pub fn scopes(&self, resource: Resource) -> Vec<String> {
        let mut scopes = self.app.scopes_of(resource).to_vec();
        if resource == Resource::Graph && self.shared {
            for scope in self.app.scopes_of(resource) {
                if scope.ends_with("/Mail.Send") || scope.ends_with("/Mail.ReadWrite") {
                    scopes.push(format!("{scope}.Shared"));
                }
            }
        }
        scopes
    }

    /// What a person is asked to consent to, for whichever resource; mail first, whose token a sign-in brings.
    pub fn consents(&self) -> Vec<String> {
        let mut scopes = self.scopes(Resource::Mail);
        if self.graph {
            let more = self.scopes(Resource::Graph);
            let more: Vec<_> = more.into_iter().filter(|scope| !scopes.contains(scope)).collect();
            scopes.extend(more);
        }
        scopes
    }

    /// Its name in the store and in logs.
    pub fn key(&self) -> String {
        self.to_string()
    }

    /// Whether its tokens are asked for in the same way: what else the configuration says of it does not matter.
    pub fn asks_as(&self, other: &Self) -> bool {
        let (one, two) = (&*self.app, &*other.app);
        let same_scopes = |resource| self.scopes(resource) == other.scopes(resource);
        self.user == other.user
            && self.graph == other.graph
            && one.tenant == two.tenant
            && one.token_url == two.token_url
            && one.client_id == two.client_id
            && one.credential == two.credential
            && one.grant == two.grant
            && one.provider.identity_url == two.provider.identity_url
            && Resource::ALL.into_iter().all(same_scopes)
    }

    /// What an access token for `resource` was asked for with. Under another configuration it is of no use.
    pub fn fingerprint(&self, resource: Resource) -> String {
        let App { token_url, client_id, .. } = &*self.app;
        let text = format!("{token_url}\n{client_id}\n{}", self.scopes(resource).join(" "));
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user} (app {})", self.app.name),
            None => write!(f, "app {}", self.app.name),
        }
    }
}
