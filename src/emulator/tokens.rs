//! Tokens: who got them, how long they live, and which mailboxes they open.
//!
//! Access tokens look like Entra's (a JWT of real size), but they are looked up, not verified: the
//! emulator knows every token that it ever issued.
//!
//! Invariant: a token that is unknown, expired, revoked or without the protocol's permission opens
//! nothing, and none of these cases can be told apart from outside.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Options, Protocol};

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Principal {
    /// The app itself (client credentials).
    App,
    /// A user who signed in (delegated).
    User(String),
}

/// What is asked of an access token.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) principal: Principal,
    /// The resource, `https://outlook.office.com` for mail.
    pub(super) audience: String,
    /// Short names of delegated scopes or application roles, `IMAP.AccessAsUser.All`.
    pub(super) permissions: Vec<String>,
    pub(super) life: Duration,
}

/// What the upstream thinks of a token and a mailbox.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Open(Grant),
    /// The token is good, but the mailbox is not this token's.
    NotConnected,
    Refused,
}

/// A login that succeeded.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) principal: Principal,
    pub(super) mailbox: String,
    pub(super) expires: Instant,
}

/// Why a refresh token is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadRefresh {
    Unknown,
    Revoked,
}

/// All tokens, and the directory that says what they open.
pub(super) struct Tokens {
    tenant: String,
    client_id: String,
    size: usize,
    mailboxes: HashSet<String>,
    app_mailboxes: Option<HashSet<String>>,
    shared: HashSet<(String, String)>,
    issued: Mutex<Issued>,
}

#[derive(Default)]
struct Issued {
    access: HashMap<String, Access>,
    refresh: HashMap<String, Refresh>,
}

struct Access {
    wanted: Wanted,
    expires: Instant,
    revoked: bool,
}

struct Refresh {
    user: String,
    revoked: bool,
}

impl Tokens {
    pub(super) fn new(options: &Options) -> Self {
        let shared = options.shared.iter();
        let shared =
            shared.flat_map(|s| s.users.iter().map(|user| (folded(&s.mailbox), folded(user))));
        Self {
            tenant: options.app.tenant.clone(),
            client_id: options.app.client_id.clone(),
            size: options.token_size,
            mailboxes: options.mailboxes.iter().map(|m| folded(m)).collect(),
            app_mailboxes: options
                .app
                .mailboxes
                .as_ref()
                .map(|all| all.iter().map(|m| folded(m)).collect()),
            shared: shared.collect(),
            issued: Mutex::default(),
        }
    }

    /// Issues an access token.
    pub(super) fn access(&self, wanted: Wanted) -> String {
        let token = self.jwt(&wanted);
        let expires = Instant::now() + wanted.life;
        self.issued().access.insert(token.clone(), Access { wanted, expires, revoked: false });
        token
    }

    /// Issues a refresh token for a user.
    pub(super) fn refresh(&self, user: &str) -> String {
        // the shape and about the length of Entra's, which are opaque
        let token = format!("1.{}.AgABAwEA{}", unique(24), unique(480));
        self.issued().refresh.insert(token.clone(), Refresh { user: folded(user), revoked: false });
        token
    }

    /// The user of a refresh token.
    pub(super) fn redeem(&self, token: &str) -> Result<String, BadRefresh> {
        match self.issued().refresh.get(token) {
            None => Err(BadRefresh::Unknown),
            Some(refresh) if refresh.revoked => Err(BadRefresh::Revoked),
            Some(refresh) => Ok(refresh.user.clone()),
        }
    }

    pub(super) fn revoke_refresh(&self, token: &str) {
        if let Some(refresh) = self.issued().refresh.get_mut(token) {
            refresh.revoked = true;
        }
    }

    /// As a password change does: the user's refresh tokens die, access tokens live on.
    pub(super) fn revoke_refresh_of(&self, user: &str) {
        let user = folded(user);
        for refresh in self.issued().refresh.values_mut().filter(|refresh| refresh.user == user) {
            refresh.revoked = true;
        }
    }

    /// Makes the upstream refuse every access token issued so far.
    pub(super) fn revoke_access(&self) {
        for access in self.issued().access.values_mut() {
            access.revoked = true;
        }
    }

    /// What a login with this token for this mailbox comes to.
    pub(super) fn verdict(&self, token: &str, mailbox: &str, protocol: Protocol) -> Verdict {
        let mailbox = folded(mailbox);
        let issued = self.issued();
        let Some(access) = issued.access.get(token) else { return Verdict::Refused };
        let live = !access.revoked && access.expires > Instant::now();
        let for_mail = access.wanted.audience.starts_with("https://outlook.office");
        if !live
            || !for_mail
            || !access.wanted.permits(protocol)
            || !self.mailboxes.contains(&mailbox)
        {
            return Verdict::Refused;
        }
        let principal = access.wanted.principal.clone();
        // over SMTP a person logs in as themselves, and names the shared mailbox in MAIL FROM
        let opens = match (&principal, protocol) {
            (Principal::User(user), Protocol::Smtp) => *user == mailbox,
            _ => self.opens(&principal, &mailbox),
        };
        match (opens, protocol) {
            (true, _) => Verdict::Open(Grant { principal, mailbox, expires: access.expires }),
            (false, Protocol::Smtp) => Verdict::Refused,
            (false, _) => Verdict::NotConnected,
        }
    }

