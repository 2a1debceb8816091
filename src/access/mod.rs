//! Who may log in: app passwords, with their limits to protocols and networks, and to those who guess.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | [`Access`]: the check of a login |
//! | `hash` | the passwords' hashes |
//! | `slow` | whose slow hash is computed next, and which are known |
//! | `throttle` | who has failed too often |
//! | `counter` | failures, counted within bounds |
//!
//! A generated password can't be guessed: a right one is let in whatever has failed before. While a lock is on,
//! nothing else is looked at but chosen passwords that were right from the same source before.
//!
//! Invariant: neither the time nor the words of a refusal depend on whether the mailbox exists or has passwords.
//! Each failure is one log line, in which nothing is the client's but its address.

mod counter;
mod hash;
mod slow;
mod throttle;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ipnet::IpNet;
use tracing::{info, warn};
use zeroize::Zeroizing;

pub use hash::{Hasher, generate};

use crate::clock::Clock;
use crate::config::{Account, GuardSettings};
use crate::protocol::{Login, Refusal};
use crate::store::{Hash, PasswordRecord, Seen, Store, StoreError};
use crate::vocabulary::Protocol;
use hash::{Tag, text_of};
use slow::SlowHashes;
use throttle::{Attempt, Failure, Lock, Throttle};

/// The check of logins, kept up to date with the store.
pub struct Access {
    store: Store,
    hasher: Hasher,
    book: RwLock<Arc<Book>>,
    /// Held while the store is read, so that an older book never takes the place of a newer one.
    reading: tokio::sync::Mutex<()>,
    slow: SlowHashes,
    throttle: Throttle,
}

/// The store's passwords at one time.
#[derive(Default)]
struct Book {
    /// Up to which change it was read.
    seen: Option<Seen>,
    /// By their hashes, each of which is made with its mailbox's name and a key: a look-up takes as long whether the
    /// mailbox exists or not, and nobody can choose what is compared.
    by_hash: HashMap<Vec<u8>, Vec<PasswordRecord>>,
    /// Networks that an administrator has named for a mailbox.
    homes: HashMap<String, Vec<IpNet>>,
    /// Some password needs the slow hash; then every refusal costs one.
    any_chosen: bool,
}

/// A login that is checked.
struct Asked {
    mailbox: String,
    password: Zeroizing<String>,
    /// What stands for both in this process.
    quick: Tag,
    attempt: Attempt,
    protocol: Protocol,
    peer: IpAddr,
}

/// Why it is refused.
#[derive(Debug, PartialEq, Eq)]
enum Denied {
    Wrong,
    NotFromHere,
    Locked(Lock),
}

impl Access {
    /// Reads the passwords of `store`.
    pub async fn open(store: Store) -> Result<Self, StoreError> {
        let hasher = Hasher::new(&store);
        let slow = SlowHashes::new()?;
        let access = Self {
            store,
            hasher,
            book: RwLock::default(),
            reading: tokio::sync::Mutex::default(),
            slow,
            throttle: Throttle::new(GuardSettings::default()),
        };
        access.reload().await?;
        Ok(access)
    }

    /// How those who guess are held back, from now on.
    pub fn set_guard(&self, settings: &GuardSettings) {
        self.throttle.set(settings);
    }

    /// Whether any password exists.
    pub fn is_empty(&self) -> bool {
        self.book().by_hash.is_empty()
    }

