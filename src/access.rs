//! Who may log in: app passwords, with their limits to protocols and networks.
//!
//! A password that gatepost made has 100 random bits and is checked by a keyed hash. One that a person
//! chose gets Argon2id, whose salt comes from the store's key and the mailbox, so that one computation
//! checks all of a mailbox's passwords, and the same is spent on a mailbox that does not exist.
//!
//! Invariant: the time of a refusal does not depend on whether the mailbox exists or has passwords, and
//! no password is kept: what is remembered of a checked one is a hash under a key of this process.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use argon2::Argon2;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::config::Account;
use crate::protocol::{Login, Refusal};
use crate::secret::Secret;
use crate::store::{Hash, PasswordRecord, Store, StoreError};
use crate::vocabulary::Protocol;

/// Letters and digits that can't be taken for one another, on any keyboard and in one case: 32 of them,
/// five bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Characters of a generated password, in four groups: 100 bits. Some panels have room for no more than 20.
const GENERATED: usize = 20;
const GROUP: usize = 5;

/// Slow hashes of wrong passwords that are remembered: enough for every broken device of a site, which
/// sends the same one again and again.
const REMEMBERED_WRONG: usize = 1024;

/// Purposes of the keys that are derived from the sealing key.
const GENERATED_KEY: &str = "gatepost generated app password 1";
const SALT_KEY: &str = "gatepost chosen app password 1";

type Tag = [u8; digest::SHA256_OUTPUT_LEN];

/// The check of logins, kept up to date with the store.
pub struct Access {
    store: Store,
    hasher: Hasher,
    book: RwLock<Arc<Book>>,
    /// Held while the store is read, so that an older book never takes the place of a newer one.
    reading: tokio::sync::Mutex<()>,
    slow: SlowHashes,
}

/// The store's passwords at one time.
#[derive(Default)]
struct Book {
    /// The store's version that was read.
    version: i64,
    by_mailbox: HashMap<String, Vec<PasswordRecord>>,
    /// Some password needs the slow hash; then every refusal costs one.
    any_chosen: bool,
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
        };
        access.reload().await?;
        Ok(access)
    }

    /// Whether any password exists.
    pub fn is_empty(&self) -> bool {
        self.book().by_mailbox.is_empty()
    }

    /// Reads the passwords anew if another process has written.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let _turn = self.reading.lock().await;
        if self.store.version().await? == self.book().version {
            return Ok(());
        }
        self.reload().await
    }

    async fn reload(&self) -> Result<(), StoreError> {
        // The version first: what is written in between is read again next time.
        let mut book = Book { version: self.store.version().await?, ..Book::default() };
        for record in self.store.passwords().await? {
            book.any_chosen |= matches!(record.hash, Hash::Chosen(_));
            book.by_mailbox.entry(record.mailbox.clone()).or_default().push(record);
        }
        *self.book.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(book);
        Ok(())
    }

    fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Checks a login; the answer is the name of its app password. `account` is what its user name means, `None` if
    /// nothing.
    pub async fn check(
        &self,
        account: Option<&Account>,
        login: &Login,
        protocol: Protocol,
        peer: IpAddr,
    ) -> Result<String, Refusal> {
        let mailbox = account.map_or(&login.user, |account| &account.mailbox).to_lowercase();
        let password = text_of(login.password.expose());
        let book = self.book();
        let mut verdict = self.verdict(&book, &mailbox, &password, protocol, peer).await;
        // A password that was added a moment ago must not be refused; whoever has read it meanwhile.
        if verdict == Err(Refusal::BadCredentials) && self.refresh().await.is_ok() {
            let newer = self.book();
            if !Arc::ptr_eq(&book, &newer) {
                verdict = self.verdict(&newer, &mailbox, &password, protocol, peer).await;
            }
        }
        // A password may be left of an account that is gone.
        if account.is_some() { verdict } else { Err(Refusal::BadCredentials) }
    }

    async fn verdict(
        &self,
        book: &Book,
        mailbox: &str,
        password: &str,
        protocol: Protocol,
        peer: IpAddr,
    ) -> Result<String, Refusal> {
        let records = book.by_mailbox.get(mailbox).map_or(&[][..], Vec::as_slice);
        let generated = self.hasher.generated(mailbox, password);
        let quick = self.slow.quick(mailbox, password);
        let known = self.slow.known_right(&quick);
        let mut matching = matching(records, &generated, known.as_ref());
        if matching.is_empty() && book.any_chosen {
            let slow = self.slow.get(quick, || self.hasher.chosen(mailbox, password)).await;
            matching = self::matching(records, &generated, slow.as_ref());
            if let (Some(slow), false) = (slow, matching.is_empty()) {
                self.slow.remember_right(quick, slow);
            }
        }
        if matching.is_empty() {
            return Err(Refusal::BadCredentials);
        }
        let allowed = matching.iter().find(|record| allows(record, protocol, peer));
        allowed.map(|record| record.name.clone()).ok_or(Refusal::NotAllowedFromHere)
    }
}

