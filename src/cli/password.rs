//! `gatepost password`: add, list and revoke app passwords. A running proxy sees it within a second.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use ipnet::IpNet;

use super::{UsageError, account, open, ui};
use crate::access::{Hasher, generate};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::store::{Hash, PasswordRecord, Store};
use crate::vocabulary::Protocol;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make an app password and print it, this once
    Add(Add),
    /// List app passwords, without the passwords
    List {
        /// Of this mailbox alone
        mailbox: Option<String>,
    },
    /// Revoke an app password
    Revoke {
        /// Whose it is
        mailbox: String,
        /// Its name, as `gatepost password list` shows it
        #[arg(value_name = "NAME", conflicts_with = "name")]
        positional: Option<String>,
        /// The same
        #[arg(long)]
        name: Option<String>,
    },
}

#[derive(clap::Args)]
pub(super) struct Add {
    /// Whose it is
    mailbox: String,
    /// What it is for: the device, for instance
    #[arg(long)]
    name: Option<String>,
    /// For this protocol alone (imap, pop3, smtp); may be repeated
    #[arg(long, value_delimiter = ',')]
    protocol: Vec<Protocol>,
    /// From this network or address alone; may be repeated
    #[arg(long, value_name = "CIDR", value_parser = network, value_delimiter = ',')]
    from: Vec<IpNet>,
    /// Read a password of your own from standard input
    #[arg(long)]
    stdin: bool,
}

pub(super) async fn password(file: &Path, command: Command) -> Result<()> {
    match command {
        Command::Add(args) => add(file, args).await,
        Command::List { mailbox } => list(file, mailbox).await,
        Command::Revoke { mailbox, positional, name } => {
            revoke(file, &mailbox, positional.or(name)).await
        }
    }
}

async fn add(file: &Path, args: Add) -> Result<()> {
    let (config, store) = open(file).await?;
    let mailbox = account(&config, &args.mailbox)?.mailbox.to_lowercase();
    let what =
        New { mailbox: &mailbox, name: args.name, protocols: args.protocol, networks: args.from };
    let (name, made) = if args.stdin {
        let chosen = ui::read_secret_line()?;
        if chosen.expose().is_empty() || chosen.expose().contains(&0) {
            let hint = "printf '%s\\n' PASSWORD | gatepost password add MAILBOX --stdin";
            return Err(UsageError::new("standard input has no password", hint).into());
        }
        let hash = Hasher::new(&store).hash_chosen(&mailbox, &chosen).await;
        (keep(&store, what, hash.context("the password can't be hashed")?).await?, None)
    } else {
        let (name, made) = make(&store, what).await?;
        (name, Some(made))
    };
    store.close().await;
    if let Some(made) = made {
        ui::out(made.expose())?;
        ui::say("(shown this once; letter case and hyphens don't matter)");
    }
    ui::say(&format!("app password {name:?} of {mailbox} added"));
    Ok(())
}

/// An app password that is to be.
pub(super) struct New<'a> {
    /// In lower case.
    pub(super) mailbox: &'a str,
    /// If nobody has said: the next one that is free.
    pub(super) name: Option<String>,
    /// Where it may be used; empty: all.
    pub(super) protocols: Vec<Protocol>,
    /// From where it may be used; empty: all.
    pub(super) networks: Vec<IpNet>,
}

/// Makes up a password and keeps its hash; gives its name and itself.
pub(super) async fn make(store: &Store, what: New<'_>) -> Result<(String, Secret<String>)> {
    let made = generate().context("the system gives no random numbers")?;
    let hash = Hasher::new(store).generated(what.mailbox, made.expose());
    let name = keep(store, what, Hash::Generated(hash.to_vec())).await?;
    Ok((name, made))
}

async fn keep(store: &Store, what: New<'_>, hash: Hash) -> Result<String> {
    let New { mailbox, name, protocols, networks } = what;
    let name = match name {
        Some(name) => name,
        None => free_name(store, mailbox).await?,
    };
    let (mailbox, created_at) = (mailbox.to_owned(), Clock::system().now());
    let record = PasswordRecord { mailbox, name, hash, protocols, networks, created_at };
    if !store.add_password(&record).await? {
        let (mailbox, name) = (&record.mailbox, &record.name);
        bail!(
            "{mailbox} has an app password {name:?} already\n\
             hint: choose another name, or gatepost password revoke {mailbox} {name}"
        );
    }
    Ok(record.name)
}

async fn list(file: &Path, mailbox: Option<String>) -> Result<()> {
    let (config, store) = open(file).await?;
    let only = mailbox.map(|mailbox| account(&config, &mailbox)).transpose()?;
    let mut rows = vec![["MAILBOX", "NAME", "PROTOCOLS", "FROM", "AGE"].map(String::from).to_vec()];
    let now = Clock::system().now();
    for record in store.passwords().await? {
        if only.as_ref().is_some_and(|account| !account.answers_to(&record.mailbox)) {
            continue;
        }
        let age = ui::duration(now.saturating_since(record.created_at));
        let limits = [limits(&record.protocols), limits(&record.networks)];
        let [protocols, networks] = limits;
        rows.push(vec![record.mailbox, record.name, protocols, networks, age]);
    }
    ui::table(&rows)
}

async fn revoke(file: &Path, mailbox: &str, name: Option<String>) -> Result<()> {
    let (config, store) = open(file).await?;
    // One of a mailbox that is no longer in the configuration can be revoked too.
    let known = config.account(mailbox);
    let mailbox = known.as_ref().map_or(mailbox, |account| &account.mailbox).to_lowercase();
    let names = names(&store, &mailbox).await?;
    let name = match (name, names.as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only.clone(),
        (None, []) => bail!("{mailbox} has no app password"),
        (None, names) => {
            let problem = format!("{mailbox} has several app passwords");
            let hint = format!("name one of {} with --name", names.join(", "));
            return Err(UsageError::new(problem, hint).into());
        }
    };
    if !store.revoke_password(&mailbox, &name).await? {
        bail!("{mailbox} has no app password {name:?}\nhint: gatepost password list {mailbox}");
    }
    store.close().await;
    ui::say(&format!("app password {name:?} of {mailbox} revoked"));
    Ok(())
}

async fn names(store: &Store, mailbox: &str) -> Result<Vec<String>> {
    let records = store.passwords().await?.into_iter();
    Ok(records.filter(|record| record.mailbox == mailbox).map(|record| record.name).collect())
}

async fn free_name(store: &Store, mailbox: &str) -> Result<String> {
    let taken = names(store, mailbox).await?;
    let mut candidates = (1..).map(|number| format!("device-{number}"));
    candidates.find(|name| !taken.contains(name)).context("no name is left")
}

fn limits(items: &[impl ToString]) -> String {
    match items {
        [] => "any".into(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

/// A network, or an address alone.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .map(|network| network.trunc())
        .or_else(|_| address())
        .map_err(|_| "write a network as 192.168.7.0/24 or an address as 192.168.7.20".into())
}
