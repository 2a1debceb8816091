//! The questions, in the order in which one follows from the other.
//!
//! Invariant: only what the configuration needs is asked, and nothing is written before the last answer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::answers::{Answers, Args, ListenerAnswer, OwnProvider, Proof};
use super::ask::{Asker, Question};
use super::portal::Portal;
use super::{checks, ports, proof};
use crate::cli::{UsageError, ui};
use crate::config::{Config, DEFAULT_PROVIDER, Grant, Provider};
use crate::vocabulary::{Protocol, TlsMode};

/// What a provider of one's own is called if nobody says.
const OWN: &str = "own";

/// What the first app password is called: the first name that `gatepost password add` gives.
const FIRST_PASSWORD: &str = "device-1";

/// All answers: from flags, from a person, by default. What is still missing, `asker` knows.
pub(super) fn ask(args: Args, asker: &mut Asker) -> Result<Answers> {
    let (provider, known, mut own) = provider(&args, asker)?;
    let portal = Portal::of(known.as_ref().map(AsRef::as_ref))?;
    let offer = Offer::of(known.as_ref().map(AsRef::as_ref), own.as_ref());
    let mailbox = mailbox(&args, asker, own.is_some())?;
    let grant = grant(&args, asker, &portal, &offer, &provider)?;
    let scopes = scopes(&args, asker, own.as_mut(), grant)?;
    let signed_in_as = signed_in_as(&args, asker, grant, &mailbox)?;
    let tenant = tenant(&args, asker, &portal, &offer, grant, &mailbox)?;
    let proof = proof::proof(&args.proof, asker, &portal, grant)?;
    let client_id = client_id(&args, asker, &portal, grant, tenant.as_deref(), proof.as_ref())?;
    let listeners = listeners(&args, asker, &offer.protocols)?;
    let password_name = password_name(&args, asker)?;
    Ok(Answers {
        provider,
        own,
        mailbox,
        signed_in_as,
        grant,
        tenant,
        client_id,
        proof,
        scopes,
        redirect_uri: args.redirect_uri,
        listeners,
        state_dir: args.state_dir,
        password_name,
    })
}

/// What can be had of a provider.
struct Offer {
    grants: Vec<Grant>,
    /// It keeps tenants apart.
    tenants: bool,
    protocols: Vec<Protocol>,
}