/// The records that the password belongs to.
fn matching<'a>(
    records: &'a [PasswordRecord],
    generated: &Tag,
    chosen: Option<&Tag>,
) -> Vec<&'a PasswordRecord> {
    let fits = |record: &&PasswordRecord| match &record.hash {
        Hash::Generated(hash) => same(hash, generated),
        Hash::Chosen(hash) => chosen.is_some_and(|chosen| same(hash, chosen)),
    };
    records.iter().filter(fits).collect()
}

fn same(stored: &[u8], given: &Tag) -> bool {
    stored.ct_eq(given).into()
}

fn allows(record: &PasswordRecord, protocol: Protocol, peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    (record.protocols.is_empty() || record.protocols.contains(&protocol))
        && (record.networks.is_empty() || record.networks.iter().any(|net| net.contains(&peer)))
}

/// Makes the hashes that the store keeps.
#[derive(Clone)]
pub struct Hasher {
    generated: hmac::Key,
    salt: hmac::Key,
}

impl Hasher {
    /// With the keys of `store`.
    pub fn new(store: &Store) -> Self {
        Self { generated: store.derive_key(GENERATED_KEY), salt: store.derive_key(SALT_KEY) }
    }

    /// For a password of [`generate`]; letter case, spaces and hyphens don't matter, whoever types it.
    pub fn generated(&self, mailbox: &str, password: &str) -> Tag {
        let typed = password.chars().filter(|c| !matches!(c, '-' | ' '));
        let plain: Zeroizing<String> = Zeroizing::new(typed.collect::<String>().to_lowercase());
        keyed(&self.generated, mailbox, &plain)
    }

    /// For a password that a person chose: Argon2id with its crate's parameters, OWASP's second choice
    /// (19 MiB, 2 passes). Takes tens of milliseconds: not to be called on the runtime's threads.
    fn chosen(&self, mailbox: &str, password: &str) -> impl FnOnce() -> Option<Tag> + use<> {
        let salt = hmac::sign(&self.salt, mailbox.as_bytes());
        let password = Zeroizing::new(password.to_owned());
        move || {
            let mut tag = Tag::default();
            let hashed =
                Argon2::default().hash_password_into(password.as_bytes(), salt.as_ref(), &mut tag);
            hashed.is_ok().then_some(tag)
        }
    }

    /// For a password that a person chose, to be stored.
    pub async fn hash_chosen(&self, mailbox: &str, password: &Secret<Vec<u8>>) -> Option<Hash> {
        let tag = self.chosen(mailbox, &text_of(password.expose()));
        let tag = tokio::task::spawn_blocking(tag).await.ok()??;
        Some(Hash::Chosen(tag.to_vec()))
    }
}