    /// Reads the passwords anew if there are others.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let _turn = self.reading.lock().await;
        if Some(self.store.passwords_seen().await?) == self.book().seen {
            return Ok(());
        }
        self.reload().await
    }

    async fn reload(&self) -> Result<(), StoreError> {
        // That first: what is written in between is read again next time.
        let seen = Some(self.store.passwords_seen().await?);
        let records = self.store.passwords().await?;
        let by_hash = HashMap::with_capacity(records.len());
        let mut book = Book { seen, by_hash, ..Book::default() };
        records.into_iter().for_each(|record| book.add(record));
        *self.book.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(book);
        Ok(())
    }

    fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Checks a login; the answer is the name of its app password. `account` is what its user name means, `None` if
    /// nothing. A failure is counted and logged; the answer to it is to be held back by [`Self::delay`].
    pub async fn check(
        &self,
        account: Option<&Account>,
        login: &Login,
        protocol: Protocol,
        peer: IpAddr,
    ) -> Result<String, Refusal> {
        let asked = Asked::new(self, account, login, protocol, peer);
        let book = self.book();
        let mut verdict = self.verdict(&book, &asked).await;
        // A password that was added a moment ago must not be refused; whoever has read it meanwhile.
        if verdict == Err(Denied::Wrong) && self.refresh().await.is_ok() {
            let newer = self.book();
            if !Arc::ptr_eq(&book, &newer) {
                verdict = self.verdict(&newer, &asked).await;
            }
        }
        // A password may be left of an account that is gone.
        if account.is_none() && verdict.is_ok() {
            verdict = Err(Denied::Wrong);
        }
        if verdict.is_ok() {
            self.throttle.succeeded(&asked.attempt);
        }
        verdict.map_err(|denied| self.refuse(denied, &asked, account))
    }

    /// How long the answer to a login that was refused just now is held back.
    pub fn delay(
        &self,
        account: Option<&Account>,
        login: &Login,
        protocol: Protocol,
        peer: IpAddr,
        refusal: &Refusal,
    ) -> Duration {
        let Asked { attempt, .. } = Asked::new(self, account, login, protocol, peer);
        match refusal {
            Refusal::BadCredentials => self.throttle.delay(&attempt),
            // From there a chosen password is looked at all the while, so that this must not become a fast way to
            // guess it. Others learn nothing, and cost least when they are answered at once.
            Refusal::Throttled { .. } if self.throttle.knows(&attempt) => {
                self.throttle.longest_delay()
            }
            _ => Duration::ZERO,
        }
    }

    async fn verdict(&self, book: &Book, asked: &Asked) -> Result<String, Denied> {
        let generated = self.hasher.generated(&asked.mailbox, &asked.password);
        if let Some(records) = book.by_hash.get(generated.as_slice()) {
            return asked.admit(records);
        }
        let at_home = book.is_home(&asked.mailbox, asked.peer);
        let source = asked.attempt.source();
        let slow = match self.throttle.locked(&asked.attempt, at_home) {
            Some(lock) if !self.slow.was_right_from(&asked.quick, source) => {
                return Err(Denied::Locked(lock));
            }
            _ => self.slow_hash(book, asked, at_home).await?,
        };
        let slow = slow.ok_or(Denied::Wrong)?;
        let records = book.by_hash.get(slow.as_slice()).ok_or(Denied::Wrong)?;
        let admitted = asked.admit(records);
        if admitted.is_ok() {
            self.slow.remember_right(asked.quick, slow, source);
        }
        admitted
    }

    /// The slow hash of its password, computed if it is not known and any mailbox at all has a chosen password.
    async fn slow_hash(
        &self,
        book: &Book,
        asked: &Asked,
        at_home: bool,
    ) -> Result<Option<Tag>, Denied> {
        let Asked { mailbox, password, quick, attempt, .. } = asked;
        if !book.any_chosen {
            return Ok(None);
        }
        if let Some(slow) = self.slow.known(quick) {
            return Ok(Some(slow));
        }
        let turn = self.slow.turn(attempt.site(), self.throttle.knows(attempt)).await;
        // Those that had their turn before may have led to a lock.
        if let Some(lock) = self.throttle.locked(attempt, at_home) {
            return Err(Denied::Locked(lock));
        }
        let turn = turn.ok_or(Denied::Wrong)?;
        Ok(self.slow.compute(*quick, turn, self.hasher.chosen(mailbox, password)).await)
    }

    /// Counts and logs a failure. fail2ban reads the line: it ends with the address and the reason, and nothing behind
    /// them is a client's.
    fn refuse(&self, denied: Denied, asked: &Asked, account: Option<&Account>) -> Refusal {
        let source = asked.peer.to_canonical();
        let (refusal, why) = match denied {
            Denied::NotFromHere => (Refusal::NotAllowedFromHere, "not_allowed_from_here"),
            Denied::Locked(Lock { of_mailbox, wait }) => {
                let why = match of_mailbox {
                    _ if self.throttle.has_seen(&asked.attempt) => "same_wrong_password",
                    true => "mailbox_locked",
                    false => "source_locked",
                };
                (Refusal::Throttled { wait }, why)
            }
            Denied::Wrong => {
                let failure = self.throttle.failed(&asked.attempt);
                tell(&failure, source, account.is_some());
                let why = if failure.again { "same_wrong_password" } else { "wrong_password" };
                (Refusal::BadCredentials, why)
            }
        };
        info!(%source, why = %why, "login failed");
        refusal
    }
}