impl Offer {
    fn of(known: Option<&Provider>, own: Option<&OwnProvider>) -> Self {
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
fn provider(args: &Args, asker: &mut Asker) -> Result<(String, Known, Option<OwnProvider>)> {
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
        Shown(format!("{:<23} {server}", provider.name), Some(provider.name.clone()))
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
        "for sign-ins with a browser: authorization_endpoint there; Enter if there is none",
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
        let help = "HOST:PORT, or HOST:PORT starttls; Enter if there is none";
        let question = Question { flag, words, help };
        let server = asker.optional(question, own.server(protocol), checks::server)?;
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

fn mailbox(args: &Args, asker: &mut Asker, own: bool) -> Result<String> {
    let question = Question {
        flag: "--mailbox",
        words: "Mailbox:",
        help: "its address: the user name that the mail client logs in with",
    };
    // Other providers have user names that are no addresses.
    let check = if own { checks::mailbox } else { checks::address };
    asker.text(question, args.mailbox.as_deref(), None, check)
}

fn grant(
    args: &Args,
    asker: &mut Asker,
    portal: &Portal,
    offer: &Offer,
    provider: &str,
) -> Result<Grant> {
    let of_portal = |grant: &Grant| match &portal.grants {
        Some(grants) => grants.contains(grant),
        None => *grant != Grant::JwtBearer,
    };
    let offered: Vec<_> = offer.grants.iter().copied().filter(of_portal).collect();
    let given = args.grant.or(args.place.device_code.then_some(Grant::DeviceCode));
    let chosen = match given {
        Some(grant) if offer.grants.contains(&grant) => grant,
        Some(grant) => {
            let names: Vec<_> = offered.iter().map(|grant| grant.name()).collect();
            let problem = format!("--grant {}: provider {provider} has no such one", grant.name());
            return Err(UsageError::new(problem, format!("it has {}", names.join(", "))).into());
        }
        None => {
            let options = offered.into_iter().map(|grant| Shown(in_words(grant).into(), grant));
            let help = "unattended services sign in by themselves; people with a browser";
            asker.choice("Who signs in?", help, options.collect())?.1
        }
    };
    if let (true, Some(needs)) = (asker.person(), portal.needs(chosen)) {
        ui::say(needs);
    }
    Ok(chosen)
}

fn in_words(grant: Grant) -> &'static str {
    match grant {
        Grant::AuthorizationCode => "a person, with a browser on this machine",
        Grant::DeviceCode => "a person, on another device: a code is shown here, typed there",
        Grant::ClientCredentials => "the app by itself: an unattended service, without a person",
        Grant::ManagedIdentity => "this Azure machine, by its managed identity",
        Grant::JwtBearer => "a service account, on behalf of each mailbox",
    }
}

/// Of the app; those of a provider of one's own are written there.
fn scopes(
    args: &Args,
    asker: &mut Asker,
    own: Option<&mut OwnProvider>,
    grant: Grant,
) -> Result<Vec<String>> {
    let Some(own) = own else { return Ok(args.scope.clone()) };
    own.scopes = args.scope.clone();
    if own.scopes.is_empty() {
        let help = match grant.is_delegated() {
            true => {
                "with spaces between; a refresh token usually takes offline_access; Enter for none"
            }
            false => "with spaces between; Enter for none",
        };
        let question = Question { flag: "--scope", words: "Scopes:", help };
        let typed = asker.optional(question, None, |typed| Ok(typed.to_owned()))?;
        own.scopes = typed.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    }
    Ok(Vec::new())
}

fn signed_in_as(
    args: &Args,
    asker: &mut Asker,
    grant: Grant,
    mailbox: &str,
) -> Result<Option<String>> {
    if !grant.is_personal() {
        return match &args.signed_in_as {
            None => Ok(None),
            Some(_) => {
                let problem =
                    format!("--signed-in-as: nobody signs in with grant {}", grant.name());
                Err(UsageError::new(problem, "leave it out: the app opens the mailbox").into())
            }
        };
    }
    let question = Question {
        flag: "--signed-in-as",
        words: "Whose sign-in opens it?",
        help: "a shared mailbox: the person who has access; else Enter, its owner",
    };
    let person =
        asker.text(question, args.signed_in_as.as_deref(), Some(mailbox), checks::mailbox)?;
    Ok(Some(person).filter(|person| !person.eq_ignore_ascii_case(mailbox)))
}

fn tenant(
    args: &Args,
    asker: &mut Asker,
    portal: &Portal,
    offer: &Offer,
    grant: Grant,
    mailbox: &str,
) -> Result<Option<String>> {
    if !offer.tenants || grant == Grant::ManagedIdentity {
        return Ok(args.tenant.clone());
    }
    // Any verified domain names its tenant. A mailbox that is missing itself leaves nothing to be asked here.
    let default = match mailbox {
        "" => Some(""),
        mailbox => mailbox.rsplit_once('@').map(|(_, domain)| domain),
    };
    let question = Question { flag: "--tenant", words: "Tenant:", help: &portal.tenant };
    asker.text(question, args.tenant.as_deref(), default, checks::name).map(Some)
}

fn client_id(
    args: &Args,
    asker: &mut Asker,
    portal: &Portal,
    grant: Grant,
    tenant: Option<&str>,
    proof: Option<&Proof>,
) -> Result<Option<String>> {
    let given = args.client_id.as_deref();
    let mut question =
        Question { flag: "--client-id", words: "Client id:", help: &portal.client_id };
    let guids = portal.client_id_is_guid;
    let tenant = tenant.map(str::to_lowercase);
    let check = move |typed: &str| {
        let id = if guids { checks::guid(typed)? } else { checks::name(typed)? };
        match tenant.as_ref() == Some(&id) {
            true => Err("that is the tenant's id".into()),
            false => Ok(id),
        }
    };
    match grant {
        Grant::ManagedIdentity => {
            question.help = "of a user-assigned identity; Enter for the machine's own";
            asker.optional(question, given, check)
        }
        Grant::JwtBearer => {
            question.help = "the service account's address: client_email in its key file";
            let known = proof.and_then(proof::client_email);
            asker.text(question, given.or(known.as_deref()), None, checks::name).map(Some)
        }
        _ => asker.text(question, given, None, check).map(Some),
    }
}

fn listeners(args: &Args, asker: &mut Asker, offered: &[Protocol]) -> Result<Vec<ListenerAnswer>> {
    let mut protocols = args.protocol.clone();
    protocols.extend(args.listen.iter().map(|(protocol, _)| *protocol));
    if protocols.is_empty() {
        let usual = |protocol: &Protocol| *protocol != Protocol::Pop3;
        let mut defaults: Vec<_> =
            (0..offered.len()).filter(|&at| offered.get(at).is_some_and(usual)).collect();
        if defaults.is_empty() {
            defaults = (0..offered.len()).collect();
        }
        let help = "imap and pop3 read mail, smtp sends it; Space chooses, Enter goes on";
        protocols = asker.choices("What does the mail client speak?", help, offered, &defaults)?;
    }
    protocols.sort();
    protocols.dedup();
    let given = |protocol| args.listen.iter().filter(move |(of, _)| *of == protocol);
    let all_given = protocols.iter().all(|protocol| given(*protocol).next().is_some());
    let place = if all_given { Place::Here } else { place(asker)? };
    let mut taken = ports::Taken::default();
    let mut listeners = Vec::new();
    for protocol in protocols {
        let mut addresses: Vec<_> = given(protocol).map(|(_, address)| address.clone()).collect();
        if addresses.is_empty() {
            addresses.push(address(asker, &place, protocol, &mut taken)?);
        }
        for listen in addresses {
            let default = if ports::is_local(&listen) { TlsMode::None } else { TlsMode::StartTls };
            let tls = args.tls.unwrap_or(default);
            listeners.push(ListenerAnswer { protocol, listen, tls });
        }
    }
    Ok(listeners)
}

/// Who connects.
#[derive(Clone)]
enum Place {
    /// This machine alone.
    Here,
    /// Devices, at this address of the machine.
    Network(String),
    /// A person will say for each protocol.
    Typed,
}

fn place(asker: &mut Asker) -> Result<Place> {
    let options = vec![
        Shown("programs on this machine".into(), Some(Place::Here)),
        Shown("devices on the network too (with STARTTLS)".into(), None),
        Shown("let me type address and port for each".into(), Some(Place::Typed)),
    ];
    let help = "a network sees passwords only in TLS; nobody logs in without one";
    if let Some(place) = asker.choice("Who connects to gatepost?", help, options)?.1 {
        return Ok(place);
    }
    let question = Question {
        flag: "--listen",
        words: "Address of this machine on that network:",
        help: "what the devices connect to; 0.0.0.0 is every address it has",
    };
    asker.text(question, None, own_address().as_deref(), checks::ip_address).map(Place::Network)
}

/// The address from which this machine would speak to the outside. Nothing is sent: connecting a UDP socket
/// (here to an address for documentation, RFC 5737) only looks the way up.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

fn address(
    asker: &mut Asker,
    place: &Place,
    protocol: Protocol,
    taken: &mut ports::Taken,
) -> Result<String> {
    let host = match place {
        Place::Here | Place::Typed => "localhost",
        Place::Network(address) => address,
    };
    let (default, usual) = taken.free(host, protocol)?;
    if let Place::Typed = place {
        let words = format!("Where does {protocol} listen?");
        let help = "localhost:PORT is this machine alone; else an IP address with a port";
        let question = Question { flag: "--listen", words: &words, help };
        return asker.text(question, None, Some(&default), checks::listen_address);
    }
    if let Some(usual) = usual {
        asker.note(format!(
            "note: port {usual} is taken on this machine; {protocol} gets {default}"
        ));
    }
    Ok(default)
}

fn password_name(args: &Args, asker: &mut Asker) -> Result<Option<String>> {
    if args.no_password {
        return Ok(None);
    }
    let question = Question {
        flag: "--password-name",
        words: "What is the first app password for?",
        help: "the device or program: each gets a password of its own, to be revoked alone",
    };
    let given = args.password_name.as_deref();
    let name = asker.text(question, given, Some(FIRST_PASSWORD), checks::label)?;
    // The default is only a proposal: the store may have one of that name.
    Ok(Some(name).filter(|name| given.is_some() || name != FIRST_PASSWORD))
}

/// An option as it is shown, and what it means.
#[derive(Clone)]
pub(super) struct Shown<T>(pub(super) String, pub(super) T);

impl<T> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
