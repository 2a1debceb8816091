//! `gatepost send-test`: a message as a device would send it, followed to the provider's answer.
//!
//! It goes to a listener of the running proxy, with an app password that is made for it and revoked behind it.

mod device;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use super::password::{self, New};
use super::{UsageError, account, open, ui};
use crate::clock::Clock;
use crate::config::{Account, Config, ListenAddress, Listener};
use crate::explain;
use crate::net::CertificateSource;
use crate::outbox::{Entry, Place, Spool, What, kept_as};
use crate::protocol::Reply;
use crate::store::Store;
use crate::vocabulary::Protocol;
use device::{Device, Panel};

/// Name of the app password that it logs in with.
const PASSWORD: &str = "send-test";

/// How often the spool is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How often a message may be gone without a word: the journal is written behind its end, and not always at once.
const GONE: u32 = 20;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Whom to send it to
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// From which mailbox; not needed if there is only one
    #[arg(long, value_name = "MAILBOX")]
    mailbox: Option<String>,
    /// To which listener, as the configuration has it [default: the first one for SMTP]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listener: Option<String>,
    /// How long to follow a spooled message
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration)]
    wait: Duration,
}

pub(super) async fn send_test(file: &Path, args: Args) -> Result<()> {
    let (config, store) = open(file).await?;
    let account = the_account(&config, args.mailbox.as_deref())?;
    let (listener, address) = the_listener(&config, args.listener.as_deref())?;
    if !args.to.contains('@') || args.to.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let hint = "gatepost send-test --to NAME@DOMAIN";
        return Err(UsageError::new(format!("{:?} is no address", args.to), hint).into());
    }
    let certificate = CertificateSource::of(listener, &config.state_dir).files.certificate;
    let panel = Panel { address, listener, certificate };
    ui::say(&format!("to the listener {}, as a device of {}", listener.name(), account.mailbox));
    let reply = hand_over(&store, &account, &panel, &args.to).await?;
    store.close().await;
    match kept_as(&reply) {
        _ if !reply.is_positive() => refused(&account, "it was not accepted", &reply.to_string()),
        None => ui::out(&format!("the provider has it: {reply}")),
        Some(id) => {
            ui::say(&format!("gatepost has it as {id}, and delivers it now"));
            let spool = Spool::open(&config.state_dir, &config.spool, Clock::system())?;
            follow(&spool, &account, id, args.wait).await
        }
    }
}

/// Logs in with a password of its own, which is gone when this returns, and sends.
async fn hand_over(store: &Store, account: &Account, panel: &Panel<'_>, to: &str) -> Result<Reply> {
    let mailbox = account.mailbox.to_lowercase();
    // One may be left of a test that was broken off.
    store.revoke_password(&mailbox, PASSWORD).await?;
    let made = New {
        mailbox: &mailbox,
        name: Some(PASSWORD.into()),
        protocols: vec![Protocol::Smtp],
        networks: vec![panel.address.ip().into()],
    };
    let (_, made) = password::make(store, made).await?;
    let send = async {
        let mut device = Device::connect(panel).await?;
        let mut reply = device.log_in(&account.mailbox, &made).await?;
        if reply.is_positive() {
            reply = device.send(&account.mailbox, to, &message(account, to)).await?;
        }
        device.quit().await;
        Ok(reply)
    };
    let reply = send.await;
    store.revoke_password(&mailbox, PASSWORD).await?;
    reply
}

fn message(account: &Account, to: &str) -> Vec<u8> {
    let now = Clock::system().now();
    let mailbox = &account.mailbox;
    format!(
        "From: <{mailbox}>\r\nTo: <{to}>\r\nSubject: gatepost: a test\r\nDate: {}\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\r\n\
         This message was sent by `gatepost send-test`, as a device of {mailbox} would send it.\r\n",
        now.mail_date()
    )
    .into_bytes()
}

/// Looks at the spool until the message is gone, and says what happens meanwhile.
async fn follow(spool: &Spool, account: &Account, id: &str, wait: Duration) -> Result<()> {
    let began = Instant::now();
    let (mut told, mut gone) = (None, 0);
    while began.elapsed() < wait {
        match spool.find(id).await? {
            Some((entry, Place::Failed)) => {
                let (what, why) = ("it can't be delivered", last_words(&entry));
                // What it means may be said already.
                return match told.as_ref() == Some(&why) {
                    true => bail!("{what}: {why}"),
                    false => refused(account, what, &why),
                };
            }
            Some((entry, Place::Queue)) if entry.progress.last_error != told => {
                if let Some(error) = &entry.progress.last_error {
                    ui::say(&match entry.progress.attempts {
                        // Its mailbox was tried, and is held: for the message itself that counts as no attempt.
                        0 => format!("held: {error}"),
                        attempts => format!("attempt {attempts}: {error}"),
                    });
                    say_meaning(account, error);
                }
                told = entry.progress.last_error;
            }
            Some(_) => {}
            None => match spool.journal().recent(id) {
                Some(event) if event.event == What::Delivered => {
                    return ui::out(&format!("delivered: {}", event.said));
                }
                Some(event) => return refused(account, event.event.name(), &event.said),
                None if gone < GONE => gone += 1,
                None => bail!("the message {id} is gone, and the journal does not say why"),
            },
        }
        sleep(LOOK).await;
    }
    bail!("it still waits, and gatepost goes on trying\nhint: gatepost spool show {id}")
}

fn last_words(entry: &Entry) -> String {
    let refused = entry.progress.refused.last().map(|(_, said)| said);
    refused.or(entry.progress.last_error.as_ref()).cloned().unwrap_or_default()
}

/// What was said, what it means, and what to do.
fn refused(account: &Account, what: &str, said: &str) -> Result<()> {
    say_meaning(account, said);
    bail!("{what}: {said}")
}

fn say_meaning(account: &Account, said: &str) {
    if let Some(entry) = explain::best(said) {
        ui::say(&ui::wrapped(&entry.meaning));
        ui::say(&ui::wrapped(&format!("Remedy: {}", entry.remedy_for(&account.mailbox))));
    }
}

fn the_account(config: &Config, mailbox: Option<&str>) -> Result<Arc<Account>> {
    match (mailbox, config.accounts.as_slice()) {
        (Some(mailbox), _) => account(config, mailbox),
        (None, [only]) if only.pattern().is_none() => Ok(Arc::clone(only)),
        (None, _) => {
            let hint = "gatepost send-test --to ADDRESS --mailbox MAILBOX";
            Err(UsageError::new("it is not clear from which mailbox to send", hint).into())
        }
    }
}

/// A listener, and where this machine reaches it.
fn the_listener<'a>(config: &'a Config, named: Option<&str>) -> Result<(&'a Listener, SocketAddr)> {
    let smtp = config.listeners.iter().filter(|listener| listener.protocol == Protocol::Smtp);
    let mut addresses = smtp
        .flat_map(|listener| listener.addresses.iter().map(move |at| (&**listener, at.address)));
    let found = match named {
        None => addresses.next(),
        Some(named) => {
            // `localhost` is two of them.
            let meant = ListenAddress::parse(named).unwrap_or_default();
            addresses.find(|(_, address)| meant.iter().any(|meant| meant.address == *address))
        }
    };
    let (listener, mut address) = found.with_context(|| match named {
        None => "the configuration has no listener with protocol = \"smtp\"".to_owned(),
        Some(named) => format!("no listener for SMTP is on {named}"),
    })?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    Ok((listener, address))
}
