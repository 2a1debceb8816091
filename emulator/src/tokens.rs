//! Tokens: who got them, how long they live, and which mailboxes they open.
//!
//! Access tokens look like Entra's (a JWT of real size), but they are looked up, not verified: the
//! emulator knows every token that it ever issued.
//!
//! Invariant: a token that is unknown, expired, revoked or without the protocol's permission opens
//! nothing, and the mail servers tell none of these cases from the others.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{LoginFault, Options, Protocol, locked};

/// The delegated permissions for mail.
pub(super) const DELEGATED: [&str; 3] =
    ["IMAP.AccessAsUser.All", "POP.AccessAsUser.All", "SMTP.Send"];

/// The application permissions for mail.
pub(super) const ROLES: [&str; 3] = ["IMAP.AccessAsApp", "POP.AccessAsApp", "SMTP.SendAsApp"];

/// Microsoft Graph, the other resource that tokens are issued for.
pub(super) const GRAPH: &str = "https://graph.microsoft.com";

/// Graph's delegated permissions for mail, and the one that every app has.
pub(super) const GRAPH_DELEGATED: [&str; 6] = [
    "Mail.Read",
    "Mail.ReadWrite",
    "Mail.ReadWrite.Shared",
    "Mail.Send",
    "Mail.Send.Shared",
    "User.Read",
];

/// Graph's application permissions for mail.
pub(super) const GRAPH_ROLES: [&str; 3] = ["Mail.Read", "Mail.ReadWrite", "Mail.Send"];

/// Gmail's one scope for mail, which is no URL of a resource. Tokens for it open mailboxes too.
pub(super) const GMAIL: &str = "https://mail.google.com/";

/// JWT header of what the emulator issues; nobody verifies it.
const HEADER: &str = r#"{"typ":"JWT","alg":"RS256","kid":"emulated"}"#;

/// Whom a token speaks for.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Principal {
    /// The app itself (client credentials).
    App,
    /// A user who signed in (delegated).
    User(String),
}

/// What is asked of an access token.
pub(super) struct Wanted {
    pub(super) principal: Principal,
    pub(super) audience: String,
    /// Short names of delegated scopes or application roles.
    pub(super) permissions: Vec<String>,
    pub(super) life: Duration,
}

/// Whose token was shown to Graph, and what for.
pub(super) struct Bearer {
    pub(super) principal: Principal,
    pub(super) permissions: Vec<String>,
}

/// A login that succeeded.
pub(super) struct Grant {
    principal: Principal,
    pub(super) mailbox: String,
    pub(super) expires: Instant,
    /// One of the faults that show only behind the login.
    pub(super) fault: Option<LoginFault>,
}

/// All tokens, and the directory that says what they open.
pub(super) struct Tokens {
    options: Options,
    /// The tenant's id, which tokens have in their `tid`.
    tenant_id: String,
    access: Mutex<HashMap<String, (Wanted, Instant)>>,
    /// Users by token, and whether it is revoked.
    refresh: Mutex<HashMap<String, (String, bool)>>,
}

impl Principal {
    /// Everything that mail needs of Exchange's protocols.
    pub(super) fn mail_permissions(&self) -> Vec<String> {
        let names = if *self == Self::App { ROLES } else { DELEGATED };
        names.map(String::from).to_vec()
    }

    /// Everything that mail needs of Graph.
    pub(super) fn graph_permissions(&self) -> Vec<String> {
        let names = if *self == Self::App { &GRAPH_ROLES[..] } else { &GRAPH_DELEGATED };
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}

impl Tokens {
    pub(super) fn new(options: Options) -> Self {
        let tenant_id = guid();
        Self { options, tenant_id, access: Mutex::default(), refresh: Mutex::default() }
    }

    pub(super) fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// Whether somebody of this name can sign in.
    pub(super) fn is_user(&self, user: &str) -> bool {
        holds(&self.options.mailboxes, &folded(user))
    }

    /// Issues an access token, dated by the clock that the caller goes by.
    pub(super) fn access(&self, wanted: Wanted, now: SystemTime) -> String {
        let token = self.jwt(&wanted, now);
        let expires = Instant::now() + wanted.life;
        locked(&self.access).insert(token.clone(), (wanted, expires));
        token
    }

    /// Issues a refresh token for a user, with the shape and about the length of Entra's.
    pub(super) fn refresh(&self, user: &str) -> String {
        let token = format!("1.{}.AgABAwEA{}", unique(24), unique(480));
        locked(&self.refresh).insert(token.clone(), (folded(user), false));
        token
    }

