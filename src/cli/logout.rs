//! `gatepost logout`: forget a mailbox's sign-in, and take it back where the provider can. A running proxy sees it
//! within a second.

use std::path::Path;

use anyhow::{Result, bail};

use super::{account, ui, with_store};
use crate::clock::Clock;
use crate::config::Config;
use crate::oauth::{HttpEndpoint, Principal};
use crate::secret::Secret;
use crate::store::TokenFault;
use crate::vocabulary::Cause;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Which mailbox
    mailbox: String,
}

pub(super) async fn logout(file: &Path, args: Args) -> Result<()> {
    let (config, store) = with_store(Config::load_without_secrets(file)?).await?;
    let principal = Principal::of(&*account(&config, &args.mailbox)?);
    let (token, _) = store.token(&principal.key()).await?;
    let signed_out = TokenFault {
        error: "signed out by gatepost logout".into(),
        cause: Some(Cause::SignIn),
        trace: String::new(),
        at: Clock::system().now(),
    };
    let delegated = principal.app.grant.is_delegated();
    let was_signed_in =
        store.delete_token(&principal.key(), delegated.then_some(&signed_out)).await?;
    store.close().await;
    if !was_signed_in {
        bail!("{principal} was not signed in");
    }
    ui::say(&format!("{principal} is signed out"));
    match token.and_then(|token| token.refresh_token) {
        Some(token) => revoke(&principal, &token).await,
        None => Ok(()),
    }
}

/// Takes the refresh token back, so that a copy of it is of no use either. It is forgotten here already.
async fn revoke(principal: &Principal, token: &Secret<String>) -> Result<()> {
    match HttpEndpoint::of(&principal.app)?.revoke(&principal.app, token).await {
        Ok(true) => ui::say("the provider has taken the sign-in back"),
        Ok(false) => ui::say(
            "note: this provider has no way to take one sign-in back; to end all of the person's, an administrator\n\
             uses \"Revoke sessions\" in the portal",
        ),
        Err(error) => bail!(
            "forgotten here, but the provider has not taken it back: {error}\n\
             hint: an administrator can end the person's sessions in the portal"
        ),
    }
    Ok(())
}
