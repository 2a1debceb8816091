//! The questions, in the order in which one follows from the other.
//!
//! Invariant: only what the configuration needs is asked, and nothing is written before the last answer.

use std::net::UdpSocket;

use anyhow::Result;

use super::answers::{Answers, Args, ListenerAnswer, OwnProvider, Proof};
use super::ask::{Asker, Question, Shown};
use super::portal::Portal;
use super::provider::{Offer, provider};
use super::{checks, ports, proof};
use crate::cli::{UsageError, ui};
use crate::config::Grant;
use crate::vocabulary::{Protocol, TlsMode};

/// What the first app password is called: the first name that `gatepost password add` gives.
const FIRST_PASSWORD: &str = "device-1";

/// All answers: from flags, from a person, by default. What is still missing, `asker` knows.
pub(super) fn ask(args: Args, asker: &mut Asker) -> Result<Answers> {
    let (provider, known, mut own) = provider(&args, asker)?;
    let portal = Portal::of(known.as_deref())?;
    let offer = Offer::of(known.as_deref(), own.as_ref());
    let mailbox = mailbox(&args, asker, own.is_some())?;
    let grant = grant(&args, asker, &portal, &offer, &provider)?;
    let scopes = scopes(&args, asker, own.as_mut(), grant)?;
    let signed_in_as = signed_in_as(&args, asker, grant, &mailbox)?;
    let tenant = tenant(&args, asker, &portal, &offer, grant, &mailbox)?;
    let (client_id, proof) = client(&args, asker, &portal, grant, tenant.as_deref())?;
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
    let known = |grant: &Grant| portal.grants.as_ref().is_none_or(|all| all.contains(grant));
    let possible: Vec<_> = offer.grants.iter().copied().filter(known).collect();
    let given = args.grant.or(args.place.device_code.then_some(Grant::DeviceCode));
    let chosen = match given {
        Some(grant) if !possible.contains(&grant) => {
            let names: Vec<_> = possible.iter().map(|grant| grant.name()).collect();
            let problem = format!("--grant {}: provider {provider} has no such one", grant.name());
            return Err(UsageError::new(problem, format!("it has {}", names.join(", "))).into());
        }
        Some(grant) if args.place.device_code && !grant.is_delegated() => {
            let problem = format!("--device-code: nobody signs in with grant {}", grant.name());
            return Err(UsageError::new(problem, "leave it out").into());
        }
        Some(grant) => grant,
        None => {
            // Service accounts are only offered where they are known to exist.
            let usual = |grant: &Grant| portal.grants.is_some() || *grant != Grant::JwtBearer;
            let offered = possible.into_iter().filter(usual);
            let options = offered.map(|grant| Shown(in_words(grant).into(), grant)).collect();
            let help = "unattended services sign in by themselves; people with a browser";
            asker.choice("Who signs in?", help, options)?.1
        }
    };
    if let (true, Some(needs)) = (asker.person(), portal.needs(chosen)) {
        ui::say(&format!("{needs}{}", portal.place()));
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
            true => "spaces between; a refresh token often takes offline_access; Enter for none",
            false => "spaces between; Enter for none",
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

/// Who the app is, and what shows it.
fn client(
    args: &Args,
    asker: &mut Asker,
    portal: &Portal,
    grant: Grant,
    tenant: Option<&str>,
) -> Result<(Option<String>, Option<Proof>)> {
    // A service account's key file tells who it is.
    let first = grant == Grant::JwtBearer;
    let early = if first { proof::proof(&args.proof, asker, portal, grant)? } else { None };
    let id = client_id(args, asker, portal, grant, tenant, early.as_ref())?;
    let proof = if first { early } else { proof::proof(&args.proof, asker, portal, grant)? };
    Ok((id, proof))
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
