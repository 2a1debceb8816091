//! Warns before a client secret or certificate ends, while there is time to make another one.
//!
//! Invariant: each stage of each end is told once, by one process, however often they are restarted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::credential_end;
use super::proof::place;
use crate::attention::{Attention, Call};
use crate::clock::Clock;
use crate::config::{Account, App};
use crate::store::Store;

const DAY: Duration = Duration::from_secs(86_400);

/// Days before the end, nearest first. At zero it has come.
const STAGES: [u32; 4] = [0, 1, 7, 30];

/// How often it is looked at: nobody needs the day's warning to the minute.
const PAUSE: Duration = Duration::from_secs(3600);

/// Watches the apps of `accounts`, without end.
pub async fn watch_expiry(
    accounts: &[Arc<Account>],
    store: &Store,
    clock: &Clock,
    attention: &Attention,
) {
    let mut apps: Vec<&App> = Vec::new();
    for account in accounts {
        if !apps.iter().any(|app| app.name == account.app.name) {
            apps.push(&account.app);
        }
    }
    loop {
        for app in &apps {
            warn_of(app, store, clock, attention).await;
        }
        sleep(PAUSE).await;
    }
}

async fn warn_of(app: &App, store: &Store, clock: &Clock, attention: &Attention) {
    let Some(end) = credential_end(app) else { return };
    let left = end.saturating_since(clock.now());
    let Some(stage) = STAGES.into_iter().find(|days| left <= DAY * *days) else { return };
    let account = format!("app {}", app.name);
    let told = store.tell_once(&account, &format!("{} within {stage} days", end.as_millis())).await;
    match told {
        Ok(true) => {}
        Ok(false) => return,
        Err(failure) => {
            return warn!(account, failure = failure.brief(), "the store can't be written");
        }
    }
    let reason = match stage {
        0 => format!("the client secret or certificate has ended, on {}", end.text()),
        _ => format!(
            "the client secret or certificate ends in {stage} days or less, on {}",
            end.text()
        ),
    };
    let portal = app.provider.portal.as_deref().unwrap_or("the provider's portal");
    let remedy =
        format!("make a new one at {portal} beside the old one and put it into {}", place(app));
    warn!(account, reason, remedy, "a credential ends");
    attention.call(Call { event: "expires_soon", account, reason, remedy });
}
