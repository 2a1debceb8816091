//! What clients log in with.

use gatepost::access::{Hasher, generate};
use gatepost::clock::Clock;
use gatepost::store::{Hash, PasswordRecord, Store};

/// A new app password of a mailbox, for all protocols and from everywhere.
pub(crate) async fn add_password(store: &Store, mailbox: &str, name: &str) -> String {
    let password = generate().unwrap();
    let hash = Hasher::new(store).generated(mailbox, password.expose());
    let record = PasswordRecord {
        mailbox: mailbox.into(),
        name: name.into(),
        hash: Hash::Generated(hash.to_vec()),
        protocols: Vec::new(),
        networks: Vec::new(),
        created_at: Clock::system().now(),
    };
    assert!(store.add_password(&record).await.unwrap());
    password.expose().clone()
}
