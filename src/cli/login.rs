//! `gatepost login`: sign a mailbox in. A running proxy sees it within a second.

use std::path::Path;

use anyhow::{Context, Result, bail};
use zeroize::Zeroize;

use super::{UsageError, account, ui, with_store};
use crate::clock::Clock;
use crate::config::{Config, Grant};
use crate::net::{ClientTls, http_client};
use crate::oauth::{HttpEndpoint, Principal, Request, TokenEndpoint, TokenError, token_of};
use crate::secret::Secret;
use crate::store::{Store, Token};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Which mailbox
    mailbox: String,
    /// Read a refresh token from standard input
    #[arg(long)]
    refresh_token_stdin: bool,
}

pub(super) async fn login(file: &Path, args: Args) -> Result<()> {
    let (config, store) = with_store(Config::load(file)?).await?;
    let account = account(&config, &args.mailbox)?;
    let principal = Principal::of(account);
    let given = match (account.app.grant, args.refresh_token_stdin) {
        (Grant::ClientCredentials, false) => None,
        (Grant::ClientCredentials, true) => {
            let problem = format!("app {} signs in by itself", account.app.name);
            let hint = format!("gatepost login {} tries it", account.mailbox);
            return Err(UsageError::new(problem, hint).into());
        }
        (_, true) => Some(read_token()?),
        (_, false) => {
            let problem = "this version signs a person in by a refresh token alone";
            let hint = format!("gatepost login {} --refresh-token-stdin < FILE", account.mailbox);
            return Err(UsageError::new(problem, hint).into());
        }
    };
    let client = http_client(&ClientTls::new(account.app.provider.ca_file.as_deref())?)?;
    let request = given.as_ref().map_or(Request::ClientCredentials, Request::Refresh);
    let asked_at = Clock::system().now();
    let answer = HttpEndpoint::new(client).request(&account.app, request).await;
    match answer {
        Ok(answer) => {
            let rotated = answer.refresh_token.is_some();
            let token = token_of(&principal, answer, given, asked_at);
            store.replace_token(&principal.key(), &token).await?;
            store.clear_fault(&principal.key()).await?;
            if account.app.grant != Grant::ClientCredentials && !rotated {
                ui::say("note: the token endpoint gave no new refresh token; the old one goes on");
            }
            ui::say(&format!("{principal} is signed in"));
        }
        Err(failure) => keep_untried(&store, &principal, given, failure).await?,
    }
    store.close().await;
    Ok(())
}

/// A refresh token that could not be tried is kept only if there is nothing to lose.
async fn keep_untried(
    store: &Store,
    principal: &Principal,
    given: Option<Secret<String>>,
    failure: TokenError,
) -> Result<()> {
    let signed_in = store.token(&principal.key()).await?.0.is_some();
    match (failure, given) {
        (TokenError::Transient { reason, .. }, Some(given)) if !signed_in => {
            let token = Token { refresh_token: Some(given), access: None };
            store.replace_token(&principal.key(), &token).await?;
            ui::say(&format!("the refresh token is stored, but could not be tried: {reason}"));
            ui::say("gatepost run goes on trying");
            Ok(())
        }
        (TokenError::Transient { reason, .. }, _) => {
            bail!(
                "{principal} is not signed in anew, nothing was changed: {reason}\nhint: try again"
            )
        }
        (TokenError::Permanent { reason }, _) => {
            bail!("{principal} is not signed in, nothing was changed: {reason}")
        }
    }
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
