//! `gatepost logout`: forget a mailbox's sign-in. A running proxy sees it within a second.

use std::path::Path;

use anyhow::{Result, bail};

use super::{account, open, ui};
use crate::oauth::Principal;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Which mailbox
    mailbox: String,
}

pub(super) async fn logout(file: &Path, args: Args) -> Result<()> {
    let (config, store) = open(file).await?;
    let principal = Principal::of(account(&config, &args.mailbox)?);
    let was_signed_in = store.delete_token(&principal.key()).await?;
    store.clear_fault(&principal.key()).await?;
    store.close().await;
    match was_signed_in {
        true => ui::say(&format!("{principal} is signed out")),
        false => bail!("{principal} was not signed in"),
    }
    Ok(())
}
