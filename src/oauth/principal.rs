//! Whose token it is.

use std::fmt;
use std::sync::Arc;

use ring::digest;

use crate::config::{Account, App};

/// An app registration by itself, or a person who signed in to it. Its mailboxes share its token.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The app registration.
    pub app: Arc<App>,
    /// The person, for grants that are one's own.
    pub user: Option<String>,
}

impl Principal {
    /// Whose token opens the mailbox of `account`.
    pub fn of(account: &Account) -> Self {
        let user = || account.signed_in_as.as_ref().unwrap_or(&account.mailbox).to_lowercase();
        let user = account.app.grant.is_personal().then(user);
        Self { app: Arc::clone(&account.app), user }
    }

    /// Its name in the store and in logs.
    pub fn key(&self) -> String {
        self.to_string()
    }

    /// What an access token was asked for with. Under another configuration it is of no use.
    pub fn fingerprint(&self) -> String {
        let App { token_url, client_id, scopes, .. } = &*self.app;
        let text = format!("{token_url}\n{client_id}\n{}", scopes.join(" "));
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
