//! What `gatepost init` is told: the flags as they are given, and the answers as they are complete.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::cli::login::Place;
use crate::config::Grant;
use crate::secret::Secret;
use crate::vocabulary::{Protocol, TlsMode};

/// Each flag answers a question; what is not answered is asked, in a terminal.
#[derive(clap::Args)]
#[command(after_help = "Without a terminal nothing is asked: what has no default must be given.")]
pub(in crate::cli) struct Args {
    /// The mailbox to open, and the user name that the client logs in with
    #[arg(long)]
    pub(super) mailbox: Option<String>,
    /// Whose sign-in opens the mailbox, if it is a shared one
    #[arg(long, value_name = "PERSON")]
    pub(super) signed_in_as: Option<String>,
    /// A built-in provider, or with --token-url the name of one of your own [default: microsoft365]
    #[arg(long, value_name = "NAME")]
    pub(super) provider: Option<String>,
    /// How tokens are got [default: authorization_code]
    #[arg(long, value_parser = grants())]
    pub(super) grant: Option<Grant>,
    /// Domain or id of the tenant [default: the mailbox's domain]
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// The application (client) id
    #[arg(long, value_name = "ID")]
    pub(super) client_id: Option<String>,
    #[command(flatten)]
    pub(super) proof: ProofArgs,
    #[command(flatten)]
    pub(super) own: OwnArgs,
    /// What is asked for, instead of the provider's scopes; may be repeated
    #[arg(long, value_name = "SCOPE")]
    pub(super) scope: Vec<String>,
    /// Where a browser comes back to, as it is registered [default: http://localhost, any port]
    #[arg(long, value_name = "URL")]
    pub(super) redirect_uri: Option<String>,
    /// What the client speaks (imap, pop3, smtp); may be repeated [default: imap and smtp]
    #[arg(long, value_delimiter = ',')]
    pub(super) protocol: Vec<Protocol>,
    /// Where it connects; may be repeated [default: localhost:1143, localhost:1110, localhost:1587]
    #[arg(long, value_name = "PROTOCOL=ADDRESS", value_parser = listen)]
    pub(super) listen: Vec<(Protocol, String)>,
    /// TLS to the client: none, starttls, implicit [default: none on localhost, else starttls]
    #[arg(long, value_parser = tls_modes())]
    pub(super) tls: Option<TlsMode>,
    /// Where tokens and app passwords live [default: the platform's state folder]
    #[arg(long, value_name = "FOLDER")]
    pub(super) state_dir: Option<PathBuf>,
    /// What the first app password is for: the device, for instance
    #[arg(long, value_name = "NAME")]
    pub(super) password_name: Option<String>,
    /// Make no app password
    #[arg(long, conflicts_with = "password_name")]
    pub(super) no_password: bool,
    #[command(flatten)]
    pub(super) place: Place,
    /// Don't sign in yet
    #[arg(long, conflicts_with_all = ["device_code", "no_browser"])]
    pub(super) no_login: bool,
    /// Ask nothing that has a default
    #[arg(long)]
    pub(super) yes: bool,
}

/// What the app authenticates with: one of these.
#[derive(clap::Args)]
pub(super) struct ProofArgs {
    /// Read the client secret from standard input
    #[arg(long, group = "proof")]
    pub(super) client_secret_stdin: bool,
    /// The variable of the environment with the client secret
    #[arg(long, value_name = "NAME", group = "proof")]
    pub(super) client_secret_env: Option<String>,
    /// The file with the client secret
    #[arg(long, value_name = "FILE", group = "proof")]
    pub(super) client_secret_file: Option<PathBuf>,
    /// The app's certificate, in PEM
    #[arg(long, value_name = "FILE", group = "proof", requires = "private_key")]
    pub(super) certificate: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(super) private_key: Option<PathBuf>,
    /// The app's certificate and private key, in PKCS#12 (.pfx)
    #[arg(long, value_name = "FILE", group = "proof")]
    pub(super) pkcs12: Option<PathBuf>,
    /// The variable of the environment with the private key's passphrase
    #[arg(long, value_name = "NAME", conflicts_with = "passphrase_file")]
    pub(super) passphrase_env: Option<String>,
    /// The file with the private key's passphrase
    #[arg(long, value_name = "FILE")]
    pub(super) passphrase_file: Option<PathBuf>,
    /// The key file of a service account, in JSON
    #[arg(long, value_name = "FILE", group = "proof")]
    pub(super) service_account: Option<PathBuf>,
}