    /// Whether mail from this address may be sent by this login.
    pub(super) fn may_send_as(&self, grant: &Grant, sender: &str) -> bool {
        let sender = folded(sender);
        sender == grant.mailbox
            || matches!(grant.principal, Principal::User(_))
                && self.opens(&grant.principal, &sender)
    }

    fn opens(&self, principal: &Principal, mailbox: &str) -> bool {
        match principal {
            Principal::App => self.app_mailboxes.as_ref().is_none_or(|all| all.contains(mailbox)),
            Principal::User(user) => {
                user == mailbox || self.shared.contains(&(mailbox.to_owned(), user.clone()))
            }
        }
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Header, payload and signature like those of an Entra v1.0 token for Exchange.
    fn jwt(&self, wanted: &Wanted) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let header =
            json!({ "typ": "JWT", "nonce": unique(32), "alg": "RS256", "kid": unique(20) });
        let mut claims = json!({
            "aud": wanted.audience,
            "iss": format!("https://sts.windows.net/{}/", self.tenant),
            "iat": now,
            "nbf": now,
            "exp": now + wanted.life.as_secs(),
            "appid": self.client_id,
            "tid": self.tenant,
            "uti": unique(16),
            "ver": "1.0",
        });
        let permissions = match &wanted.principal {
            Principal::App => [("idtyp", json!("app")), ("roles", json!(wanted.permissions))],
            Principal::User(user) => {
                [("upn", json!(user)), ("scp", json!(wanted.permissions.join(" ")))]
            }
        };
        for (name, value) in permissions {
            set(&mut claims, name, value);
        }
        let signature = unique(256);
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        let length = header.len() + signature.len() + claims.to_string().len() * 4 / 3 + 2;
        // filled up with one more claim, as base64 grows by a third twice
        set(&mut claims, "xms_ftd", json!(unique(self.size.saturating_sub(length) * 9 / 16)));
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }
}

impl Wanted {
    fn permits(&self, protocol: Protocol) -> bool {
        let names = match protocol {
            Protocol::Imap => ["IMAP.AccessAsUser.All", "IMAP.AccessAsApp"],
            Protocol::Pop3 => ["POP.AccessAsUser.All", "POP.AccessAsApp"],
            Protocol::Smtp => ["SMTP.Send", "SMTP.SendAsApp"],
        };
        self.permissions.iter().any(|held| names.iter().any(|name| held.eq_ignore_ascii_case(name)))
    }
}

/// Addresses are compared without regard to case, as Exchange does.
pub(super) fn folded(address: &str) -> String {
    address.to_ascii_lowercase()
}

/// So many random octets, in base64url.
fn unique(octets: usize) -> String {
    URL_SAFE_NO_PAD.encode(random(octets))
}

/// A random identifier in the form of a GUID.
pub(super) fn guid() -> String {
    let mut text = String::new();
    for (index, octet) in random(16).into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{octet:02x}");
    }
    text
}

/// A failing random source leaves zeroes. That is harmless here: such tokens can be guessed, and what
/// they open is sample mail on loopback.
fn random(octets: usize) -> Vec<u8> {
    let mut bytes = vec![0; octets];
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}

/// Entra's life of an access token: 60 to 90 minutes, 75 on average.
pub(super) fn random_life() -> Duration {
    let chance = random(2).iter().fold(0_u64, |sum, octet| sum << 8 | u64::from(*octet));
    Duration::from_secs(3_600 + chance % 1_801)
}

fn set(claims: &mut Value, name: &str, value: Value) {
    if let Some(claims) = claims.as_object_mut() {
        claims.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(principal: Principal) -> Wanted {
        Wanted {
            principal,
            audience: "https://outlook.office.com".into(),
            permissions: vec!["IMAP.AccessAsUser.All".into()],
            life: Duration::from_secs(60),
        }
    }

    #[test]
    fn tokens_have_the_size_that_was_asked_for() {
        for size in [1_500, 1_800, 2_500, 4_200] {
            let tokens = Tokens::new(&Options { token_size: size, ..Options::default() });
            let token = tokens.access(wanted(Principal::App));
            assert!(token.len().abs_diff(size) < 20, "{} is not about {size}", token.len());
            assert_eq!(token.split('.').count(), 3);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_opens_what_it_may_while_it_lives() {
        let tokens = Tokens::new(&Options::default());
        let token = tokens.access(wanted(Principal::User("jane@contoso.example".into())));
        let verdict = |mailbox, protocol| tokens.verdict(&token, mailbox, protocol);
        assert!(matches!(verdict("Jane@Contoso.example", Protocol::Imap), Verdict::Open(_)));
        assert!(matches!(
            verdict("support@contoso.example", Protocol::Imap),
            Verdict::NotConnected
        ));
        assert!(matches!(verdict("nobody@contoso.example", Protocol::Imap), Verdict::Refused));
        assert!(matches!(verdict("jane@contoso.example", Protocol::Pop3), Verdict::Refused));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(matches!(verdict("jane@contoso.example", Protocol::Imap), Verdict::Refused));
    }
}
