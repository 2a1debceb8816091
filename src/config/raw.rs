//! The configuration as it is written: one struct per table, unknown keys refused.
//!
//! Values that are checked further carry their place in the file (`Spanned`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

use super::{Grant, SigningAlgorithm};
use crate::vocabulary::{BareLf, Delivery, Protocol, TlsMode, Way};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) state_dir: Option<Spanned<PathBuf>>,
    pub(super) on_attention: Option<Spanned<Vec<String>>>,
    pub(super) proxy: Option<Spanned<Proxy>>,
    pub(super) confine: Option<bool>,
    pub(super) spare_connections: Option<Spanned<usize>>,
    #[serde(default)]
    pub(super) store: Store,
    #[serde(default)]
    pub(super) listener: Vec<Spanned<Listener>>,
    #[serde(default)]
    pub(super) app: BTreeMap<String, Spanned<App>>,
    #[serde(default)]
    pub(super) account: Vec<Spanned<Account>>,
    #[serde(default)]
    pub(super) device: Vec<Spanned<Device>>,
    #[serde(default)]
    pub(super) spool: Spool,
    #[serde(default)]
    pub(super) guard: Guard,
    #[serde(default)]
    pub(super) provider: BTreeMap<String, Spanned<Provider>>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "\"http://HOST:PORT\", \"none\", or a table { url = \"…\", user = \"…\", password = { file = \"…\" } }"
)]
pub(super) enum Proxy {
    Word(String),
    Server(ProxyServer),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyServer {
    pub(super) url: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<SecretSource>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Store {
    pub(super) url: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<StoreKey>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{ file = \"PATH\" } or { credential = \"NAME\" }")]
pub(super) struct StoreKey {
    pub(super) file: Option<PathBuf>,
    pub(super) credential: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyFile {
    pub(super) file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub(super) protocol: Protocol,
    pub(super) listen: Spanned<OneOrMany>,
    #[serde(default)]
    pub(super) tls: TlsMode,
    pub(super) provider: Option<Spanned<String>>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) private_key: Option<PathBuf>,
    pub(super) names: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    pub(super) allow_plaintext_lan: bool,
    pub(super) proxy_protocol: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) delivery: Option<Spanned<Delivery>>,
    pub(super) bare_lf: Option<Spanned<BareLf>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "an address like \"127.0.0.1:1143\", or a list of them")]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct App {
    pub(super) provider: Option<Spanned<String>>,
    pub(super) tenant: Option<Spanned<String>>,
    pub(super) client_id: Option<Spanned<String>>,
    pub(super) client_secret: Option<Spanned<SecretSource>>,
    pub(super) client_secret_expires: Option<Spanned<Datetime>>,
    pub(super) client_certificate: Option<Spanned<ClientCertificate>>,
    pub(super) federated_token: Option<Spanned<KeyFile>>,
    pub(super) service_account: Option<Spanned<KeyFile>>,
    pub(super) redirect_uri: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) grant: Grant,
    pub(super) scopes: Option<Spanned<Vec<String>>>,
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "{ env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" }"
)]
pub(super) struct SecretSource {
    pub(super) env: Option<String>,
    pub(super) file: Option<PathBuf>,
    pub(super) credential: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientCertificate {
    pub(super) certificate: Option<PathBuf>,
    pub(super) private_key: Option<PathBuf>,
    pub(super) pkcs12: Option<PathBuf>,
    pub(super) passphrase: Option<Spanned<SecretSource>>,
    #[serde(default)]
    pub(super) algorithm: SigningAlgorithm,
}

/// A piece of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accounts {
    pub(super) account: Vec<Spanned<Account>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    pub(super) mailbox: Spanned<String>,
    pub(super) app: Spanned<String>,
    pub(super) signed_in_as: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) aliases: Vec<Spanned<String>>,
    pub(super) via: Option<Spanned<Vec<Way>>>,
    pub(super) notify: Option<Spanned<String>>,
    pub(super) sender: Option<Spanned<Sender>>,
    #[serde(default)]
    pub(super) limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: Spanned<String>,
    pub(super) networks: Vec<Spanned<String>>,
    pub(super) mailbox: Spanned<String>,
    pub(super) recipients: Option<Vec<Spanned<String>>>,
    pub(super) size: Option<Spanned<String>>,
    pub(super) rate: Option<u32>,
    pub(super) sender: Option<Spanned<Sender>>,
    #[serde(default)]
    pub(super) i_know: bool,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "\"keep\", \"mailbox\" or a table { \"scanner@old.example\" = \"scans@contoso.com\" }"
)]
pub(super) enum Sender {
    Word(String),
    Map(BTreeMap<String, String>),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) connections: Option<u32>,
    pub(super) messages_per_minute: Option<u32>,
    pub(super) recipients_per_day: Option<u32>,
    pub(super) wait: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spool {
    pub(super) size: Option<Spanned<String>>,
    pub(super) message: Option<Spanned<String>>,
    pub(super) retry: Option<Spanned<Vec<String>>>,
    pub(super) give_up: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guard {
    pub(super) attempts: Option<u32>,
    pub(super) lock: Option<Spanned<String>>,
    pub(super) delay: Option<Spanned<String>>,
    pub(super) waiting_per_source: Option<Spanned<usize>>,
    pub(super) waiting: Option<Spanned<usize>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    pub(super) authorize_url: Option<Spanned<String>>,
    pub(super) token_url: Spanned<String>,
    pub(super) device_url: Option<Spanned<String>>,
    pub(super) revoke_url: Option<Spanned<String>>,
    pub(super) identity_url: Option<Spanned<String>>,
    pub(super) issuer: Option<String>,
    #[serde(default)]
    pub(super) authorize_parameters: BTreeMap<String, String>,
    pub(super) consent_url: Option<Spanned<String>>,
    pub(super) consent_scope: Option<String>,
    pub(super) portal: Option<String>,
    pub(super) graph_environment: Option<String>,
    pub(super) exchange_environment: Option<String>,
    pub(super) imap: Option<Spanned<String>>,
    pub(super) pop3: Option<Spanned<String>>,
    pub(super) smtp: Option<Spanned<String>>,
    pub(super) graph: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    #[serde(default)]
    pub(super) app_scopes: Vec<String>,
    #[serde(default)]
    pub(super) graph_scopes: Vec<String>,
    #[serde(default)]
    pub(super) graph_app_scopes: Vec<String>,
    #[serde(default)]
    pub(super) limits: Limits,
    pub(super) ca_file: Option<Spanned<PathBuf>>,
}