    /// The user of a refresh token, or the AADSTS number that says why it is of no use.
    pub(super) fn redeem(&self, token: &str) -> Result<String, u32> {
        match locked(&self.refresh).get(token) {
            None => Err(70_008),
            Some((_, true)) => Err(50_173),
            Some((user, false)) => Ok(user.clone()),
        }
    }

    /// Revokes refresh tokens by token and user; access tokens live on.
    pub(super) fn revoke_refresh(&self, which: impl Fn(&str, &str) -> bool) {
        for (token, (user, revoked)) in locked(&self.refresh).iter_mut() {
            *revoked |= which(token, user);
        }
    }

    /// Makes the upstream refuse every access token issued so far.
    pub(super) fn revoke_access(&self) {
        locked(&self.access).clear();
    }

    /// Makes the upstream refuse this access token.
    pub(super) fn revoke_one_access(&self, token: &str) {
        locked(&self.access).remove(token);
    }

    /// What a login with this token for this mailbox comes to.
    pub(super) fn login(
        &self,
        token: &str,
        mailbox: &str,
        protocol: Protocol,
    ) -> Result<Grant, LoginFault> {
        let mailbox = folded(mailbox);
        let issued = locked(&self.access);
        let (wanted, expires) = issued.get(token).ok_or(LoginFault::AuthFailed)?;
        let known = holds(&self.options.mailboxes, &mailbox);
        if *expires <= Instant::now() || !wanted.permits(protocol) || !known {
            return Err(LoginFault::AuthFailed);
        }
        if self.switched_off(&mailbox, protocol) {
            return Err(match protocol {
                Protocol::Smtp => LoginFault::SmtpAuthDisabledMailbox,
                // Exchange takes the token, and then has no mailbox for it over this protocol
                Protocol::Imap | Protocol::Pop3 => LoginFault::NotConnected,
            });
        }
        let (principal, expires) = (wanted.principal.clone(), *expires);
        // over SMTP a person logs in as themselves, and names the shared mailbox in MAIL FROM
        let own = principal == Principal::App || principal == Principal::User(mailbox.clone());
        match (self.opens(&principal, &mailbox), protocol) {
            (opens, Protocol::Smtp) if !opens || !own => Err(LoginFault::AuthFailed),
            (true, _) => Ok(Grant { principal, mailbox, expires, fault: None }),
            (false, _) => Err(LoginFault::NotConnected),
        }
    }

    /// Whose token this is, if it is one for Graph. Unlike the mail servers, Graph tells what is wrong.
    pub(super) fn bearer(&self, token: &str) -> Result<Bearer, &'static str> {
        let issued = locked(&self.access);
        let (wanted, expires) = issued.get(token).ok_or("Invalid token.")?;
        if *expires <= Instant::now() {
            return Err("Lifetime validation failed, the token is expired.");
        }
        if wanted.audience.strip_suffix('/').unwrap_or(&wanted.audience) != GRAPH {
            return Err("Access token validation failure. Invalid audience.");
        }
        let (principal, permissions) = (wanted.principal.clone(), wanted.permissions.clone());
        Ok(Bearer { principal, permissions })
    }

    /// The mailbox of a user by address or by object id.
    pub(super) fn mailbox_of(&self, user: &str) -> Option<String> {
        let mut all = self.options.mailboxes.iter().map(|address| folded(address));
        all.find(|address| *address == folded(user) || object_id(address) == user)
    }

    /// A login to a mailbox by way of Graph.
    pub(super) fn graph_login(&self, principal: &Principal, mailbox: &str) -> Option<Grant> {
        let (principal, mailbox) = (principal.clone(), mailbox.to_owned());
        let expires = Instant::now(); // nobody asks: each request shows its token
        self.opens(&principal, &mailbox).then_some(Grant {
            principal,
            mailbox,
            expires,
            fault: None,
        })
    }

    /// Whether mail from this address may be sent by this login.
    pub(super) fn may_send_as(&self, grant: &Grant, sender: &str) -> bool {
        let sender = folded(sender);
        if grant.fault == Some(LoginFault::SendAsDenied) {
            return sender == grant.mailbox;
        }
        let shared = grant.principal != Principal::App && self.opens(&grant.principal, &sender);
        sender == grant.mailbox || shared
    }

    fn opens(&self, principal: &Principal, mailbox: &str) -> bool {
        let (app, mut shared) = (&self.options.app, self.options.shared.iter());
        match principal {
            Principal::App => app.mailboxes.as_ref().is_none_or(|all| holds(all, mailbox)),
            Principal::User(user) if user == mailbox => true,
            Principal::User(user) => {
                shared.any(|s| folded(&s.mailbox) == mailbox && holds(&s.users, user))
            }
        }
    }

