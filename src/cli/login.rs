//! `gatepost login`: sign mailboxes in. A running proxy sees it within a second.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use zeroize::Zeroize;

use super::large::large;
use super::{UsageError, account, ui, with_store};
use crate::clock::Clock;
use crate::config::{Config, Grant};
use crate::explain;
use crate::oauth::{
    HttpEndpoint, Principal, Redirected, Request, TokenEndpoint, TokenError, renew_once, token_of,
};
use crate::secret::Secret;
use crate::signin::sign_in_by_device;
use crate::signin::{Begun, Callback, SignInError, SignIns, SignedIn, Waiting};
use crate::store::{Store, Token};
use crate::vocabulary::Resource;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Which mailboxes
    #[arg(required = true)]
    mailbox: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// Read a refresh token from standard input
    #[arg(long, conflicts_with_all = ["device_code", "no_browser"])]
    refresh_token_stdin: bool,
}

/// Where somebody signs in.
#[derive(clap::Args, Clone, Copy)]
pub(super) struct Place {
    /// Show a code to type on another device, for machines without a browser
    #[arg(long)]
    pub(super) device_code: bool,
    /// Don't open a browser here, only print the address
    #[arg(long)]
    pub(super) no_browser: bool,
}

pub(super) async fn login(file: &Path, args: Args) -> Result<()> {
    let (config, store) = with_store(Config::load(file)?).await?;
    let mut principals: Vec<Principal> = Vec::new();
    for mailbox in &args.mailbox {
        let principal = Principal::among(&config.accounts, &*account(&config, mailbox)?);
        if !principals.iter().any(|other| other.key() == principal.key()) {
            principals.push(principal);
        }
    }
    let done = sign_in(&config, &store, principals, args.place, args.refresh_token_stdin).await;
    store.close().await;
    done
}

/// How somebody signs in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Nobody does: the app or machine is its own proof.
    ByItself,
    Browser,
    Device,
    RefreshToken,
}

/// Each in its own way; those in browsers at the same time.
pub(super) async fn sign_in(
    config: &Config,
    store: &Store,
    principals: Vec<Principal>,
    place: Place,
    refresh_token_stdin: bool,
) -> Result<()> {
    let mut in_browsers = Vec::new();
    let by_graph: Vec<_> = principals.iter().filter(|one| one.graph).cloned().collect();
    for principal in principals {
        match way(&principal, place, refresh_token_stdin)? {
            Way::ByItself => try_app(store, &principal).await?,
            Way::Browser => in_browsers.push(principal),
            Way::Device => by_device(config, store, &principal).await?,
            Way::RefreshToken => by_refresh_token(store, &principal).await?,
        }
    }
    if !in_browsers.is_empty() {
        by_browser(config, store, in_browsers, !place.no_browser).await?;
    }
    for principal in &by_graph {
        try_graph(store, principal).await?;
    }
    Ok(())
}

/// Whether the sign-in is good for sending by Microsoft Graph as well. Without that mail goes on.
async fn try_graph(store: &Store, principal: &Principal) -> Result<()> {
    let endpoint = HttpEndpoint::of(&principal.app)?;
    match renew_once(store, &endpoint, principal, Resource::Graph).await {
        Ok(_) => ui::say(&format!("{principal} may use Microsoft Graph")),
        Err(failure) => {
            let entry = explain::best(&failure.to_string());
            let remedy = entry.map(|entry| entry.remedy_for("MAILBOX")).unwrap_or_default();
            ui::say(&format!(
                "warning: {principal} is signed in for mail, but not for Microsoft Graph: {failure}\n{remedy}"
            ));
        }
    }
    Ok(())
}

fn way(principal: &Principal, place: Place, refresh_token_stdin: bool) -> Result<Way> {
    let app = &principal.app;
    if !app.grant.is_delegated() {
        if refresh_token_stdin || place.device_code {
            let problem = format!("app {} signs in by itself", app.name);
            let hint = "gatepost login MAILBOX, without an option, tries it";
            return Err(UsageError::new(problem, hint).into());
        }
        return Ok(Way::ByItself);
    }
    if refresh_token_stdin {
        return Ok(Way::RefreshToken);
    }
    let (way, url, key) = match place.device_code || app.grant == Grant::DeviceCode {
        true => (Way::Device, &app.device_url, "device_url"),
        false => (Way::Browser, &app.authorize_url, "authorize_url"),
    };
    if url.is_none() {
        let provider = &app.provider.name;
        let problem = format!("provider {provider} has no {key}");
        let hint = format!(
            "set {key} in [provider.{provider}], or: gatepost login MAILBOX --refresh-token-stdin < FILE"
        );
        return Err(UsageError::new(problem, hint).into());
    }
    Ok(way)
}

