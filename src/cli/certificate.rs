//! `gatepost certificate`: what clients must trust, on standard output or in a file. A running proxy serves one that
//! is made anew within seconds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{UsageError, ui};
use crate::clock::Timestamp;
use crate::config::{Config, ListenAddress, Listener};
use crate::net::{Certificate, CertificateSource, OwnNames};
use crate::private_file;
use crate::vocabulary::TlsMode;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Of which listener, if they have several certificates
    #[arg(long, value_name = "ADDRESS:PORT")]
    listener: Option<String>,
    /// In DER, alone, instead of PEM with its chain
    #[arg(long, conflicts_with = "fingerprint")]
    der: bool,
    /// Its fingerprints instead, as clients show them
    #[arg(long)]
    fingerprint: bool,
    /// Write it to this file
    #[arg(long, value_name = "FILE", conflicts_with = "fingerprint")]
    out: Option<PathBuf>,
    /// First make the self-made one anew, with the names that listeners and machine have now
    #[arg(long)]
    renew: bool,
}

pub(super) fn certificate(file: &Path, args: Args) -> Result<()> {
    let config = Config::load_without_secrets(file)?;
    let source = the_source(&config, args.listener.as_deref())?;
    if source.self_made {
        private_file::ensure_state_folder(&config.state_dir)?;
        source.make_once(|| own_names(&config))?;
    }
    if args.renew {
        renew(&config, &source)?;
    }
    let certificate = source.certificate()?;
    show(&config, &source, &certificate);
    if args.fingerprint {
        ui::out(&format!("SHA-256 {}", certificate.sha256()))?;
        return ui::out(&format!("SHA-1 {}", certificate.sha1()));
    }
    let octets = match args.der {
        true => certificate.der().to_vec(),
        false => certificate.pem().into_bytes(),
    };
    match args.out {
        None => ui::out_octets(&octets),
        Some(path) => {
            std::fs::write(&path, octets).with_context(|| path.display().to_string())?;
            ui::say(&format!("written to {}", path.display()));
            Ok(())
        }
    }
}

/// Of the listener that is named, or the one that all have.
fn the_source(config: &Config, named: Option<&str>) -> Result<CertificateSource> {
    let with_tls: Vec<&Listener> = config
        .listeners
        .iter()
        .map(AsRef::as_ref)
        .filter(|listener| listener.tls != TlsMode::None)
        .collect();
    let meant: Vec<&Listener> = match named {
        None => with_tls.clone(),
        Some(named) => {
            // `localhost` is two of them.
            let meant = ListenAddress::parse(named).unwrap_or_default();
            let is_meant = |listener: &&&Listener| {
                meant.iter().any(|address| listener.addresses.contains(address))
            };
            with_tls.iter().filter(is_meant).copied().collect()
        }
    };
    let mut sources: Vec<CertificateSource> = Vec::new();
    for listener in meant {
        let source = CertificateSource::of(listener, &config.state_dir);
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    let names: Vec<String> = with_tls.iter().map(|listener| listener.name()).collect();
    let names = names.join("; ");
    let (problem, hint) = match (sources.as_slice(), named) {
        ([one], _) => return Ok(one.clone()),
        ([], _) if with_tls.is_empty() => (
            "no listener has TLS, so that there is no certificate".to_owned(),
            format!(
                "set tls = \"implicit\" or \"starttls\" on a [[listener]] of {}",
                config.file.display()
            ),
        ),
        ([], Some(named)) => (
            format!("no listener with TLS is on {named:?}"),
            format!("gatepost certificate --listener ADDRESS:PORT, of {names}"),
        ),
        _ => (
            "the listeners have several certificates".to_owned(),
            format!("gatepost certificate --listener ADDRESS:PORT, of {names}"),
        ),
    };
    Err(UsageError::new(problem, hint).into())
}

fn renew(config: &Config, source: &CertificateSource) -> Result<()> {
    if !source.self_made {
        let path = source.files.certificate.display();
        let hint = "put a new one in its place; gatepost run serves it within seconds";
        return Err(UsageError::new(format!("{path} is not gatepost's own"), hint).into());
    }
    source.make_anew(&own_names(config))?;
    ui::say("made anew: clients that trust the former one must now trust this one");
    Ok(())
}

fn own_names(config: &Config) -> OwnNames {
    let names = OwnNames::of(&config.listeners);
    if let Some(unknown) = &names.unknown {
        ui::say(&format!("warning: {unknown}"));
    }
    names
}

/// Words for people.
fn show(config: &Config, source: &CertificateSource, certificate: &Certificate) {
    let date = |time: Option<Timestamp>| time.map(Timestamp::text).unwrap_or_default();
    ui::say(&format!(
        "{}\n  names    {}\n  valid    {} to {}\n  SHA-256  {}",
        source.files.certificate.display(),
        certificate.names.join(", "),
        date(certificate.not_before),
        date(certificate.not_after),
        certificate.sha256()
    ));
    if !certificate.is_self_signed() {
        ui::say(&format!(
            "signed by {}: clients must trust that authority, and use one of the names as server",
            certificate.issuer
        ));
        return;
    }
    let names = OwnNames::asked_by(&config.listeners);
    let missing = names.missing_in(certificate).join(", ");
    if source.self_made && !missing.is_empty() {
        ui::say(&format!(
            "warning: it lacks {missing}, which listeners have now\nhint: gatepost certificate --renew"
        ));
    }
    ui::say(
        "Clients must trust it, and use one of the names as server:\n  \
         Windows, Outlook  certutil -addstore Root FILE, as administrator\n  \
         macOS             open FILE; in Keychain Access set it to Always Trust\n  \
         Linux             /usr/local/share/ca-certificates/FILE.crt, then update-ca-certificates\n  \
         Thunderbird       accept it at the first connection, after comparing the fingerprint\n  \
         Java              keytool -importcert -alias gatepost -file FILE -cacerts\n  \
         devices           import it on their web page as a CA certificate, or switch the check off",
    );
}