    fn switched_off(&self, mailbox: &str, protocol: Protocol) -> bool {
        let mut all = self.options.registration.switched_off.iter();
        all.any(|(own, off)| folded(own) == mailbox && *off == protocol)
    }

    /// Looks like an Entra token for Exchange (version 1.0, as Exchange wants it), a JWT filled up to
    /// the size that was asked for.
    fn jwt(&self, wanted: &Wanted, now: SystemTime) -> String {
        let (app, now) = (&self.options.app, seconds(now));
        let mut claims = json!({
            "aud": wanted.audience,
            "iss": format!("https://sts.windows.net/{}/", self.tenant_id),
            "iat": now,
            "nbf": now,
            "exp": now + wanted.life.as_secs(),
            "appid": app.client_id,
            "appidacr": "1",
            "tid": self.tenant_id,
            "ver": "1.0",
        });
        match &wanted.principal {
            Principal::App => {
                claims["idtyp"] = json!("app");
                claims["oid"] = json!(object_id(&app.client_id));
                // without a role there is no such claim
                if !wanted.permissions.is_empty() {
                    claims["roles"] = json!(wanted.permissions);
                }
            }
            Principal::User(user) => {
                claims["oid"] = json!(object_id(user));
                claims["scp"] = json!(wanted.permissions.join(" "));
                claims["upn"] = json!(user);
                claims["unique_name"] = json!(user);
            }
        }
        claims["sub"] = claims["oid"].clone();
        let length = HEADER.len() * 4 / 3 + 342 + claims.to_string().len() * 4 / 3 + 20;
        let missing = self.options.token_size.saturating_sub(length);
        claims["uti"] = json!(unique(16 + missing * 9 / 16)); // base64 grows by a third twice
        signed(&claims)
    }

    /// Who signed in, as OpenID Connect has it (Core 1.0 section 2).
    pub(super) fn id_token(
        &self,
        user: &str,
        issuer: &str,
        nonce: Option<&str>,
        now: SystemTime,
    ) -> String {
        let now = seconds(now);
        let mut claims = json!({
            "aud": self.options.app.client_id,
            "iss": issuer,
            "iat": now,
            "nbf": now,
            "exp": now + 3_600,
            "oid": object_id(user),
            "sub": object_id(user),
            "tid": self.tenant_id,
            "preferred_username": user,
            "ver": "2.0",
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        signed(&claims)
    }
}

impl Wanted {
    fn permits(&self, protocol: Protocol) -> bool {
        let prefix = match protocol {
            Protocol::Imap => "IMAP.",
            Protocol::Pop3 => "POP.",
            Protocol::Smtp => "SMTP.",
        };
        let mail = self.audience.starts_with("https://outlook.office") || self.audience == GMAIL;
        mail && self.permissions.iter().any(|held| held.starts_with(prefix))
    }
}

fn holds(addresses: &[String], address: &str) -> bool {
    addresses.iter().any(|own| folded(own) == address)
}

/// Addresses are compared without regard to case, as Exchange does.
pub(super) fn folded(address: &str) -> String {
    address.to_ascii_lowercase()
}

/// A JWT of these claims with a signature of a real one's length.
fn signed(claims: &Value) -> String {
    let (header, claims) = (URL_SAFE_NO_PAD.encode(HEADER), claims.to_string());
    format!("{header}.{}.{}", URL_SAFE_NO_PAD.encode(claims), unique(256))
}

/// Seconds since 1970, the dates of a JWT (RFC 7519 section 2).
pub(super) fn seconds(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A random identifier in the form of a GUID.
pub(super) fn guid() -> String {
    guid_of(&random(16))
}

/// The directory's id of a user or an app: the same for the same name.
fn object_id(name: &str) -> String {
    guid_of(digest::digest(&digest::SHA256, name.as_bytes()).as_ref())
}

fn guid_of(octets: &[u8]) -> String {
    let hex: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    let parts = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)];
    parts.join("-")
}

/// Entra's life of an access token: 60 to 90 minutes, 75 on average.
pub(super) fn random_life() -> Duration {
    let chance = random(2).iter().fold(0_u64, |sum, octet| sum << 8 | u64::from(*octet));
    Duration::from_secs(3_600 + chance % 1_801)
}

/// So many random octets, in base64url.
pub(super) fn unique(octets: usize) -> String {
    URL_SAFE_NO_PAD.encode(random(octets))
}

/// A failing random source leaves zeroes. That is harmless here: such tokens can be guessed, and what
/// they open is sample mail on loopback.
pub(super) fn random(octets: usize) -> Vec<u8> {
    let mut bytes = vec![0; octets];
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}
