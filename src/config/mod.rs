//! The configuration: TOML in, checked types out.
//!
//! `raw.rs` is the file as it is written, `check.rs` turns it into the types below, `error.rs` says what is
//! wrong and where.
//!
//! Invariant: a [`Config`] is whole: each name that it mentions exists, each address and URL is parsed, and
//! nothing in it has a control character. gatepost never changes the file.

mod check;
mod credential;
mod directory;
mod endpoint;
mod error;
mod guard;
mod listen;
mod listener;
mod named;
mod proxy;
mod raw;
mod redirect;
mod submission;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use url::{Host, Url};

pub use check::DEFAULT_PROVIDER;
use check::Secrets;
pub use credential::{
    ClientCertificate, Credential, KeyFiles, SecretError, SecretSource, SigningAlgorithm,
    read_secret_file,
};
use directory::Directory;
pub use endpoint::Endpoint;
pub use error::ConfigError;
pub use guard::GuardSettings;
pub use listen::ListenAddress;
pub use listener::{CertificateFiles, Listener};
pub use named::read_named_file;
pub use proxy::{Proxy, ProxyServer};
pub use redirect::RedirectUri;
pub use submission::{Device, Limits, SenderRule, SpoolSettings};

use crate::clock::Timestamp;
use crate::confine;
use crate::private_file::{self, Limit, PrivateFileError};
use crate::vocabulary::{Protocol, Resource, Way};

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// The file that it was read from.
    pub file: PathBuf,
    /// Where tokens, passwords and self-made certificates live.
    pub state_dir: PathBuf,
    /// The sealing key's file, if it is not the one in `state_dir`.
    pub key_file: Option<PathBuf>,
    /// Where clients connect.
    pub listeners: Vec<Arc<Listener>>,
    /// The app registrations, by name.
    pub apps: Vec<Arc<App>>,
    /// The mailboxes.
    pub accounts: Vec<Arc<Account>>,
    /// Who may hand over mail without a login.
    pub devices: Vec<Arc<Device>>,
    /// Where mail waits that gatepost has taken.
    pub spool: SpoolSettings,
    /// What holds back those who guess, and those who only wait.
    pub guard: GuardSettings,
    /// The command that is run when a person must act, with its first arguments; empty: none.
    pub on_attention: Vec<String>,
    /// By which proxy the providers are reached.
    pub proxy: Proxy,
    /// Whether the running process is confined.
    pub confine: bool,
    /// How many connections to each mail server may stand ready for the next login.
    pub spare_connections: usize,
    /// Where some keys stand in the file.
    pub lines: Lines,
    /// The accounts by what clients call them.
    directory: Directory,
    /// Also of apps that no account has.
    secret_variables: Vec<String>,
    /// Also of those.
    files: Vec<PathBuf>,
}

/// The lines of keys that are refused by what is known later than at the reading; none: they are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Of `state_dir`.
    pub state_dir: Option<usize>,
    /// Of `key` below `[store]`.
    pub key: Option<usize>,
}

/// An `[[account]]`: a mailbox and how to get a token for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user name that the client logs in with, and whose mailbox is opened. `*@DOMAIN` stands for every
    /// mailbox of a domain; [`Config::account`] gives the one that is meant.
    pub mailbox: String,
    /// Other user names for it.
    pub aliases: Vec<String>,
    /// How to get its tokens.
    pub app: Arc<App>,
    /// Whose token opens it, if not its own (a shared mailbox).
    pub signed_in_as: Option<String>,
    /// How its spooled mail goes out: the next way is for when one is refused for good.
    pub via: Vec<Way>,
    /// Who is told of spooled mail that can't be delivered.
    pub notify: Option<String>,
    /// In whose name its spooled mail is sent.
    pub sender: SenderRule,
    /// What it may do at the provider's SMTP server.
    pub limits: Limits,
}

/// An `[app.NAME]`: an app registration.
#[derive(Debug, PartialEq, Eq)]
pub struct App {
    /// NAME.
    pub name: String,
    /// Where it is registered.
    pub provider: Arc<Provider>,
    /// The tenant; `organizations` for people's sign-ins without one.
    pub tenant: String,
    /// The token endpoint, its tenant filled in.
    pub token_url: Url,
    /// Where a browser signs in, its tenant filled in.
    pub authorize_url: Option<Url>,
    /// Where a device code comes from, its tenant filled in.
    pub device_url: Option<Url>,
    /// Where a token is revoked, its tenant filled in.
    pub revoke_url: Option<Url>,
    /// The application (client) id; empty for a system-assigned managed identity.
    pub client_id: String,
    /// What it authenticates with; public clients have nothing.
    pub credential: Option<Credential>,
    /// When the client secret ends, if the configuration tells.
    pub secret_expires: Option<Timestamp>,
    /// Where a browser is sent back to.
    pub redirect_uri: RedirectUri,
    /// How it gets tokens.
    pub grant: Grant,
    /// What it asks for.
    pub scopes: Vec<String>,
}

