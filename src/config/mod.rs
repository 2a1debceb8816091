//! The configuration: TOML in, checked types out.
//!
//! `raw.rs` is the file as it is written, `check.rs` turns it into the types below, `error.rs` says what is
//! wrong and where.
//!
//! Invariant: a [`Config`] is whole: each name that it mentions exists, each address and URL is parsed, and
//! nothing in it has a control character. gatepost never writes the file.

mod check;
mod endpoint;
mod error;
mod listen;
mod raw;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use url::Url;

use check::Secrets;
pub use endpoint::Endpoint;
pub use error::ConfigError;
pub use listen::ListenAddress;

use crate::secret::Secret;
use crate::vocabulary::{Protocol, TlsMode};

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
    /// The mailboxes.
    pub accounts: Vec<Arc<Account>>,
}

/// A `[[listener]]`.
#[derive(Debug)]
pub struct Listener {
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Where it listens.
    pub addresses: Vec<ListenAddress>,
    /// How TLS begins on it.
    pub tls: TlsMode,
    /// Whose servers it leads to.
    pub provider: Arc<Provider>,
    /// Of `provider`, for this protocol.
    pub upstream: Endpoint,
    /// Certificate chain and private key (PEM), if not self-made.
    pub certificate: Option<CertificateFiles>,
    /// The line of the file where it begins.
    pub line: usize,
}

/// A certificate of an administrator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub private_key: PathBuf,
}

/// An `[[account]]`: a mailbox and how to get a token for it.
#[derive(Debug)]
pub struct Account {
    /// The user name that the client logs in with, and whose mailbox is opened.
    pub mailbox: String,
    /// Other user names for it.
    pub aliases: Vec<String>,
    /// How to get its tokens.
    pub app: Arc<App>,
    /// Whose token opens it, if not its own (a shared mailbox).
    pub signed_in_as: Option<String>,
}

/// An `[app.NAME]`: an app registration.
#[derive(Debug)]
pub struct App {
    /// NAME.
    pub name: String,
    /// Where it is registered.
    pub provider: Arc<Provider>,
    /// The token endpoint, its tenant filled in.
    pub token_url: Url,
    /// The application (client) id.
    pub client_id: String,
    /// The client secret, if it has one.
    pub client_secret: Option<Secret<String>>,
    /// How it gets tokens.
    pub grant: Grant,
    /// What it asks for.
    pub scopes: Vec<String>,
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
}

/// A `[provider.NAME]` or a built-in one.
#[derive(Debug)]
pub struct Provider {
    /// NAME.
    pub name: String,
    /// The token endpoint, `{tenant}` not filled in. Two providers with the same one trust each other's
    /// tokens.
    pub token_url: String,
    /// The IMAP server.
    pub imap: Option<Endpoint>,
    /// The POP3 server.
    pub pop3: Option<Endpoint>,
    /// The SMTP submission server.
    pub smtp: Option<Endpoint>,
    /// Scopes of delegated grants.
    pub scopes: Vec<String>,
    /// Scopes of client credentials.
    pub app_scopes: Vec<String>,
    /// Certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
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
    /// The user in XOAUTH2. Exchange opens a shared mailbox by its own name in IMAP and POP3, but in
    /// SMTP the person who signed in submits for it.
    pub fn xoauth2_user(&self, protocol: Protocol) -> &str {
        match (&self.signed_in_as, protocol, self.app.grant) {
            (Some(person), Protocol::Smtp, Grant::AuthorizationCode | Grant::DeviceCode) => person,
            _ => &self.mailbox,
        }
    }

    /// Whether `user`, as a client sent it, means this account: letter case does not matter.
    pub fn answers_to(&self, user: &str) -> bool {
        let user = user.to_lowercase();
        std::iter::once(&self.mailbox).chain(&self.aliases).any(|name| name.to_lowercase() == user)
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        check::check(file, &read(file)?, Secrets::Read)
    }

    /// The same but for the client secrets, for what asks for no token: whoever adds a password need not have
    /// them at hand.
    pub fn load_without_secrets(file: &Path) -> Result<Self, ConfigError> {
        check::check(file, &read(file)?, Secrets::Leave)
    }

    /// Checks the text of a file. Relative paths in it are relative to the file's folder.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        check::check(file, text, Secrets::Read)
    }

    /// The account that `user` means.
    pub fn account(&self, user: &str) -> Option<&Arc<Account>> {
        self.accounts.iter().find(|account| account.answers_to(user))
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|error| ConfigError::unreadable(file, &error))
}