/// The mailboxes that a sign-in opens.
fn mailboxes(config: &Config, principal: &Principal) -> Vec<String> {
    let key = principal.key();
    let own = config.accounts.iter().filter(|account| Principal::of(account).key() == key);
    own.map(|account| account.mailbox.clone()).collect()
}

/// An app by itself, for one of its mailboxes.
async fn try_app(store: &Store, principal: &Principal) -> Result<()> {
    let endpoint = HttpEndpoint::of(&principal.app)?;
    let asked_at = Clock::system().now();
    let request = Request::renewal(principal, Resource::Mail, None)?;
    match endpoint.request(&principal.app, &principal.app.scopes, request).await {
        Ok(answer) => {
            let token = token_of(principal, answer, None, asked_at);
            store.replace_token(&principal.key(), &token).await?;
            ui::say(&format!("{principal} is signed in"));
            Ok(())
        }
        Err(failure) => bail!(not_signed_in(&principal.key(), &failure)),
    }
}

async fn by_browser(
    config: &Config,
    store: &Store,
    principals: Vec<Principal>,
    open: bool,
) -> Result<()> {
    let sign_ins = Arc::new(SignIns::new(store.clone()));
    let mut callbacks: HashMap<String, Option<Callback>> = HashMap::new();
    let mut begun = Vec::new();
    for principal in principals {
        let app = Arc::clone(&principal.app);
        let Some(authorize_url) = &app.authorize_url else { continue };
        // One listener for all that come back to the same place.
        let place = app.redirect_uri.as_str().to_owned();
        if !callbacks.contains_key(&place) {
            callbacks.insert(place.clone(), listen(&app, &sign_ins)?);
        }
        let here = callbacks.get(&place).and_then(Option::as_ref);
        let redirect_uri = here.map_or(app.redirect_uri.as_str(), Callback::redirect_uri);
        let mailboxes = mailboxes(config, &principal);
        let endpoint = Arc::new(HttpEndpoint::of(&principal.app)?);
        let name = principal.to_string();
        let one = sign_ins.begin(principal, mailboxes, endpoint, authorize_url, redirect_uri)?;
        ui::say(&format!("Sign in as {name}, in a browser, at this address:"));
        ui::out(one.url.as_str())?;
        if open && here.is_some() && !ui::open_browser(one.url.as_str()) {
            ui::say("(no browser could be opened here)");
        }
        begun.push((name, one));
    }
    ui::say(
        "If that browser is on another machine, it ends on a page that can't be shown:\n\
         copy its address and paste it here, then press Enter.",
    );
    let pasted = tokio::spawn(take_pasted(Arc::clone(&sign_ins)));
    let failures = wait(begun).await;
    pasted.abort();
    for callback in callbacks.into_values().flatten() {
        callback.close().await;
    }
    match failures.as_slice() {
        [] => Ok(()),
        failures => bail!(failures.join("\n")),
    }
}

/// Waits for all, and tells of each that is done; what became of the others.
async fn wait(begun: Vec<(String, Begun)>) -> Vec<String> {
    let mut failures = Vec::new();
    for (name, one) in begun {
        match one.done().await {
            Ok(done) => report(&done),
            Err(SignInError::Refused(failure)) => failures.push(not_signed_in(&name, &failure)),
            Err(error) => {
                failures.push(format!("{name} is not signed in, nothing was changed: {error}"));
            }
        }
    }
    failures
}

fn listen(app: &crate::config::App, sign_ins: &Arc<SignIns>) -> Result<Option<Callback>> {
    match Callback::open(&app.redirect_uri, Arc::clone(sign_ins)) {
        Ok(callback) => Ok(callback),
        // Another sign-in may have the port: the address can be pasted all the same.
        Err(error) if app.redirect_uri.port().is_some() => {
            ui::say(&format!("note: nothing can listen at redirect_uri ({error})"));
            Ok(None)
        }
        Err(error) => Err(error).context("no port on loopback can be listened on"),
    }
}

/// Addresses that people paste, until all is done.
async fn take_pasted(sign_ins: Arc<SignIns>) {
    let mut lines = ui::lines();
    while let Some(line) = lines.recv().await {
        let redirected = Redirected::of_pasted(line.expose());
        if line.expose().trim().is_empty() {
            continue;
        }
        if !redirected.is_answer() {
            ui::say("that is not the address of the last page; it has code=… or error=… in it");
            continue;
        }
        if let Err(error) = sign_ins.answer(redirected).await {
            ui::say(&format!("that did not work: {error}"));
        }
    }
}