impl App {
    /// What a token for `resource` is asked for with; empty: this app has none for it.
    pub fn scopes_of(&self, resource: Resource) -> &[String] {
        match (resource, self.grant) {
            (Resource::Mail, _) => &self.scopes,
            // Google's.
            (Resource::Graph, Grant::JwtBearer) => &[],
            (Resource::Graph, grant) if grant.is_delegated() => &self.provider.graph_scopes,
            (Resource::Graph, _) => &self.provider.graph_app_scopes,
        }
    }
}

/// How an app registration gets tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// A person signs in with a browser (RFC 6749 section 4.1), later refresh tokens.
    #[default]
    AuthorizationCode,
    /// A person signs in on another device (RFC 8628), later refresh tokens.
    DeviceCode,
    /// The app itself, without a person (RFC 6749 section 4.4).
    ClientCredentials,
    /// A service account on behalf of each mailbox (RFC 7523 section 2.1): Google's domain-wide delegation.
    JwtBearer,
    /// The identity of the virtual machine or container that gatepost runs on (Azure's IMDS).
    ManagedIdentity,
}

impl Grant {
    /// Whether a person signs in, and refresh tokens follow.
    pub fn is_delegated(self) -> bool {
        matches!(self, Self::AuthorizationCode | Self::DeviceCode)
    }

    /// Whether a token is one person's or mailbox's, and not the app's own.
    pub fn is_personal(self) -> bool {
        self.is_delegated() || self == Self::JwtBearer
    }

    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::DeviceCode => "device_code",
            Self::ClientCredentials => "client_credentials",
            Self::JwtBearer => "jwt_bearer",
            Self::ManagedIdentity => "managed_identity",
        }
    }
}

/// A `[provider.NAME]` or a built-in one.
#[derive(Debug, PartialEq, Eq)]
pub struct Provider {
    /// NAME.
    pub name: String,
    /// The token endpoint, `{tenant}` not filled in. Two providers with the same one trust each other's
    /// tokens.
    pub token_url: String,
    /// Where a browser signs in, `{tenant}` not filled in.
    pub authorize_url: Option<String>,
    /// Where a device code comes from, `{tenant}` not filled in.
    pub device_url: Option<String>,
    /// Where a token is revoked (RFC 7009), `{tenant}` not filled in.
    pub revoke_url: Option<String>,
    /// Where a managed identity gets its tokens.
    pub identity_url: Option<Url>,
    /// Who answers a sign-in (RFC 9207); none: anybody at the origin of `authorize_url`.
    pub issuer: Option<String>,
    /// More parameters of the authorization request.
    pub authorize_parameters: BTreeMap<String, String>,
    /// Where an administrator consents to an app, `{tenant}` not filled in.
    pub consent_url: Option<String>,
    /// What a consent is asked for.
    pub consent_scope: Option<String>,
    /// Where app registrations are made, for people.
    pub portal: Option<String>,
    /// Name of the cloud for `Connect-MgGraph -Environment`.
    pub graph_environment: Option<String>,
    /// Name of the cloud for `Connect-ExchangeOnline -ExchangeEnvironmentName`.
    pub exchange_environment: Option<String>,
    /// The IMAP server.
    pub imap: Option<Endpoint>,
    /// The POP3 server.
    pub pop3: Option<Endpoint>,
    /// The SMTP submission server.
    pub smtp: Option<Endpoint>,
    /// Microsoft Graph, up to its version.
    pub graph: Option<Url>,
    /// Scopes of delegated grants.
    pub scopes: Vec<String>,
    /// Scopes of client credentials.
    pub app_scopes: Vec<String>,
    /// Scopes of delegated grants for Microsoft Graph, which is another resource.
    pub graph_scopes: Vec<String>,
    /// Scopes of client credentials for Microsoft Graph.
    pub graph_app_scopes: Vec<String>,
    /// What a mailbox may do at its SMTP server.
    pub limits: Limits,
    /// Certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// By which proxy it is reached: the one of [`Config`].
    pub proxy: Proxy,
}

impl Provider {
    /// Its server for `protocol`.
    pub fn endpoint(&self, protocol: Protocol) -> Option<&Endpoint> {
        match protocol {
            Protocol::Imap => self.imap.as_ref(),
            Protocol::Pop3 => self.pop3.as_ref(),
            Protocol::Smtp => self.smtp.as_ref(),
        }
    }

    /// Whether a token from `other` may be shown to this provider's servers.
    pub fn shares_tokens_with(&self, other: &Self) -> bool {
        self.token_url == other.token_url
    }
}

impl Account {
    /// Whether its spooled mail may go by this way.
    pub fn goes_by(&self, way: Way) -> bool {
        self.via.contains(&way)
    }

    /// The user in XOAUTH2. Exchange opens a shared mailbox by its own name in IMAP and POP3, but in
    /// SMTP the person who signed in submits for it.
    pub fn xoauth2_user(&self, protocol: Protocol) -> &str {
        match (&self.signed_in_as, protocol) {
            (Some(person), Protocol::Smtp) if self.app.grant.is_personal() => person,
            _ => &self.mailbox,
        }
    }

