//! App passwords and their hashes.
//!
//! A password that gatepost made has 100 random bits and is checked by a keyed hash. One that a person
//! chose gets Argon2id, whose salt comes from the store's key and the mailbox, so that one computation
//! checks all of a mailbox's passwords, and the same is spent on a mailbox that does not exist.
//!
//! Invariant: no password is kept; what was copied to be hashed is wiped.

use argon2::{Argon2, Block};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::store::{Hash, Store};

/// Letters and digits that can't be taken for one another, on any keyboard and in one case: 32 of them,
/// five bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Characters of a generated password, in four groups: 100 bits. Some panels have room for no more than 20.
const GENERATED: usize = 20;
const GROUP: usize = 5;

/// Purposes of the keys that are derived from the sealing key.
const GENERATED_KEY: &str = "gatepost generated app password 1";
const SALT_KEY: &str = "gatepost chosen app password 1";

/// What a slow hash is computed in, 19 MiB.
pub(super) type Memory = Vec<Block>;

/// A hash of any of them.
pub(super) type Tag = [u8; digest::SHA256_OUTPUT_LEN];

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
    pub(super) fn chosen(
        &self,
        mailbox: &str,
        password: &str,
    ) -> impl FnOnce(&mut Memory) -> Option<Tag> + use<> {
        let salt = hmac::sign(&self.salt, mailbox.as_bytes());
        let password = Zeroizing::new(password.to_owned());
        move |memory| {
            let (argon2, mut tag) = (Argon2::default(), Tag::default());
            memory.resize(argon2.params().block_count(), Block::new());
            let (password, salt) = (password.as_bytes(), salt.as_ref());
            let hashed = argon2.hash_password_into_with_memory(password, salt, &mut tag, memory);
            hashed.is_ok().then_some(tag)
        }
    }

    /// For a password that a person chose, to be stored.
    pub async fn hash_chosen(&self, mailbox: &str, password: &Secret<Vec<u8>>) -> Option<Hash> {
        let tag = self.chosen(mailbox, &text_of(password.expose()));
        let tag = tokio::task::spawn_blocking(|| tag(&mut Memory::new())).await.ok()??;
        Some(Hash::Chosen(tag.to_vec()))
    }
}

pub(super) fn keyed(key: &hmac::Key, mailbox: &str, password: &str) -> Tag {
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
pub(super) fn text_of(password: &[u8]) -> Zeroizing<String> {
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
    use super::*;

    #[test]
    fn generated_passwords_have_100_bits_and_differ() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one, two);
        let typed: Vec<u8> = one.expose().bytes().filter(|byte| *byte != b'-').collect();
        assert_eq!(typed.len() * 5, 100);
        assert!(typed.iter().all(|byte| ALPHABET.contains(byte)));
    }
}
