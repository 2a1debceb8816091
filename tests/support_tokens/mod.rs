//! A proxy's surroundings for the tests of tokens: the emulator, a configuration, a password, an IMAP client.
// Each test that includes this uses a part of it.
#![allow(dead_code)]

pub(crate) mod paused;
pub(crate) mod process;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use gatepost::access::{Hasher, generate};
use gatepost::clock::{Clock, Timestamp};
use gatepost::config::Config;
use gatepost::emulator::{Emulator, Options, Tls};
use gatepost::oauth::{Answer, Principal, token_of};
use gatepost::secret::Secret;
use gatepost::store::{Hash, PasswordRecord, Store};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A mailbox whose token is its own person's, with rotating refresh tokens.
pub(crate) const DELEGATED: &str = "jane@contoso.example";
/// A mailbox that the app opens by itself.
pub(crate) const APP_ONLY: &str = "support@contoso.example";

/// Nothing here takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// A configuration whose provider is an emulator.
pub(crate) struct Site {
    pub(crate) emulator: Emulator,
    pub(crate) file: PathBuf,
    pub(crate) password: String,
    _folder: TempDir,
}

impl Site {
    /// `life` is that of the access tokens; nobody is signed in yet.
    pub(crate) async fn new(life: Duration) -> Self {
        let options = Options { token_life: Some(life), ..Options::default() };
        let app = options.app.clone();
        let emulator = Emulator::start(options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gatepost.toml");
        std::fs::write(folder.path().join("ca.pem"), emulator.ca_pem()).unwrap();
        std::fs::write(folder.path().join("secret"), &app.client_secret).unwrap();
        let registration = format!(
            "provider = \"lab\"\ntenant = \"{}\"\nclient_id = \"{}\"\nclient_secret = {{ file = \"secret\" }}\n",
            app.tenant, app.client_id
        );
        let text = format!(
            "state_dir = \"state\"\n\
             [[listener]]\nprotocol = \"imap\"\nlisten = \"127.0.0.1:0\"\nprovider = \"lab\"\n\
             [app.person]\n{registration}\
             [app.robot]\n{registration}grant = \"client_credentials\"\n\
             [[account]]\nmailbox = \"{DELEGATED}\"\napp = \"person\"\n\
             [[account]]\nmailbox = \"{APP_ONLY}\"\napp = \"robot\"\n\
             [provider.lab]\ntoken_url = \"{}\"\nimap = \"{}\"\nca_file = \"ca.pem\"\n\
             scopes = [\"https://outlook.office.com/IMAP.AccessAsUser.All\", \"offline_access\"]\n\
             app_scopes = [\"https://outlook.office365.com/.default\"]\n",
            emulator.token_url(),
            emulator.imap(Tls::Implicit),
        );
        std::fs::write(&file, text).unwrap();
        let password = generate().unwrap().expose().clone();
        let site = Self { emulator, file, password, _folder: folder };
        site.add_passwords().await;
        site
    }

    pub(crate) fn config(&self) -> Config {
        Config::load(&self.file).unwrap()
    }

    pub(crate) async fn store(&self) -> Store {
        Store::open(&self.config().state_dir, None).await.unwrap()
    }

    async fn add_passwords(&self) {
        let store = self.store().await;
        for mailbox in [DELEGATED, APP_ONLY] {
            let hash = Hasher::new(&store).generated(mailbox, &self.password);
            let record = PasswordRecord {
                mailbox: mailbox.into(),
                name: "test".into(),
                hash: Hash::Generated(hash.to_vec()),
                protocols: Vec::new(),
                networks: Vec::new(),
                created_at: Clock::system().now(),
            };
            assert!(store.add_password(&record).await.unwrap());
        }
        store.close().await;
    }

    /// Signs the mailbox in with an access token that has ended long ago.
    pub(crate) async fn sign_in_with_an_expired_token(&self, mailbox: &str) {
        let principal = Principal::of(&self.config().account(mailbox).unwrap());
        let refresh = principal.user.as_ref().map(|user| self.emulator.issue_refresh_token(user));
        let answer = Answer {
            access_token: Secret::new("expired".into()),
            refresh_token: refresh.map(Secret::new),
            expires_in: Duration::from_secs(3600),
            refresh_in: None,
        };
        let a_day_ago =
            Timestamp::from_millis(Clock::system().now().as_millis() - 24 * 3600 * 1000);
        let store = self.store().await;
        let token = token_of(&principal, answer, None, a_day_ago);
        store.replace_token(&principal.key(), &token).await.unwrap();
        store.close().await;
    }

    /// How many tokens the proxy has written since the sign-in with an expired one.
    pub(crate) async fn tokens_stored(&self) -> u64 {
        let store = self.store().await;
        let mut written = -1;
        for account in &self.config().accounts {
            written += store.token_revision(&Principal::of(account).key()).await.unwrap();
        }
        store.close().await;
        written.try_into().unwrap()
    }

    /// Logs in over IMAP, and out.
    pub(crate) async fn log_in(&self, proxy: SocketAddr, mailbox: &str) -> io::Result<()> {
        let dialogue = async {
            let mut stream = BufReader::new(TcpStream::connect(proxy).await?);
            let login = format!("a LOGIN {mailbox} {}\r\n", self.password);
            for (command, wanted) in [("", "* OK"), (&login, "a OK"), ("z LOGOUT\r\n", "z OK")] {
                stream.write_all(command.as_bytes()).await?;
                let mut line = String::new();
                // Untagged lines come before a tagged one.
                while line.is_empty() || line.starts_with("* ") && !wanted.starts_with('*') {
                    line.clear();
                    if stream.read_line(&mut line).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                if !line.starts_with(wanted) {
                    return Err(io::Error::other(line));
                }
            }
            Ok(())
        };
        timeout(LIMIT, dialogue).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