    /// Whether `user`, as a client sent it, is a name of this account: letter case does not matter.
    pub fn answers_to(&self, user: &str) -> bool {
        let user = user.to_lowercase();
        let names = std::iter::once(&self.mailbox).chain(&self.aliases);
        // All of them, found or not: the time tells nobody which names there are.
        names.fold(false, |found, name| found | (name.to_lowercase() == user))
    }

    /// The domain, if this stands for all of its mailboxes.
    pub fn pattern(&self) -> Option<&str> {
        self.mailbox.strip_prefix("*@")
    }

    /// Whether `mailbox` is this account's, or one of those that it stands for.
    pub fn covers(&self, mailbox: &str) -> bool {
        match (self.pattern(), mailbox.rsplit_once('@')) {
            (Some(domain), Some((name, of))) => {
                !matches!(name, "" | "*") && of.eq_ignore_ascii_case(domain)
            }
            _ => self.answers_to(mailbox),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::within_reach(file, &text(file, private_file::read_passed)?)
    }

    /// The same again, while gatepost runs: what is no regular file is not even opened.
    pub fn load_again(file: &Path) -> Result<Self, ConfigError> {
        Self::within_reach(file, &text(file, private_file::read_regular)?)
    }

    fn within_reach(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let config = check::check(file, text, Secrets::Read)?;
        match config.files.iter().find(|path| confine::forbids(path)) {
            None => Ok(config),
            Some(path) => {
                let problem = format!("{}: {}", path.display(), confine::OUTSIDE);
                let remedy = "systemctl restart gatepost";
                Err(ConfigError::new(file, None, "", problem, remedy))
            }
        }
    }

    /// The same but for the client secrets, for what asks for no token: whoever adds a password need not have
    /// them at hand.
    pub fn load_without_secrets(file: &Path) -> Result<Self, ConfigError> {
        check::check(file, &text(file, private_file::read_passed)?, Secrets::Leave)
    }

    /// Checks the text of a file. Relative paths in it are relative to the file's folder.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        check::check(file, text, Secrets::Read)
    }

    /// The same but for the client secrets, of which no file or variable is read.
    pub fn parse_without_secrets(file: &Path, text: &str) -> Result<Self, ConfigError> {
        check::check(file, text, Secrets::Leave)
    }

    /// Variables of the environment that hold a secret.
    pub fn secret_variables(&self) -> Vec<String> {
        self.secret_variables.clone()
    }

    /// The files that it is read from, and those that it names.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The providers that can be named without a table of their own, by name.
    pub fn built_in_providers() -> Result<BTreeMap<String, Arc<Provider>>, ConfigError> {
        check::built_in()
    }

    /// The account that `user` means: by its own names, then as old clients name a shared mailbox, then by a
    /// pattern, of which the mailbox is then the one that was named.
    pub fn account(&self, user: &str) -> Option<Arc<Account>> {
        let (owner, old_style) = (self.owner(user), self.directory.named_in_old_style(user));
        let pattern = owner.filter(|account| account.pattern().is_some());
        let named = owner.filter(|account| account.pattern().is_none());
        if let Some(account) = named.or(old_style) {
            return Some(Arc::clone(account));
        }
        let pattern = Account::clone(pattern?);
        Some(Arc::new(Account { mailbox: user.to_lowercase(), ..pattern }))
    }

    /// The account of the file that has `mailbox`, which is a pattern if no other has it by its own name.
    pub fn owner(&self, mailbox: &str) -> Option<&Arc<Account>> {
        self.directory.owner(mailbox)
    }

    /// Whether this account stands in the file as it is, and is not one mailbox of a pattern.
    pub fn lists(&self, account: &Arc<Account>) -> bool {
        let listed = self.directory.named(&account.mailbox);
        listed.is_some_and(|listed| Arc::ptr_eq(listed, account))
    }

    /// The device at this address: the one of the narrowest network.
    pub fn device(&self, peer: IpAddr) -> Option<&Arc<Device>> {
        let at = self.devices.iter().filter_map(|device| Some((device.prefix_at(peer)?, device)));
        // Of two with equal networks the first one of the file.
        at.rev().max_by_key(|(prefix, _)| *prefix).map(|(_, device)| device)
    }
}

/// Whether a URL is of this machine: loopback, or the link-local address at which a cloud serves its machines (RFC
/// 3927), where no TLS is to be had and nobody else listens.
pub fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_link_local(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

type Read = fn(&Path, Limit) -> Result<Vec<u8>, PrivateFileError>;

fn text(file: &Path, read: Read) -> Result<String, ConfigError> {
    let octets = read(file, Limit::CONFIGURATION);
    let octets = octets.map_err(|error| ConfigError::unreadable(file, &error))?;
    String::from_utf8(octets).map_err(|_| {
        let remedy = "write it in UTF-8";
        ConfigError::new(file, None, "", "it is no UTF-8 text", remedy)
    })
}
