//! What an administrator of the tenant needs of a configuration: the address at which to consent to an app, and
//! a PowerShell script that prepares Entra and Exchange for its apps and mailboxes.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `consent.rs` | the address |
//! | `script.rs` | the script: its introduction and its tables, from the configuration |
//! | `script.ps1` | the rest of the script, which is the same for all configurations |
//! | `literal.rs` | names as PowerShell |
//!
//! Invariant: nothing is asked of the network, no secret is read, and the same configuration gives the same text.

mod consent;
mod literal;
mod script;

pub use consent::{ConsentUrl, consent_urls};
pub use script::script;

use std::sync::Arc;

use crate::config::{App, Config};

/// What was made, and why some apps are not in it.
#[derive(Debug)]
pub struct Made<T> {
    /// What was made.
    pub made: T,
    /// Apps for which there is nothing to make.
    pub left_out: Vec<EntraError>,
}

/// The configuration has nothing to make it of.
#[derive(Debug, thiserror::Error)]
pub enum EntraError {
    /// Nothing needs a token.
    #[error(
        "the configuration has no account\nhint: add an [[account]] with its mailbox and its app"
    )]
    NoAccount,
    /// A name on the command line.
    #[error("no account uses an app {app:?}\nhint: the accounts use {known}")]
    NoApp {
        /// As it was named.
        app: String,
        /// Those that there are.
        known: String,
    },
    /// The provider lacks a key.
    #[error(
        "app {app}: provider {provider} has no {key}\n\
         hint: if its tenants are Entra's, set {key} = \"{example}\" or the like in [provider.{provider}]; \
         else there is nothing to do"
    )]
    NoKey {
        /// The app.
        app: String,
        /// Its provider.
        provider: String,
        /// What is not set.
        key: &'static str,
        /// A value that it could have.
        example: &'static str,
    },
    /// The app's grant has nothing to do with it.
    #[error("app {app}: grant {grant:?} {problem}\nhint: {hint}")]
    Grant {
        /// The app.
        app: String,
        /// Its grant, as the configuration spells it.
        grant: &'static str,
        /// Why not.
        problem: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// The tenant makes no URL.
    #[error("app {app}: {url:?} is no URL\nhint: correct tenant in [app.{app}]")]
    NoUrl {
        /// The app.
        app: String,
        /// What should be one.
        url: String,
    },
    /// No protocol, no permission.
    #[error(
        "app {app}: no listener leads to its provider {provider}, so it needs no permission\n\
         hint: add a [[listener]] with provider = {provider:?}"
    )]
    NoListener {
        /// The app.
        app: String,
        /// Its provider.
        provider: String,
    },
    /// A person can't be signed in to two tenants at once.
    #[error(
        "the apps {one} and {other} are of different tenants\n\
         hint: gatepost entra script --app {one}, then one script for each of the others"
    )]
    ManyTenants {
        /// The first app.
        one: String,
        /// The first of another tenant.
        other: String,
    },
}

/// The apps that accounts use, in their order; or the one that was named.
fn apps<'a>(config: &'a Config, named: Option<&str>) -> Result<Vec<&'a App>, EntraError> {
    let mut apps: Vec<&App> = Vec::new();
    for app in config.accounts.iter().map(|account| Arc::as_ref(&account.app)) {
        if !apps.iter().any(|other| other.name == app.name) {
            apps.push(app);
        }
    }
    if apps.is_empty() {
        return Err(EntraError::NoAccount);
    }
    let Some(named) = named else { return Ok(apps) };
    let found = apps.iter().find(|app| app.name == named);
    found.map(|app| vec![*app]).ok_or_else(|| {
        let known: Vec<_> = apps.iter().map(|app| app.name.as_str()).collect();
        EntraError::NoApp { app: named.to_owned(), known: known.join(", ") }
    })
}

/// Makes something of each app. Those of which nothing can be made are left out, unless that is all of them.
fn each<'a, T>(
    config: &'a Config,
    named: Option<&str>,
    make: impl Fn(&'a App) -> Result<T, EntraError>,
) -> Result<Made<Vec<T>>, EntraError> {
    let (mut made, mut left_out) = (Vec::new(), Vec::new());
    for app in apps(config, named)? {
        match make(app) {
            Ok(one) => made.push(one),
            Err(error) => left_out.push(error),
        }
    }
    match left_out.pop() {
        Some(last) if made.is_empty() => Err(left_out.into_iter().next().unwrap_or(last)),
        last => {
            left_out.extend(last);
            Ok(Made { made, left_out })
        }
    }
}

/// A key of the app's provider that has to be set.
fn key<'a>(
    app: &App,
    value: &'a Option<String>,
    key: &'static str,
    example: &'static str,
) -> Result<&'a str, EntraError> {
    value.as_deref().ok_or_else(|| EntraError::NoKey {
        app: app.name.clone(),
        provider: app.provider.name.clone(),
        key,
        example,
    })
}