async fn by_device(config: &Config, store: &Store, principal: &Principal) -> Result<()> {
    let mut printed = Ok(());
    let show = |waiting: Waiting<'_>| {
        let code = waiting.code;
        let how_long = ui::duration(waiting.left);
        let again = if waiting.again { "again, since the last wait was broken off, " } else { "" };
        ui::say(&format!(
            "Sign in as {principal}: open {} on any device {again}and type this code, within {how_long}:\n",
            code.verification_uri
        ));
        ui::say(&large(&code.user_code));
        printed = ui::out(&code.user_code);
        if let Some(uri) = &code.verification_uri_complete {
            ui::say(&format!("(or open {uri}, which has the code in it)"));
        }
        ui::say("Waiting. Ctrl-C loses nothing: the same command goes on with the same code.");
    };
    let mailboxes = mailboxes(config, principal);
    let done =
        sign_in_by_device(store, &HttpEndpoint::of(&principal.app)?, principal, mailboxes, show)
            .await;
    printed?;
    match done {
        Ok(done) => {
            report(&done);
            Ok(())
        }
        Err(SignInError::Refused(failure)) => bail!(not_signed_in(&principal.key(), &failure)),
        Err(error) => bail!("{principal} is not signed in, nothing was changed: {error}"),
    }
}

fn report(done: &SignedIn) {
    ui::say(&format!("{} is signed in: {}", done.principal, done.mailboxes.join(", ")));
    if let Some(person) = &done.instead {
        ui::say(&format!(
            "warning: the person who signed in is {person}; if that is somebody else, sign in again, else\n\
             write signed_in_as = {person:?} into the account"
        ));
    }
}

async fn by_refresh_token(store: &Store, principal: &Principal) -> Result<()> {
    let given = read_token()?;
    let asked_at = Clock::system().now();
    let endpoint = HttpEndpoint::of(&principal.app)?;
    match endpoint.request(&principal.app, &principal.app.scopes, Request::Refresh(&given)).await {
        Ok(answer) => {
            let rotated = answer.refresh_token.is_some();
            let token = token_of(principal, answer, Some(given), asked_at);
            store.replace_token(&principal.key(), &token).await?;
            if !rotated {
                ui::say("note: the token endpoint gave no new refresh token; the old one goes on");
            }
            ui::say(&format!("{principal} is signed in"));
            Ok(())
        }
        Err(failure) => keep_untried(store, principal, given, failure).await,
    }
}

/// A refresh token that could not be tried is kept only if there is nothing to lose.
async fn keep_untried(
    store: &Store,
    principal: &Principal,
    given: Secret<String>,
    failure: TokenError,
) -> Result<()> {
    let signed_in = store.token(&principal.key()).await?.0.is_some();
    match &failure {
        TokenError::Transient { reason, .. } if !signed_in => {
            let token = Token { refresh_token: Some(given), ..Token::default() };
            store.replace_token(&principal.key(), &token).await?;
            ui::say(&format!("the refresh token is stored, but could not be tried: {reason}"));
            ui::say("gatepost run goes on trying");
            Ok(())
        }
        _ => bail!(not_signed_in(&principal.key(), &failure)),
    }
}

/// With the names of the request, and what to do if the failure does not say it itself.
fn not_signed_in(name: &str, failure: &TokenError) -> String {
    let failed = failure.to_string();
    let hint = match failure {
        TokenError::Transient { .. } if !failed.contains("\nhint: ") => "\nhint: try again",
        _ => "",
    };
    let trace = failure.trace().map(|trace| format!("\nfor support: {trace}")).unwrap_or_default();
    format!("{name} is not signed in, nothing was changed: {failed}{hint}{trace}")
}

fn read_token() -> Result<Secret<String>> {
    let line = ui::read_secret_line()?;
    let mut text = String::from_utf8(line.expose().clone()).context("the token is not text")?;
    let token = Secret::new(text.trim().to_owned());
    text.zeroize();
    let odd = |c: char| c.is_control() || c.is_whitespace();
    if token.expose().is_empty() || token.expose().chars().any(odd) {
        let hint = "gatepost login MAILBOX --refresh-token-stdin < FILE";
        return Err(UsageError::new("standard input has no refresh token", hint).into());
    }
    Ok(token)
}
