//! What to emulate: the tenant, its one app registration, and the mailboxes.
//!
//! Invariant: the defaults are a tenant in which everything works.

use std::time::Duration;

use super::{
    Protocol,
    tokens::{DELEGATED, GRAPH_DELEGATED, GRAPH_ROLES, ROLES},
};

/// What to emulate.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of the mailboxes, each with a few sample messages; their owners are the users.
    pub mailboxes: Vec<String>,
    /// Who else may open a mailbox and send as it, with a delegated token.
    pub shared: Vec<Shared>,
    /// The one app registration.
    pub app: App,
    /// What the administrator has set for that app, beyond its names.
    pub registration: Registration,
    /// Life of an access token; `None` is as Entra does it, 3,600 to 5,400 s at random.
    pub token_life: Option<Duration>,
    /// About how long an access token is, in octets. Real ones are 1.5 to 2.5 KB.
    pub token_size: usize,
    /// Whether a refresh revokes the refresh token that it used. Entra lets the old one live on.
    pub revoke_used_refresh_tokens: bool,
    /// A mail session with no traffic for so long is closed.
    pub idle_timeout: Duration,
    /// EHLO keywords that the SMTP server does without, in capitals; their commands work all the same.
    pub smtp_without: Vec<String>,
    /// Concurrent SMTP sessions of one mailbox before Exchange answers 432.
    pub smtp_connections: usize,
    /// Messages that a mailbox may submit in [`Self::smtp_minute`]; 0 is no limit.
    pub smtp_messages_per_minute: usize,
    /// How long that minute is, and it slides. Shorter for tests that would have to wait.
    pub smtp_minute: Duration,
    /// Recipients to which a mailbox may send in 24 hours.
    pub smtp_recipients_per_day: usize,
    /// Requests to Graph for one mailbox at the same time before it answers 429.
    pub graph_requests: usize,
    /// Fixed ports; 0 is any free one.
    pub ports: Ports,
}

/// An app registration in the emulated tenant.
#[derive(Clone, Debug)]
pub struct App {
    /// Tenant name, the first part of the token endpoint's path.
    pub tenant: String,
    /// Application (client) id.
    pub client_id: String,
    /// Client secret: `client_credentials` needs it; a refresh may do without, as a public client.
    pub client_secret: String,
    /// Mailboxes that an app-only token opens; `None` is all of them.
    pub mailboxes: Option<Vec<String>>,
}

/// How the app is registered, and what was consented to.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Redirect URIs. As Entra does it, the port does not matter for `http://localhost` and
    /// `http://127.0.0.1` (RFC 8252 section 7.3); everything else must be the same to the octet.
    pub redirect_uris: Vec<String>,
    /// "Allow public client flows": users' grants may do without a secret or certificate.
    pub public_client: bool,
    /// Whether a sign-in without a `code_challenge` is refused.
    pub require_pkce: bool,
    /// Whether a sign-in ends with RFC 9207's `iss`. Entra's does not.
    pub issuer_parameter: bool,
    /// Life of an authorization code.
    pub code_life: Duration,
    /// Life of a device code.
    pub device_code_life: Duration,
    /// How long a device has to wait between two polls.
    pub device_interval: Duration,
    /// Certificates that client assertions may be signed with, in PEM, RSA keys.
    pub certificates: Vec<String>,
    /// Other issuers whose tokens are taken as the app's.
    pub federated: Vec<Federated>,
    /// Accounts that may ask for a user's token in Google's manner (RFC 7523 section 2.1).
    pub service_accounts: Vec<ServiceAccount>,
    /// Application permissions with an admin's consent, Exchange's.
    pub roles: Vec<String>,
    /// Delegated permissions consented to, Exchange's.
    pub consented: Vec<String>,
    /// Application permissions with an admin's consent, Graph's.
    pub graph_roles: Vec<String>,
    /// Delegated permissions consented to, Graph's.
    pub graph_consented: Vec<String>,
    /// Protocols that are switched off for a mailbox.
    pub switched_off: Vec<(String, Protocol)>,
}

/// A federated credential: whose tokens are taken for the app's own. The emulator has no key of that
/// issuer, so it checks the claims and not the signature.
#[derive(Clone, Debug)]
pub struct Federated {
    /// The token's `iss`.
    pub issuer: String,
    /// The token's `sub`.
    pub subject: String,
    /// The token's `aud`, or one of them.
    pub audience: String,
}

/// A service account that may speak for every user of the tenant.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// The assertion's `iss`.
    pub email: String,
    /// Its RSA key, `-----BEGIN PUBLIC KEY-----`.
    pub public_key_pem: String,
}

/// A shared mailbox and the users who have full access to it.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The mailbox, one of [`Options::mailboxes`].
    pub mailbox: String,
    /// Users who may open it and send as it.
    pub users: Vec<String>,
}

/// Ports to listen on; 0 is any free one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    /// IMAP with STARTTLS.
    pub imap: u16,
    /// IMAP over TLS.
    pub imaps: u16,
    /// POP3 with STLS.
    pub pop3: u16,
    /// POP3 over TLS.
    pub pop3s: u16,
    /// SMTP with STARTTLS.
    pub smtp: u16,
    /// SMTP over TLS; Exchange Online has none, others do.
    pub smtps: u16,
    /// The token endpoint, plain HTTP.
    pub token: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mailboxes: vec!["jane@contoso.example".into(), "support@contoso.example".into()],
            shared: Vec::new(),
            app: App {
                tenant: "contoso.example".into(),
                client_id: "5e1f0a3c-6d1b-4f0e-9a57-0c1d5b7e2f44".into(),
                client_secret: "emulated-secret".into(),
                mailboxes: None,
            },
            registration: Registration::default(),
            token_life: None,
            token_size: 1_800,
            revoke_used_refresh_tokens: false,
            // RFC 3501 section 5.4: an autologout timer of at least 30 minutes
            idle_timeout: Duration::from_secs(30 * 60),
            // Exchange Online's documented limits: of SMTP client submission the first two, of every
            // mailbox the last
            smtp_without: Vec::new(),
            smtp_connections: 3,
            smtp_messages_per_minute: 30,
            smtp_minute: Duration::from_secs(60),
            smtp_recipients_per_day: 10_000,
            // the documented `MailboxConcurrency` of Graph's Outlook service
            graph_requests: 4,
            ports: Ports::default(),
        }
    }
}

impl Default for Registration {
    fn default() -> Self {
        Self {
            redirect_uris: vec!["http://localhost".into()],
            public_client: true,
            require_pkce: true,
            issuer_parameter: false,
            // RFC 6749 section 4.1.2 recommends no more, and Entra says the same of its own
            code_life: Duration::from_secs(600),
            // as Entra answers today
            device_code_life: Duration::from_secs(900),
            // RFC 8628 section 3.2: what a client assumes if it is told nothing
            device_interval: Duration::from_secs(5),
            certificates: Vec::new(),
            federated: Vec::new(),
            service_accounts: Vec::new(),
            roles: ROLES.map(String::from).to_vec(),
            consented: DELEGATED.map(String::from).to_vec(),
            graph_roles: GRAPH_ROLES.map(String::from).to_vec(),
            graph_consented: GRAPH_DELEGATED.map(String::from).to_vec(),
            switched_off: Vec::new(),
        }
    }
}