/// A provider of one's own.
#[derive(clap::Args)]
pub(super) struct OwnArgs {
    /// The token endpoint of another provider
    #[arg(long, value_name = "URL")]
    pub(super) token_url: Option<String>,
    /// Where a browser signs in at another provider
    #[arg(long, value_name = "URL")]
    pub(super) authorize_url: Option<String>,
    /// Where another provider gives device codes
    #[arg(long, value_name = "URL")]
    pub(super) device_url: Option<String>,
    /// Another provider's IMAP server: "HOST:PORT", or "HOST:PORT starttls"
    #[arg(long, value_name = "SERVER")]
    pub(super) imap: Option<String>,
    /// Another provider's POP3 server
    #[arg(long, value_name = "SERVER")]
    pub(super) pop3: Option<String>,
    /// Another provider's SMTP server
    #[arg(long, value_name = "SERVER")]
    pub(super) smtp: Option<String>,
    /// Certificates that are trusted besides the system's, in PEM
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
}

impl OwnArgs {
    /// The first flag that is only for a provider of one's own.
    pub(super) fn first(&self) -> Option<&'static str> {
        let flags = [
            ("--token-url", self.token_url.is_some()),
            ("--authorize-url", self.authorize_url.is_some()),
            ("--device-url", self.device_url.is_some()),
            ("--imap", self.imap.is_some()),
            ("--pop3", self.pop3.is_some()),
            ("--smtp", self.smtp.is_some()),
            ("--ca-file", self.ca_file.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    pub(super) fn server(&self, protocol: Protocol) -> Option<&str> {
        match protocol {
            Protocol::Imap => self.imap.as_deref(),
            Protocol::Pop3 => self.pop3.as_deref(),
            Protocol::Smtp => self.smtp.as_deref(),
        }
    }
}

/// All that a configuration is written from.
pub(super) struct Answers {
    pub(super) provider: String,
    /// None: the provider is built in.
    pub(super) own: Option<OwnProvider>,
    pub(super) mailbox: String,
    pub(super) signed_in_as: Option<String>,
    pub(super) grant: Grant,
    pub(super) tenant: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) proof: Option<Proof>,
    /// Those of the app, if they aren't its provider's.
    pub(super) scopes: Vec<String>,
    pub(super) redirect_uri: Option<String>,
    pub(super) listeners: Vec<ListenerAnswer>,
    pub(super) state_dir: Option<PathBuf>,
    /// None: whichever is free.
    pub(super) password_name: Option<String>,
}

/// A `[provider.NAME]`.
#[derive(Default)]
pub(super) struct OwnProvider {
    pub(super) token_url: String,
    pub(super) authorize_url: Option<String>,
    pub(super) device_url: Option<String>,
    pub(super) servers: Vec<(Protocol, String)>,
    pub(super) scopes: Vec<String>,
    pub(super) ca_file: Option<PathBuf>,
}

/// What the app authenticates with.
pub(super) enum Proof {
    Secret(SecretAnswer),
    Pem { certificate: PathBuf, private_key: PathBuf, passphrase: Option<SecretAnswer> },
    Pkcs12 { file: PathBuf, passphrase: Option<SecretAnswer> },
    ServiceAccount(PathBuf),
}

/// A secret, or where it is.
pub(super) enum SecretAnswer {
    /// To be written to a file of its own.
    Typed(Secret<String>),
    Env(String),
    File(PathBuf),
}

/// A `[[listener]]`.
pub(super) struct ListenerAnswer {
    pub(super) protocol: Protocol,
    pub(super) listen: String,
    pub(super) tls: TlsMode,
}

fn grants() -> impl TypedValueParser<Value = Grant> {
    const ALL: [Grant; 5] = [
        Grant::AuthorizationCode,
        Grant::DeviceCode,
        Grant::ClientCredentials,
        Grant::ManagedIdentity,
        Grant::JwtBearer,
    ];
    named(ALL.map(|grant| (grant.name(), grant)))
}

fn tls_modes() -> impl TypedValueParser<Value = TlsMode> {
    let names = ["none", "starttls", "implicit"];
    let [none, starttls, implicit] = names;
    named([(none, TlsMode::None), (starttls, TlsMode::StartTls), (implicit, TlsMode::Implicit)])
}

/// One of a few names.
fn named<T, const N: usize>(
    names: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> + use<T, N>
where
    T: Copy + Send + Sync + 'static,
{
    PossibleValuesParser::new(names.map(|(name, _)| name)).try_map(move |given| {
        let found = names.iter().find(|(name, _)| *name == given);
        found.map(|(_, value)| *value).ok_or("it is not one of the names")
    })
}

/// `imap=127.0.0.1:1143`
fn listen(text: &str) -> Result<(Protocol, String), String> {
    let (protocol, address) =
        text.split_once('=').ok_or("write PROTOCOL=ADDRESS, as in imap=127.0.0.1:1143")?;
    Ok((protocol.trim().parse()?, super::checks::listen_address(address.trim())?))
}
