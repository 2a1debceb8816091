//! Which provider, and what can be had of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::answers::{Args, OwnProvider};
use super::ask::{Asker, Question, Shown};
use super::checks;
use crate::cli::UsageError;
use crate::config::{Config, DEFAULT_PROVIDER, Grant, Provider};
use crate::vocabulary::Protocol;

/// What a provider of one's own is called if nobody says.
const OWN: &str = "own";

/// What can be had of a provider.
pub(super) struct Offer {
    pub(super) grants: Vec<Grant>,
    /// It keeps tenants apart.
    pub(super) tenants: bool,
    pub(super) protocols: Vec<Protocol>,
}

impl Offer {
    pub(super) fn of(known: Option<&Provider>, own: Option<&OwnProvider>) -> Self {
        let (browser, device, app, machine) = match (known, own) {
            (Some(known), _) => (
                known.authorize_url.is_some(),
                known.device_url.is_some(),
                !known.app_scopes.is_empty(),
                known.identity_url.is_some(),
            ),
            (None, Some(own)) => {
                (own.authorize_url.is_some(), own.device_url.is_some(), true, false)
            }
            (None, None) => (true, true, true, false),
        };
        let grants = [
            (Grant::AuthorizationCode, browser),
            (Grant::DeviceCode, device),
            (Grant::ClientCredentials, app),
            (Grant::ManagedIdentity, machine),
            (Grant::JwtBearer, app),
        ];
        let token_url = known.map(|known| &known.token_url).or(own.map(|own| &own.token_url));
        let serves = |protocol: &Protocol| match known {
            Some(known) => known.endpoint(*protocol).is_some(),
            None => own.is_some_and(|own| own.servers.iter().any(|(it, _)| it == protocol)),
        };
        Self {
            grants: grants
                .into_iter()
                .filter(|(_, there)| *there)
                .map(|(grant, _)| grant)
                .collect(),
            tenants: token_url.is_some_and(|url| url.contains("{tenant}")),
            protocols: Protocol::ALL.into_iter().filter(serves).collect(),
        }
    }
}

type BuiltIn = BTreeMap<String, Arc<Provider>>;
type Known = Option<Arc<Provider>>;

/// Its name, and what is known of it or was told.
pub(super) fn provider(
    args: &Args,
    asker: &mut Asker,
) -> Result<(String, Known, Option<OwnProvider>)> {
    let mut built_in = Config::built_in_providers()?;
    let for_own = args.own.first();
    let name = match (&args.provider, for_own) {
        (Some(name), _) => Some(name.clone()),
        (None, Some(_)) => Some(OWN.to_owned()),
        (None, None) => choose_provider(&built_in, asker)?,
    };
    if let Some((name, known)) = name.as_ref().and_then(|name| built_in.remove_entry(name)) {
        let Some(flag) = for_own else { return Ok((name, Some(known), None)) };
        let problem = format!("provider {name} is built in, and {flag} is for another one");
        let hint = format!("leave {flag} out, or give another --provider NAME");
        return Err(UsageError::new(problem, hint).into());
    }
    let names: Vec<_> = built_in.into_keys().collect();
    if let (Some(name), None) = (&args.provider, for_own) {
        let problem = format!("there is no provider {name:?}; built in are {}", names.join(", "));
        return Err(UsageError::new(problem, "one of your own needs --token-url and more").into());
    }
    let question = Question {
        flag: "--provider",
        words: "Its name:",
        help: "as the configuration is to call it: letters, digits, hyphens",
    };
    let name = asker.text(question, name.as_deref(), Some(OWN), move |typed| {
        let name = checks::provider_name(typed)?;
        if names.contains(&name) { Err("that one is built in".into()) } else { Ok(name) }
    })?;
    Ok((name, None, Some(own_provider(args, asker)?)))
}

/// None: another one.
fn choose_provider(built_in: &BuiltIn, asker: &mut Asker) -> Result<Option<String>> {
    let show = |provider: &Provider| {
        let server = provider.imap.as_ref().map(|imap| imap.host.clone()).unwrap_or_default();
        Shown(format!("{} ({server})", provider.name), Some(provider.name.clone()))
    };
    let first = built_in.get(DEFAULT_PROVIDER).context("no default provider")?;
    let others = built_in.values().filter(|provider| provider.name != DEFAULT_PROVIDER);
    let mut options = vec![show(first)];
    options.extend(others.map(|provider| show(provider)));
    options.push(Shown("another provider".into(), None));
    let help = "who has the mailbox; up and down, then Enter; Esc ends without a trace";
    Ok(asker.choice("Provider:", help, options)?.1)
}

fn own_provider(args: &Args, asker: &mut Asker) -> Result<OwnProvider> {
    let own = &args.own;
    let url = |flag, words, help| Question { flag, words, help };
    let question = url(
        "--token-url",
        "Token endpoint:",
        "https://…; token_endpoint in ISSUER/.well-known/openid-configuration",
    );
    let token_url = asker.text(question, own.token_url.as_deref(), None, checks::url)?;
    let question = url(
        "--authorize-url",
        "Authorization endpoint:",
        "authorization_endpoint there, for browsers; Enter if there is none",
    );
    let authorize_url = asker.optional(question, own.authorize_url.as_deref(), checks::url)?;
    let question = url(
        "--device-url",
        "Device authorization endpoint:",
        "device_authorization_endpoint there; Enter if there is none",
    );
    let device_url = asker.optional(question, own.device_url.as_deref(), checks::url)?;
    let mut servers = Vec::new();
    for (protocol, flag, words) in [
        (Protocol::Imap, "--imap", "IMAP server:"),
        (Protocol::Pop3, "--pop3", "POP3 server:"),
        (Protocol::Smtp, "--smtp", "SMTP server:"),
    ] {
        let last_chance = servers.is_empty() && protocol == Protocol::Smtp && asker.asks();
        let help = match last_chance {
            true => "HOST:PORT, or HOST:PORT starttls; there must be one server",
            false => "HOST:PORT, or HOST:PORT starttls; Enter if there is none",
        };
        let (question, given) = (Question { flag, words, help }, own.server(protocol));
        let server = match last_chance {
            true => Some(asker.text(question, given, None, checks::server)?),
            false => asker.optional(question, given, checks::server)?,
        };
        servers.extend(server.map(|server| (protocol, server)));
    }
    if servers.is_empty() {
        asker.missing("one of --imap, --pop3, --smtp");
    }
    let question = Question {
        flag: "--ca-file",
        words: "Certificates to trust:",
        help: "a PEM file of a certification authority of your own; Enter if there is none",
    };
    let given = own.ca_file.as_deref().map(Path::to_string_lossy);
    let ca_file = asker.optional(question, given.as_deref(), checks::file)?;
    // A path as it was given need not be text.
    let ca_file = own.ca_file.clone().or(ca_file.map(PathBuf::from));
    Ok(OwnProvider { token_url, authorize_url, device_url, servers, ca_file, scopes: Vec::new() })
}
