//! Tokens: who got them, how long they live, and which mailboxes they open.
//!
//! Access tokens look like Entra's (a JWT of real size), but they are looked up, not verified: the
//! emulator knows every token that it ever issued.
//!
//! Invariant: a token that is unknown, expired, revoked or without the protocol's permission opens
//! nothing, and none of these cases can be told apart from outside.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::json;
use tokio::time::Instant;

use super::{LoginFault, Options, Protocol, locked};

/// The delegated permissions for mail.
pub(super) const DELEGATED: [&str; 3] =
    ["IMAP.AccessAsUser.All", "POP.AccessAsUser.All", "SMTP.Send"];

/// The application permissions for mail, all of them consented to.
const ROLES: [&str; 3] = ["IMAP.AccessAsApp", "POP.AccessAsApp", "SMTP.SendAsApp"];

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

/// A login that succeeded.
pub(super) struct Grant {
    principal: Principal,
    pub(super) mailbox: String,
    pub(super) expires: Instant,
}

/// All tokens, and the directory that says what they open.
pub(super) struct Tokens {
    options: Options,
    access: Mutex<HashMap<String, (Wanted, Instant)>>,
    /// Users by token, and whether it is revoked.
    refresh: Mutex<HashMap<String, (String, bool)>>,
}

impl Principal {
    /// Everything that mail needs.
    pub(super) fn mail_permissions(&self) -> Vec<String> {
        let names = if *self == Self::App { ROLES } else { DELEGATED };
        names.map(String::from).to_vec()
    }
}

impl Tokens {
    pub(super) fn new(options: Options) -> Self {
        Self { options, access: Mutex::default(), refresh: Mutex::default() }
    }

    /// Issues an access token.
    pub(super) fn access(&self, wanted: Wanted) -> String {
        let token = self.jwt(&wanted);
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
        let (principal, expires) = (wanted.principal.clone(), *expires);
        // over SMTP a person logs in as themselves, and names the shared mailbox in MAIL FROM
        let own = principal == Principal::App || principal == Principal::User(mailbox.clone());
        match (self.opens(&principal, &mailbox), protocol) {
            (opens, Protocol::Smtp) if !opens || !own => Err(LoginFault::AuthFailed),
            (true, _) => Ok(Grant { principal, mailbox, expires }),
            (false, _) => Err(LoginFault::NotConnected),
        }
    }

    /// Whether mail from this address may be sent by this login.
    pub(super) fn may_send_as(&self, grant: &Grant, sender: &str) -> bool {
        let sender = folded(sender);
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

    /// Looks like an Entra token for Exchange, a JWT filled up to the size that was asked for.
    fn jwt(&self, wanted: &Wanted) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"RS256","kid":"emulated"}"#);
        let app = &self.options.app;
        let mut claims = json!({
            "aud": wanted.audience,
            "iss": format!("https://sts.windows.net/{}/", app.tenant),
            "appid": app.client_id,
            "scp": wanted.permissions.join(" "),
        });
        let signature = unique(256);
        let length = header.len() + signature.len() + claims.to_string().len() * 4 / 3 + 20;
        let missing = self.options.token_size.saturating_sub(length);
        claims["uti"] = json!(unique(16 + missing * 9 / 16)); // base64 grows by a third twice
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }
}

impl Wanted {
    fn permits(&self, protocol: Protocol) -> bool {
        let prefix = match protocol {
            Protocol::Imap => "IMAP.",
            Protocol::Pop3 => "POP.",
            Protocol::Smtp => "SMTP.",
        };
        self.audience.starts_with("https://outlook.office")
            && self.permissions.iter().any(|held| held.starts_with(prefix))
    }
}

fn holds(addresses: &[String], address: &str) -> bool {
    addresses.iter().any(|own| folded(own) == address)
}

/// Addresses are compared without regard to case, as Exchange does.
pub(super) fn folded(address: &str) -> String {
    address.to_ascii_lowercase()
}

/// A random identifier in the form of a GUID.
pub(super) fn guid() -> String {
    let hex: String = random(16).iter().map(|octet| format!("{octet:02x}")).collect();
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
fn unique(octets: usize) -> String {
    URL_SAFE_NO_PAD.encode(random(octets))
}

/// A failing random source leaves zeroes. That is harmless here: such tokens can be guessed, and what
/// they open is sample mail on loopback.
fn random(octets: usize) -> Vec<u8> {
    let mut bytes = vec![0; octets];
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}