/// Says which lock begins. One of a mailbox that does not exist is nobody's concern.
fn tell(failure: &Failure, source: IpAddr, exists: bool) {
    let until = |wait| Clock::system().now().plus(wait).text();
    if let Some(wait) = failure.source_locked {
        let (until, seconds) = (until(wait), wait.as_secs());
        warn!(%source, until, seconds, "too many wrong passwords from there: locked");
    }
    if let (Some(wait), true) = (failure.mailbox_locked, exists) {
        let (until, seconds) = (until(wait), wait.as_secs());
        warn!(
            until,
            seconds,
            "wrong passwords from many sources: the mailbox is locked for those that have never logged in to it"
        );
    }
}

impl Book {
    fn add(&mut self, record: PasswordRecord) {
        let (Hash::Generated(hash) | Hash::Chosen(hash)) = &record.hash;
        self.any_chosen |= matches!(record.hash, Hash::Chosen(_));
        if !record.networks.is_empty() {
            let homes = self.homes.entry(record.mailbox.clone()).or_default();
            homes.extend(&record.networks);
        }
        match self.by_hash.entry(hash.clone()) {
            // Room for one: there is no other nearly ever.
            Entry::Vacant(free) => drop(free.insert(vec![record])),
            Entry::Occupied(mut taken) => taken.get_mut().push(record),
        }
    }

    /// Whether an administrator has named the network of `peer` for this mailbox.
    fn is_home(&self, mailbox: &str, peer: IpAddr) -> bool {
        let (homes, peer) = (self.homes.get(mailbox), peer.to_canonical());
        homes.is_some_and(|homes| homes.iter().any(|network| network.contains(&peer)))
    }
}

impl Asked {
    fn new(
        access: &Access,
        account: Option<&Account>,
        login: &Login,
        protocol: Protocol,
        peer: IpAddr,
    ) -> Self {
        let mailbox = account.map_or(&login.user, |account| &account.mailbox).to_lowercase();
        let password = text_of(login.password.expose());
        let quick = access.slow.quick(&mailbox, &password);
        let attempt = Attempt::new(peer, &access.slow.quick(&mailbox, ""), &quick);
        Self { mailbox, password, quick, attempt, protocol, peer }
    }

    /// By one of the records that its password belongs to; the answer is that one's name.
    fn admit(&self, records: &[PasswordRecord]) -> Result<String, Denied> {
        let allowed = records.iter().find(|record| allows(record, self.protocol, self.peer));
        allowed.map(|record| record.name.clone()).ok_or(Denied::NotFromHere)
    }
}

