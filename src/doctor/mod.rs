//! What is wrong, and what to do about it: each part of the way is tried as a connection would go it.
//!
//! | file | what it looks at |
//! | --- | --- |
//! | `finding` | what is found, under stable codes |
//! | `files` | configuration, store, key, secrets, app passwords |
//! | `listeners`, `own_certificate` | ports, what is shown on them, and clients that are set otherwise |
//! | `network`, `certificate` | names, connections, TLS and the clock |
//! | `tokens`, `refusal` | each grant, for real, and what its token says of itself |
//! | `logins` | XOAUTH2 at each mail server, for real |
//! | `graph` | Microsoft Graph, for real, but for a message |
//! | `spool` | mail that waits or could not be delivered |
//!
//! Invariant: it changes nothing but what a renewal changes, and sends mail only when asked to. Nothing that it says
//! holds a secret.

mod certificate;
mod files;
mod finding;
mod graph;
mod listeners;
mod logins;
mod network;
mod own_certificate;
mod refusal;
mod spool;
mod tokens;

use std::path::Path;
use std::sync::Arc;

pub use finding::{Code, Finding, Level};
pub use own_certificate::served_otherwise;

use crate::config::{Account, App, Config};
use crate::explain::split_hint;
use crate::oauth::Principal;
use crate::store::{LiveSessions, Store};
use crate::vocabulary::{Protocol, Way};

/// Accounts that are tried if none is named: each costs a few logins.
const MOST_ACCOUNTS: usize = 25;

/// What to look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// This mailbox alone.
    pub mailbox: Option<&'a str>,
    /// Send a message from each mailbox to itself: only then Exchange tells whether it may be sent from.
    pub send: bool,
}

/// Who is examined.
struct Case {
    config: Config,
    accounts: Vec<Arc<Account>>,
    store: Store,
    live: Vec<LiveSessions>,
    send: bool,
}

/// Looks at everything that `file` leads to. The error that explains the others comes first.
pub async fn examine(file: &Path, wish: Wish<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(case) = Case::open(file, wish, &mut findings).await {
        findings.extend(files::passwords(&case).await);
        findings.extend(files::credentials(&case));
        findings.extend(listeners::examine(&case).await);
        findings.extend(own_certificate::examine(&case).await);
        let network = network::examine(&case).await;
        findings.extend(network.findings);
        let tokens = tokens::examine(&case).await;
        findings.extend(tokens.findings);
        findings.extend(logins::examine(&case, &tokens.tried, &network.unreachable).await);
        findings.extend(graph::examine(&case, |key| tokens.tried.contains_key(key)).await);
        findings.extend(spool::examine(&case).await);
        case.store.close().await;
    }
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.level), finding.code));
    findings
}

impl Case {
    async fn open(file: &Path, wish: Wish<'_>, findings: &mut Vec<Finding>) -> Option<Self> {
        let config = files::configuration(file, findings)?;
        let store = files::store(&config, findings).await?;
        let live = crate::store::SessionBoard::read_all(&config.state_dir).unwrap_or_default();
        let accounts = match wish.mailbox {
            Some(mailbox) => config.account(mailbox).into_iter().collect(),
            None => config.accounts.iter().take(MOST_ACCOUNTS).cloned().collect::<Vec<_>>(),
        };
        if wish.mailbox.is_none() && config.accounts.len() > MOST_ACCOUNTS {
            let what = format!(
                "the configuration has {} accounts, of which the first {MOST_ACCOUNTS} are tried",
                config.accounts.len()
            );
            findings.push(Finding::warning(
                Code::Config,
                file.display().to_string(),
                what,
                "`gatepost doctor MAILBOX` tries another one",
            ));
        }
        Some(Self { config, accounts, store, live, send: wish.send })
    }

    /// The apps of the accounts, each once.
    fn apps(&self) -> Vec<&Arc<App>> {
        let mut apps: Vec<&Arc<App>> = Vec::new();
        for account in &self.accounts {
            if !apps.iter().any(|app| app.name == account.app.name) {
                apps.push(&account.app);
            }
        }
        apps
    }

    /// The sign-ins of the accounts, each once, with one of its mailboxes.
    fn principals(&self) -> Vec<(Principal, &Arc<Account>)> {
        let mut principals: Vec<(Principal, &Arc<Account>)> = Vec::new();
        for account in &self.accounts {
            let principal = Principal::of(account);
            if !principals.iter().any(|(other, _)| other.key() == principal.key()) {
                principals.push((principal, account));
            }
        }
        principals
    }

    /// The protocols that clients of this app can use.
    fn protocols(&self, app: &App) -> Vec<Protocol> {
        let by_smtp = self
            .accounts
            .iter()
            .any(|account| account.app.name == app.name && account.goes_by(Way::Smtp));
        let serves = |protocol: &Protocol| {
            if *protocol == Protocol::Smtp && !by_smtp {
                return false;
            }
            let mut listeners = self.config.listeners.iter();
            listeners.any(|listener| {
                listener.protocol == *protocol
                    && listener.provider.shares_tokens_with(&app.provider)
            })
        };
        Protocol::ALL.into_iter().filter(serves).collect()
    }
}

/// What to say and what to do about an error of gatepost's own.
fn with_hint(error: &str) -> (String, String) {
    let (what, hint) = split_hint(error);
    (what.to_owned(), hint.unwrap_or_default().to_owned())
}