/// Slow hashes, computed once per process and password.
struct SlowHashes {
    /// Made anew by each process.
    key: hmac::Key,
    memory: Mutex<Memory>,
    /// One at a time: each takes 19 MiB and a core.
    turn: Semaphore,
}

#[derive(Default)]
struct Memory {
    right: HashMap<Tag, Tag>,
    wrong: VecDeque<(Tag, Tag)>,
}

impl SlowHashes {
    fn new() -> Result<Self, StoreError> {
        let mut key = Zeroizing::new(Tag::default());
        let filled = SystemRandom::new().fill(key.as_mut_slice());
        filled.map_err(|_| StoreError::NoRandom)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_slice());
        Ok(Self { key, memory: Mutex::default(), turn: Semaphore::new(1) })
    }

    fn quick(&self, mailbox: &str, password: &str) -> Tag {
        keyed(&self.key, mailbox, password)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_right(&self, quick: &Tag) -> Option<Tag> {
        self.memory().right.get(quick).copied()
    }

    fn known(&self, quick: &Tag) -> Option<Tag> {
        let memory = self.memory();
        let wrong = || memory.wrong.iter().find(|(known, _)| known == quick).map(|(_, slow)| *slow);
        memory.right.get(quick).copied().or_else(wrong)
    }

    /// Right ones are never pushed out by wrong ones.
    fn remember_right(&self, quick: Tag, slow: Tag) {
        let mut memory = self.memory();
        memory.wrong.retain(|(known, _)| *known != quick);
        memory.right.insert(quick, slow);
    }

    /// The slow hash behind `quick`, computed by `compute` if it is not known.
    async fn get<F>(&self, quick: Tag, compute: impl FnOnce() -> F) -> Option<Tag>
    where
        F: FnOnce() -> Option<Tag> + Send + 'static,
    {
        let _turn = self.turn.acquire().await.ok()?;
        if let Some(slow) = self.known(&quick) {
            return Some(slow);
        }
        let slow = tokio::task::spawn_blocking(compute()).await.ok()??;
        let mut memory = self.memory();
        memory.wrong.truncate(REMEMBERED_WRONG - 1);
        memory.wrong.push_front((quick, slow));
        Some(slow)
    }
}

fn keyed(key: &hmac::Key, mailbox: &str, password: &str) -> Tag {
    let mut context = hmac::Context::with_key(key);
    // No user name has a NUL, so that the two can't run into each other.
    for part in [mailbox.as_bytes(), b"\0", password.as_bytes()] {
        context.update(part);
    }
    let mut tag = Tag::default();
    tag.copy_from_slice(context.sign().as_ref());
    tag
}

/// A scanner with a national keyboard sends Latin-1 where a shell sent UTF-8 to `password add --stdin`.
fn text_of(password: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(match std::str::from_utf8(password) {
        Ok(text) => text.to_owned(),
        Err(_) => password.iter().copied().map(char::from).collect(),
    })
}

/// A new app password, to be shown once: `k7mw2-pq9xh-d3vfc-4nt8s`.
pub fn generate() -> Option<Secret<String>> {
    let mut random = Zeroizing::new([0_u8; GENERATED]);
    SystemRandom::new().fill(random.as_mut_slice()).ok()?;
    let mut password = String::with_capacity(GENERATED + GENERATED / GROUP);
    for (index, byte) in random.iter().enumerate() {
        if index > 0 && index % GROUP == 0 {
            password.push('-');
        }
        // 256 is a multiple of 32: each character is equally likely.
        password.push(char::from(ALPHABET.get(usize::from(byte % 32)).copied()?));
    }
    Some(Secret::new(password))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::clock::Clock;
    use crate::config::Config;

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

    #[test]
    fn generated_passwords_have_100_bits_and_differ() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one, two);
        let typed: Vec<u8> = one.expose().bytes().filter(|byte| *byte != b'-').collect();
        assert_eq!(typed.len() * 5, 100);
        assert!(typed.iter().all(|byte| ALPHABET.contains(byte)));
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
