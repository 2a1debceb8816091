//! `gatepost entra`: what an administrator of the tenant needs.

use std::path::Path;

use anyhow::Result;

use super::ui;
use crate::config::Config;
use crate::entra::{ConsentUrl, EntraError, Made, consent_urls, script};
use crate::vocabulary::Resource;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Print the address at which an administrator consents to an app
    ConsentUrl {
        /// Which app [default: each that an account uses]
        app: Option<String>,
    },
    /// Print the PowerShell script that prepares Entra and Exchange for the apps and mailboxes
    Script {
        /// Which app [default: all that accounts use]
        #[arg(long)]
        app: Option<String>,
    },
}

pub(super) fn entra(file: &Path, command: Command) -> Result<()> {
    let config = Config::load_without_secrets(file)?;
    match command {
        Command::ConsentUrl { app } => {
            let urls = consent_urls(&config, app.as_deref())?;
            say_left_out(&urls.left_out);
            for url in &urls.made {
                show(url)?;
            }
        }
        Command::Script { app } => {
            let Made { made, left_out } = script(&config, app.as_deref())?;
            say_left_out(&left_out);
            ui::out(made.trim_end())?;
            ui::say(
                "For an administrator of the tenant: save it as gatepost.ps1 and read it, see with\n\
                 ./gatepost.ps1 -WhatIf what it would change, then run it. It can be run again at any time.",
            );
        }
    }
    Ok(())
}

fn show(url: &ConsentUrl) -> Result<()> {
    let what = match url.resource {
        Resource::Mail => "",
        Resource::Graph => ", for sending by Microsoft Graph",
    };
    ui::say(&format!(
        "App {}{what}: an administrator of the tenant {} opens this address and accepts what it shows.\n\
         The browser ends on {}, which need not load: admin_consent=True in its address is the answer.",
        url.app, url.tenant, url.redirect_uri
    ));
    ui::out(url.url.as_str())
}

fn say_left_out(left_out: &[EntraError]) {
    for reason in left_out {
        ui::say(&format!("left out: {reason}"));
    }
}