fn allows(record: &PasswordRecord, protocol: Protocol, peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    (record.protocols.is_empty() || record.protocols.contains(&protocol))
        && (record.networks.is_empty() || record.networks.iter().any(|net| net.contains(&peer)))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::Config;
    use crate::secret::Secret;

    const CONFIG: &str =
        "[app.a]\nclient_id = \"x\"\n[[account]]\nmailbox = \"Jane@contoso.com\"\napp = \"a\"\n";
    const LOCAL: &str = "127.0.0.1";

    struct Bench {
        _folder: tempfile::TempDir,
        store: Store,
        account: Arc<Account>,
        access: Access,
    }

    impl Bench {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path(), None).await.unwrap();
            let config = Config::parse(std::path::Path::new("gatepost.toml"), CONFIG).unwrap();
            let access = Access::open(store.clone()).await.unwrap();
            let account = Arc::clone(config.accounts.first().unwrap());
            Self { _folder: folder, store, account, access }
        }

        async fn add(&self, hash: Hash, protocols: &[Protocol], networks: &[&str]) {
            let record = PasswordRecord {
                mailbox: "jane@contoso.com".into(),
                name: format!("{}", fastrand::u64(..)),
                hash,
                protocols: protocols.to_vec(),
                networks: networks.iter().map(|net| net.parse().unwrap()).collect(),
                created_at: Clock::system().now(),
            };
            assert!(self.store.add_password(&record).await.unwrap());
            self.access.reload().await.unwrap();
        }

        async fn check(
            &self,
            password: &[u8],
            protocol: Protocol,
            peer: &str,
        ) -> Result<(), Refusal> {
            let password = Secret::new(password.to_vec());
            let login = Login { user: "jane@contoso.com".into(), password };
            let peer = peer.parse().unwrap();
            self.access.check(Some(&self.account), &login, protocol, peer).await.map(drop)
        }
    }

    #[tokio::test]
    async fn a_generated_password_with_its_limits() {
        let bench = Bench::new().await;
        let password = generate().unwrap();
        let hash = bench.access.hasher.generated("jane@contoso.com", password.expose());
        bench.add(Hash::Generated(hash.to_vec()), &[Protocol::Smtp], &["127.0.0.0/8"]).await;
        let typed = password.expose().to_uppercase().replace('-', " ");
        assert_eq!(bench.check(typed.as_bytes(), Protocol::Smtp, LOCAL).await, Ok(()));
        assert_eq!(bench.check(typed.as_bytes(), Protocol::Smtp, "::ffff:127.0.0.1").await, Ok(()));
        let refused = bench.check(typed.as_bytes(), Protocol::Imap, LOCAL).await;
        assert_eq!(refused, Err(Refusal::NotAllowedFromHere));
        let refused = bench.check(typed.as_bytes(), Protocol::Smtp, "10.0.0.1").await;
        assert_eq!(refused, Err(Refusal::NotAllowedFromHere));
        assert_eq!(
            bench.check(b"wrong", Protocol::Smtp, LOCAL).await,
            Err(Refusal::BadCredentials)
        );
    }

    #[tokio::test]
    async fn a_password_that_is_added_during_the_check_counts() {
        let bench = Bench::new().await;
        let chosen = Secret::new(b"of somebody else".to_vec());
        let hash = bench.access.hasher.hash_chosen("jane@contoso.com", &chosen).await.unwrap();
        bench.add(hash, &[], &[]).await;
        let new = bench.access.hasher.generated("jane@contoso.com", "new");
        // The check goes on to its slow hash, and meanwhile the password is added and read.
        let check = bench.check(b"new", Protocol::Imap, LOCAL);
        let (verdict, ()) = tokio::join!(check, bench.add(Hash::Generated(new.to_vec()), &[], &[]));
        assert_eq!(verdict, Ok(()));
    }

    #[tokio::test]
    async fn a_chosen_password_is_hashed_slowly_once() {
        let bench = Bench::new().await;
        let chosen = Secret::new("pässword".as_bytes().to_vec());
        let hash = bench.access.hasher.hash_chosen("jane@contoso.com", &chosen).await.unwrap();
        bench.add(hash, &[], &[]).await;
        let start = Instant::now();
        assert_eq!(bench.check(chosen.expose(), Protocol::Imap, LOCAL).await, Ok(()));
        let slow = start.elapsed();
        let start = Instant::now();
        assert_eq!(bench.check(chosen.expose(), Protocol::Imap, LOCAL).await, Ok(()));
        assert!(start.elapsed() < slow / 4, "{:?} after {slow:?}", start.elapsed());
        assert_eq!(bench.check(b"p\xe4ssword", Protocol::Imap, LOCAL).await, Ok(()));
        assert_eq!(
            bench.check(b"Password", Protocol::Imap, LOCAL).await,
            Err(Refusal::BadCredentials)
        );
    }
}
