//! A configuration of many accounts and a store that has their passwords and sign-ins.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatepost::access::{Hasher, generate};
use gatepost::clock::{Clock, Timestamp};
use gatepost::config::Config;
use gatepost::emulator::{Emulator, Options, Tls};
use gatepost::oauth::{Answer, Principal, token_of};
use gatepost::secret::Secret;
use gatepost::store::{Hash, PasswordRecord, Store};

/// Those that exist at the emulator, and log in.
pub const TRIED: usize = 100;

/// Octets of a refresh token and of an access token: Entra's are of that order.
const REFRESH: usize = 1_200;
const ACCESS: usize = 1_800;

/// What the accounts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Each in the file, of one app by itself
    App,
    /// Each in the file, with a sign-in of its own
    People,
    /// One pattern, whose mailboxes have passwords
    Pattern,
}

/// What gatepost is started on.
pub struct Site {
    pub emulator: Emulator,
    pub file: PathBuf,
    /// Of the first mailboxes.
    pub passwords: Vec<String>,
    _folder: tempfile::TempDir,
}

pub fn mailbox(number: usize) -> String {
    format!("user{number:06}@contoso.example")
}

impl Site {
    /// With access tokens that live so long yet.
    pub async fn new(shape: Shape, accounts: usize, life: Duration) -> Self {
        let tried = accounts.min(TRIED);
        let mailboxes = (0..tried).map(mailbox).collect();
        let token_life = Some(life.max(Duration::from_secs(60)));
        let emulator = Emulator::start(Options { mailboxes, token_life, ..Options::default() });
        let emulator = emulator.await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gatepost.toml");
        fs::write(folder.path().join("ca.pem"), emulator.ca_pem()).unwrap();
        fs::write(&file, configuration(&emulator, folder.path(), shape, accounts)).unwrap();
        // The disk's time for each of them is not what is measured: they are made in memory, where that is a place.
        let memory = Path::new("/dev/shm");
        let draft = match memory.is_dir() {
            true => tempfile::tempdir_in(memory).unwrap(),
            false => tempfile::tempdir_in(folder.path()).unwrap(),
        };
        let store = Store::open(&draft.path().join("state"), None).await.unwrap();
        let passwords = add_passwords(&store, accounts, tried).await;
        if shape == Shape::People {
            sign_in(&store, &emulator, &file, life).await;
        }
        store.close().await;
        copy(&draft.path().join("state"), &folder.path().join("state"));
        Self { emulator, file, passwords, _folder: folder }
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

fn configuration(emulator: &Emulator, folder: &Path, shape: Shape, accounts: usize) -> String {
    let app = Options::default().app;
    fs::write(folder.join("secret"), &app.client_secret).unwrap();
    let grant = match shape {
        Shape::People => "device_code",
        Shape::App | Shape::Pattern => "client_credentials",
    };
    let mut text = format!(
        "state_dir = \"state\"\n\
         [[listener]]\nprotocol = \"imap\"\nlisten = \"127.0.0.1:0\"\nprovider = \"lab\"\n\
         [[listener]]\nprotocol = \"smtp\"\nlisten = \"127.0.0.1:0\"\nprovider = \"lab\"\n\
         [app.lab]\nprovider = \"lab\"\ntenant = \"{}\"\nclient_id = \"{}\"\n\
         client_secret = {{ file = \"secret\" }}\ngrant = \"{grant}\"\n\
         [provider.lab]\ntoken_url = \"{}\"\nimap = \"{}\"\nsmtp = \"{}\"\nca_file = \"ca.pem\"\n\
         scopes = [\"https://outlook.office.com/IMAP.AccessAsUser.All\", \"offline_access\"]\n\
         app_scopes = [\"https://outlook.office365.com/.default\"]\n",
        app.tenant,
        app.client_id,
        emulator.token_url(),
        emulator.imap(Tls::Implicit),
        emulator.smtp(Tls::Implicit),
    );
    match shape {
        Shape::Pattern => text += "[[account]]\nmailbox = \"*@contoso.example\"\napp = \"lab\"\n",
        Shape::App | Shape::People => {
            for number in 0..accounts {
                text += &format!(
                    "\n[[account]]\nmailbox = \"{}\"\napp = \"lab\"\naliases = [\"contoso\\\\user{number:06}\"]\n",
                    mailbox(number)
                );
            }
        }
    }
    text
}

async fn add_passwords(store: &Store, accounts: usize, kept: usize) -> Vec<String> {
    let hasher = Hasher::new(store);
    let mut passwords = Vec::new();
    for number in 0..accounts {
        let (mailbox, password) = (mailbox(number), generate().unwrap());
        let hash = Hash::Generated(hasher.generated(&mailbox, password.expose()).to_vec());
        let record = PasswordRecord {
            mailbox,
            name: "device-1".into(),
            hash,
            protocols: Vec::new(),
            networks: Vec::new(),
            created_at: Clock::system().now(),
        };
        assert!(store.add_password(&record).await.unwrap());
        if number < kept {
            passwords.push(password.expose().clone());
        }
    }
    passwords
}

/// The first ones with tokens of the emulator's, the others with some of the same size.
async fn sign_in(store: &Store, emulator: &Emulator, file: &Path, life: Duration) {
    let config = Config::load(file).unwrap();
    for (number, account) in config.accounts.iter().enumerate() {
        let principal = Principal::of(account);
        let (access, refresh) = match number < TRIED {
            true => {
                let control = emulator.control();
                let user = Some(account.mailbox.as_str());
                (control.issue_access_token(user), control.issue_refresh_token(&account.mailbox))
            }
            false => (letters(ACCESS), letters(REFRESH)),
        };
        let answer = Answer {
            access_token: Secret::new(access),
            refresh_token: Some(Secret::new(refresh)),
            expires_in: life,
            refresh_in: None,
        };
        let now: Timestamp = Clock::system().now();
        let token = token_of(&principal, answer, None, now);
        store.replace_token(&principal.key(), &token).await.unwrap();
    }
}

fn letters(count: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(count).collect()
}
