//! A store with many accounts, written by gatepost's own code: an app password for each, and for people who have signed
//! in their tokens, of all ages.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use gatepost::access::{Hasher, generate};
use gatepost::clock::Clock;
use gatepost::config::{Account, Config};
use gatepost::oauth::Principal;
use gatepost::secret::Secret;
use gatepost::store::{Hash, PasswordRecord, Store, StoredToken, Token};
use gatepost::vocabulary::Resource;

use crate::client::Door;
use crate::peers::gatepost::Gatepost;
use crate::upstream::token;

/// Memory as a disk, where the hundred thousand commits of a large store wait for nothing.
const QUICK: &str = "/dev/shm";

/// Life of a token, and how old one is when it is renewed: just before half.
const LIFE: Duration = Duration::from_secs(3599);
const RENEWED_AT: Duration = Duration::from_secs(1600);

/// Accounts that are logged in to, spread over all.
const TRIED: usize = 200;

/// What is added to the store that `gatepost` has; doors to some of its accounts.
pub(crate) async fn seed(gatepost: &Gatepost) -> Result<Vec<Door>> {
    let config = Config::load(&gatepost.file)?;
    let state = &config.state_dir;
    let quick = tempfile::tempdir_in(QUICK).context("a folder in memory")?;
    copy_files(state, quick.path())?;
    let store = Store::open(quick.path(), None).await?;
    let (hasher, all) = (Hasher::new(&store), config.accounts.len());
    let mut doors = Vec::new();
    for (number, account) in config.accounts.iter().enumerate() {
        let password = add_password(&store, &hasher, &account.mailbox).await?;
        if account.app.grant.is_personal() {
            let share = u32::try_from(number)?;
            sign_in(&store, account, RENEWED_AT * share / u32::try_from(all)?).await?;
        }
        if number % all.div_ceil(TRIED) == 0 {
            doors.push(gatepost.peer.door.of(&account.mailbox, &password));
        }
    }
    store.close().await;
    copy_files(quick.path(), state)?;
    Ok(doors)
}

async fn add_password(store: &Store, hasher: &Hasher, mailbox: &str) -> Result<String> {
    let password = generate().context("no random numbers")?;
    let record = PasswordRecord {
        mailbox: mailbox.into(),
        name: "seeded".into(),
        hash: Hash::Generated(hasher.generated(mailbox, password.expose()).to_vec()),
        protocols: Vec::new(),
        networks: Vec::new(),
        created_at: Clock::system().now(),
    };
    store.add_password(&record).await?;
    Ok(password.expose().clone())
}

/// As if this account's person had signed in long ago, and the token had this age.
async fn sign_in(store: &Store, account: &Account, age: Duration) -> Result<()> {
    let principal = Principal::of(account);
    let issued_at = Clock::system().now().minus(age);
    let access = StoredToken {
        token: Secret::new(token()),
        issued_at,
        expires_at: issued_at.plus(LIFE),
        refresh_at: None,
        fingerprint: principal.fingerprint(Resource::Mail),
    };
    let refresh_token = Some(Secret::new("refresh".to_owned()));
    let token = Token { refresh_token, access: Some(access), graph: None };
    Ok(store.replace_token(&principal.key(), &token).await?)
}

/// With their modes: others may not read them.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
