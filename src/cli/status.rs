//! `gatepost status`: accounts, tokens and their expiry, last errors, live sessions, spooled mail.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::spool::SpoolStatus;
use super::{open, spool, ui};
use crate::clock::{Clock, Timestamp};
use crate::config::{Account, Config};
use crate::explain;
use crate::oauth::{self, Principal};
use crate::outbox::{Damaged, Fill, Summary};
use crate::pace::is_near;
use crate::store::{LiveSessions, MailboxUse, SessionBoard, Store, Token, TokenFault};
use crate::vocabulary::{Cause, Resource, Way};

/// Accounts whose tokens are read at once.
const READ_AT_ONCE: usize = 256;

#[derive(clap::Args)]
pub(super) struct Args {
    /// For machines
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    /// Process ids of the proxies that run on this store.
    proxies: Vec<u32>,
    /// Why the store can't be written, if it can't.
    store_fault: Option<String>,
    accounts: Vec<AccountStatus>,
    /// Mailboxes that have spooled mail.
    spool: Vec<Summary>,
    /// Files of the spool that can't be read: nobody knows whose they are.
    spool_damaged: Vec<Damaged>,
    /// How full the spool is.
    spool_fill: Option<Fill>,
    /// What mailboxes use of the provider's limits, as they log in there.
    limits: Vec<MailboxUse>,
}

#[derive(Serialize)]
struct AccountStatus {
    mailbox: String,
    app: String,
    #[serde(flatten)]
    token: TokenStatus,
    /// Of an account that sends by Microsoft Graph: it has tokens of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    graph: Option<TokenStatus>,
    passwords: usize,
    /// Live sessions by protocol.
    sessions: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct TokenStatus {
    /// `ready`, `waiting` (no usable token yet), `sign_in_needed`, `app_refused`; of Microsoft Graph, without which mail
    /// goes on, `refused`.
    state: &'static str,
    /// Milliseconds since 1970.
    token_expires_at: Option<Timestamp>,
    last_error: Option<String>,
    /// The names of its request, for the provider's support.
    last_error_trace: Option<String>,
    /// What to do about it, when a person must.
    remedy: Option<String>,
    /// Milliseconds since 1970.
    last_error_at: Option<Timestamp>,
}

impl TokenStatus {
    fn new(
        state: &'static str,
        token_expires_at: Option<Timestamp>,
        fault: Option<TokenFault>,
        remedy: Option<String>,
    ) -> Self {
        let last_error_at = fault.as_ref().map(|fault| fault.at);
        let (last_error, trace) = fault.map(|fault| (fault.error, fault.trace)).unzip();
        let last_error_trace = trace.filter(|trace| !trace.is_empty());
        Self { state, token_expires_at, last_error, last_error_trace, remedy, last_error_at }
    }

    /// What is wrong, in lines that begin with `whose`.
    fn show(&self, whose: &str, now: Timestamp) -> Result<()> {
        if let (Some(error), Some(at)) = (&self.last_error, self.last_error_at) {
            let ago = ui::duration(now.saturating_since(at));
            ui::out(&format!("{whose}: {ago} ago: {error}"))?;
            if let Some(trace) = &self.last_error_trace {
                ui::out(&format!("{whose}: for support: {trace}"))?;
            }
        }
        match &self.remedy {
            Some(remedy) => ui::out(&format!("{whose}: remedy: {remedy}")),
            None => Ok(()),
        }
    }
}

pub(super) async fn status(file: &Path, args: Args) -> Result<()> {
    let (config, store) = open(file).await?;
    let live = SessionBoard::read_all(&config.state_dir)?;
    let accounts = of_accounts(&config, &store, &live).await?;
    let SpoolStatus { mailboxes: spool, damaged: spool_damaged, fill: spool_fill } =
        spool::status(&config).await?;
    let proxies = live.iter().map(|live| live.pid).collect();
    let limits = live.into_iter().flat_map(|live| live.limits).collect();
    let store_fault = store.is_open_to_writes().await.err().map(|error| error.to_string());
    let status =
        Status { proxies, store_fault, accounts, spool, spool_damaged, spool_fill, limits };
    match args.json {
        true => ui::out(&serde_json::to_string_pretty(&status)?),
        false => show(&status),
    }
}

/// What is counted for an account.
#[derive(Default)]
struct Counts {
    passwords: usize,
    sessions: BTreeMap<String, u64>,
}

/// By the mailboxes of the accounts. A pattern has what no other account has by its own name.
async fn counts(
    config: &Config,
    store: &Store,
    live: &[LiveSessions],
) -> Result<HashMap<String, Counts>> {
    let mut counts: HashMap<String, Counts> = HashMap::new();
    let mut of = |mailbox: &str, count: &dyn Fn(&mut Counts)| {
        if let Some(account) = config.owner(mailbox) {
            count(counts.entry(account.mailbox.clone()).or_default());
        }
    };
    for record in store.passwords().await? {
        of(&record.mailbox, &|counts| counts.passwords += 1);
    }
    for (mailbox, sessions) in live.iter().flat_map(|live| &live.sessions) {
        of(mailbox, &|counts| {
            for (protocol, count) in sessions {
                *counts.sessions.entry(protocol.clone()).or_default() += count;
            }
        });
    }
    Ok(counts)
}

async fn of_accounts(
    config: &Config,
    store: &Store,
    live: &[LiveSessions],
) -> Result<Vec<AccountStatus>> {
    let mut counts = counts(config, store, live).await?;
    let mut all = Vec::new();
    for some in config.accounts.chunks(READ_AT_ONCE) {
        let keys: Vec<_> = some.iter().map(|account| Principal::of(account).key()).collect();
        let tokens = store.tokens(&keys).await?;
        let faults = store.faults(&keys, Resource::Mail).await?;
        let of_graph = store.faults(&keys, Resource::Graph).await?;
        for (account, key) in some.iter().zip(&keys) {
            let token = tokens.get(key).and_then(|(token, _)| token.as_ref());
            let graph = account
                .goes_by(Way::Graph)
                .then(|| graph(account, token, of_graph.get(key).cloned()));
            let counts = counts.remove(&account.mailbox).unwrap_or_default();
            all.push(of_account(account, token, faults.get(key).cloned(), graph, counts));
        }
    }
    Ok(all)
}

fn of_account(
    account: &Account,
    token: Option<&Token>,
    fault: Option<TokenFault>,
    graph: Option<TokenStatus>,
    counts: Counts,
) -> AccountStatus {
    let expires_at = token.and_then(|token| Some(token.access.as_ref()?.expires_at));
    let state = state(account, token, expires_at, fault.as_ref());
    let remedy = remedy(account, state, fault.as_ref());
    AccountStatus {
        mailbox: account.mailbox.clone(),
        app: account.app.name.clone(),
        token: TokenStatus::new(state, expires_at, fault, remedy),
        graph,
        passwords: counts.passwords,
        sessions: counts.sessions,
    }
}

fn graph(account: &Account, token: Option<&Token>, fault: Option<TokenFault>) -> TokenStatus {
    let expires_at = token.and_then(|token| Some(token.graph.as_ref()?.expires_at));
    let refused = fault.as_ref().filter(|fault| fault.cause.is_some());
    let state = match expires_at {
        _ if refused.is_some() => "refused",
        Some(end) if end > Clock::system().now() => "ready",
        _ => "waiting",
    };
    let remedy = refused.map(|fault| match explain::best(&fault.error) {
        Some(_) => mend(account, fault),
        None => "docs/entra.md, \"Sending by Microsoft Graph\"".into(),
    });
    TokenStatus::new(state, expires_at, fault, remedy)
}

fn state(
    account: &Account,
    token: Option<&Token>,
    expires_at: Option<Timestamp>,
    fault: Option<&TokenFault>,
) -> &'static str {
    let signed_in = !account.app.grant.is_delegated()
        || token.is_some_and(|token| token.refresh_token.is_some());
    let alive = expires_at.is_some_and(|end| end > Clock::system().now());
    match fault {
        _ if !signed_in => "sign_in_needed",
        Some(TokenFault { cause: Some(Cause::Registration), .. }) => "app_refused",
        Some(fault) if fault.cause.is_some() => "sign_in_needed",
        _ if alive => "ready",
        _ => "waiting",
    }
}

