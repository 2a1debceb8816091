//! `gatepost check`: the configuration, without starting.

use std::path::Path;

use anyhow::Result;

use super::ui;
use crate::config::Config;
use crate::doctor::{Finding, served_otherwise};

pub(super) async fn check(file: &Path) -> Result<()> {
    let config = Config::load(file)?;
    crate::app::check_files(&config)?;
    for listener in &config.listeners {
        let served = |app: &crate::config::App| listener.provider.shares_tokens_with(&app.provider);
        if !config.accounts.iter().any(|account| served(&account.app)) {
            ui::say(&format!(
                "warning: line {}: the listener leads to provider {}, but no account's app is of it",
                listener.line, listener.provider.name
            ));
        }
    }
    // What the file alone does not tell.
    for Finding { subject, what, remedy, .. } in served_otherwise(&config).await {
        ui::say(&format!("warning: {subject}: {what}\nhint: {}", remedy.replace('`', "")));
    }
    let (listeners, accounts) = (config.listeners.len(), config.accounts.len());
    ui::say(&format!("{} is good: {listeners} listeners, {accounts} accounts", file.display()));
    Ok(())
}
