//! The sealing of tokens: XChaCha20-Poly1305 with a key of 256 bits from a file.
//!
//! Invariant: a sealed value opens only under the name that it was sealed for, so that rows of the store
//! can't be exchanged.

use std::fmt;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::StoreError;
use crate::private_file;
use crate::secret::Secret;

/// Octets of a nonce: long enough to be drawn at random for each value.
const NONCE: usize = 24;
/// Octets of the key.
const KEY: usize = 32;

#[derive(Clone)]
pub(super) struct Seal {
    cipher: XChaCha20Poly1305,
    key: Secret<[u8; KEY]>,
}

impl Seal {
    /// Reads the key's file in the state folder, and makes it the first time.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        make_key(path)?;
        Self::from_text(path, &Zeroizing::new(private_file::read(path)?))
    }

    /// The same with a file that the configuration names.
    pub(super) fn open_named(path: &Path) -> Result<Self, StoreError> {
        make_key(path)?;
        Self::from_text(path, &Zeroizing::new(private_file::read_named(path)?))
    }

    /// Refuses a key that is there and can't be used. One that is missing is made when the store is opened.
    pub(super) fn check(path: &Path, is_named: bool) -> Result<(), StoreError> {
        if std::fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        match is_named {
            true => Self::open_named(path).map(drop),
            false => Self::open(path).map(drop),
        }
    }

    fn from_text(path: &Path, text: &[u8]) -> Result<Self, StoreError> {
        let key = unhex(text.trim_ascii()).ok_or_else(|| StoreError::BadKey(path.to_owned()))?;
        Ok(Self { cipher: XChaCha20Poly1305::new(&key.into()), key: Secret::new(key) })
    }

    /// Seals `plain` for `name`: nonce, then ciphertext.
    pub(super) fn seal(&self, plain: &[u8], name: &str) -> Result<Vec<u8>, StoreError> {
        let nonce = random::<NONCE>()?;
        let payload = Payload { msg: plain, aad: name.as_bytes() };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload);
        // Fails only for gigabytes.
        let sealed = sealed.map_err(|_| StoreError::Unsealable(name.to_owned()))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// What was sealed for `name`; `None` if it was not sealed so, or with another key.
    pub(super) fn open_sealed(&self, sealed: &[u8], name: &str) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        let payload = Payload { msg: sealed, aad: name.as_bytes() };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).ok().map(Zeroizing::new)
    }

    pub(super) fn derive(&self, purpose: &str) -> hmac::Key {
        let root = hmac::Key::new(hmac::HMAC_SHA256, self.key.expose());
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, purpose.as_bytes()).as_ref())
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(…)")
    }
}

/// A new key, where there is no file. A link that leads nowhere is there, and stays.
fn make_key(path: &Path) -> Result<(), StoreError> {
    if std::fs::symlink_metadata(path).is_err() {
        let key = random::<KEY>()?;
        let text = Zeroizing::new(format!("{}\n", hex(&key)));
        private_file::create(path, text.as_bytes())?;
    }
    Ok(())
}

fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(StoreError::NoRandom),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &[u8]) -> Option<[u8; KEY]> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    let digits = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    let bytes = digits.map(|pair| u8::from_str_radix(pair?, 16).ok());
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_was_sealed_for_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let seal = Seal::open(&folder.path().join("one")).unwrap();
        let other = Seal::open(&folder.path().join("two")).unwrap();
        let sealed = seal.seal(b"token", "jane").unwrap();
        assert_eq!(seal.open_sealed(&sealed, "jane").unwrap().as_slice(), b"token");
        assert!(seal.open_sealed(&sealed, "john").is_none());
        assert!(other.open_sealed(&sealed, "jane").is_none());
        let again = Seal::open(&folder.path().join("one")).unwrap();
        assert!(again.open_sealed(&sealed, "jane").is_some());
    }
}