fn remedy(account: &Account, state: &str, fault: Option<&TokenFault>) -> Option<String> {
    matches!(state, "sign_in_needed" | "app_refused").then(|| match fault {
        Some(fault) => mend(account, fault),
        None => format!("gatepost login {}", account.mailbox),
    })
}

fn mend(account: &Account, fault: &TokenFault) -> String {
    let cause = fault.cause.unwrap_or(Cause::SignIn);
    oauth::remedy(&account.app, &account.mailbox, &fault.error, cause).replace('`', "")
}

fn show(status: &Status) -> Result<()> {
    let now = Clock::system().now();
    let titles = ["MAILBOX", "APP", "STATE", "TOKEN", "PASSWORDS", "SESSIONS"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    for account in &status.accounts {
        let token = match account.token.token_expires_at {
            None => "none".into(),
            Some(end) if end <= now => "expired".into(),
            Some(end) => format!("{} left", ui::duration(end.saturating_since(now))),
        };
        let sessions =
            account.sessions.iter().map(|(protocol, count)| format!("{protocol} {count}"));
        rows.push(vec![
            account.mailbox.clone(),
            account.app.clone(),
            account.token.state.replace('_', " "),
            token,
            account.passwords.to_string(),
            sessions.collect::<Vec<_>>().join(", "),
        ]);
    }
    ui::table(&rows)?;
    for account in &status.accounts {
        account.token.show(&account.mailbox, now)?;
        if let Some(graph) = &account.graph {
            graph.show(&format!("{}: Microsoft Graph", account.mailbox), now)?;
        }
    }
    if let Some(fault) = &status.store_fault {
        ui::out(fault)?;
    }
    show_limits(&status.limits, now)?;
    spool::show_status(&status.spool, now)?;
    spool::show_damaged(&status.spool_damaged)?;
    spool::show_fill(status.spool_fill.as_ref())?;
    if status.proxies.is_empty() {
        ui::say("no proxy is running on this store");
    }
    Ok(())
}

/// What stands in the way of mail, or soon will.
fn show_limits(limits: &[MailboxUse], now: Timestamp) -> Result<()> {
    for MailboxUse { mailbox, waiting, recipients, held, .. } in limits {
        if let (used, Some(limit)) = recipients
            && is_near(*used, *limit)
        {
            ui::out(&format!("{mailbox}: {used} of {limit} recipients in the last 24 h"))?;
        }
        if *waiting > 0 {
            ui::out(&format!("{mailbox}: {waiting} wait for an SMTP connection"))?;
        }
        for (protocol, until) in held.iter().filter(|(_, until)| *until > now) {
            let left = ui::duration(until.saturating_since(now));
            ui::out(&format!(
                "{mailbox}: {protocol} is left alone for {left}, as the provider asked"
            ))?;
        }
    }
    Ok(())
}
