//! Mailboxes in memory, shared by IMAP, POP3 and SMTP.
//!
//! Invariant: within a folder, identifiers only grow and messages stand in their order (RFC 3501
//! section 2.3.1.1), and every change wakes whoever subscribed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;

use super::{samples, tokens::folded};

/// The folders of a new mailbox, with the attribute of RFC 6154 that Exchange shows for them.
const FOLDERS: [(&str, &str); 6] = [
    ("INBOX", ""),
    ("Archive", " \\Archive"),
    ("Deleted Items", " \\Trash"),
    ("Drafts", " \\Drafts"),
    ("Junk Email", " \\Junk"),
    ("Sent Items", " \\Sent"),
];

/// A message that went to an address outside the emulated mailboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMail {
    /// The address in MAIL FROM; empty for `<>`.
    pub sender: String,
    /// Those recipients that are not emulated mailboxes.
    pub recipients: Vec<String>,
    /// The message as it was sent, dot-stuffing undone, nothing added.
    pub data: Vec<u8>,
}

/// A message in a folder. A clone shares its octets.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) uid: u32,
    pub(super) flags: BTreeSet<String>,
    pub(super) received: SystemTime,
    pub(super) data: Arc<[u8]>,
}

/// A folder and what RFC 3501 section 2.3.1.1 wants it to remember.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) validity: u32,
    pub(super) next_uid: u32,
    pub(super) messages: Vec<Message>,
}

/// One mailbox's folders by name.
pub(super) type Folders = BTreeMap<String, Folder>;

/// All mailboxes, and what was sent elsewhere.
pub(super) struct PostOffice {
    mailboxes: Mutex<HashMap<String, Folders>>,
    elsewhere: Mutex<Vec<SentMail>>,
    changed: watch::Sender<()>,
}

impl PostOffice {
    pub(super) fn new(addresses: &[String]) -> Self {
        let mut mailboxes = HashMap::new();
        for address in addresses {
            let mut folders: Folders =
                FOLDERS.iter().map(|(name, _)| ((*name).to_owned(), Folder::new())).collect();
            if let Some(inbox) = folders.get_mut("INBOX") {
                for sample in samples::messages(address) {
                    inbox.add(&sample, BTreeSet::new(), SystemTime::now());
                }
            }
            mailboxes.insert(folded(address), folders);
        }
        Self {
            mailboxes: Mutex::new(mailboxes),
            elsewhere: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Looks at a mailbox; `None` if there is none of that address.
    pub(super) fn read<T>(&self, address: &str, look: impl FnOnce(&Folders) -> T) -> Option<T> {
        self.mailboxes().get(&folded(address)).map(look)
    }

    /// Changes a mailbox, and tells the sessions that watch.
    pub(super) fn write<T>(
        &self,
        address: &str,
        change: impl FnOnce(&mut Folders) -> T,
    ) -> Option<T> {
        let changed = self.mailboxes().get_mut(&folded(address)).map(change);
        self.changed.send_replace(());
        changed
    }

    /// Wakes at every change of any mailbox.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Puts a message into one folder of a mailbox, if both exist; the answer is its identifiers.
    pub(super) fn store(
        &self,
        address: &str,
        folder: &str,
        data: &[u8],
        flags: BTreeSet<String>,
    ) -> Option<(u32, u32)> {
        self.write(address, |folders| {
            let folder = folders.get_mut(folder)?;
            Some((folder.validity, folder.add(data, flags, SystemTime::now())))
        })?
    }

    /// Delivers a submitted message: to inboxes here, to the list for all others, and to the sender's
    /// Sent Items, as Exchange does for mail from SMTP clients.
    pub(super) fn deliver(&self, account: &str, sender: &str, recipients: &[String], data: &[u8]) {
        let mut others = Vec::new();
        for recipient in recipients {
            if self.store(recipient, "INBOX", data, BTreeSet::new()).is_none() {
                others.push(recipient.clone());
            }
        }
        self.store(account, "Sent Items", data, BTreeSet::from(["\\Seen".to_owned()]));
        if !others.is_empty() {
            let mail =
                SentMail { sender: sender.to_owned(), recipients: others, data: data.to_vec() };
            self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
        }
    }

    pub(super) fn sent_elsewhere(&self) -> Vec<SentMail> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn mailboxes(&self) -> MutexGuard<'_, HashMap<String, Folders>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Folder {
    pub(super) fn new() -> Self {
        // a constant would let a client reuse what it cached from a folder of the same name before
        let validity =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { validity: u32::try_from(validity).unwrap_or(1), next_uid: 1, messages: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        data: &[u8],
        flags: BTreeSet<String>,
        received: SystemTime,
    ) -> u32 {
        let uid = self.next_uid;
        self.next_uid = self.next_uid.saturating_add(1);
        self.messages.push(Message { uid, flags, received, data: Arc::from(data) });
        uid
    }

    pub(super) fn remove(&mut self, uids: &BTreeSet<u32>) {
        self.messages.retain(|message| !uids.contains(&message.uid));
    }
}

impl Message {
    pub(super) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|held| held.eq_ignore_ascii_case(flag))
    }
}

/// The special-use attribute of a folder, with a space before it.
pub(super) fn special_use(folder: &str) -> &'static str {
    FOLDERS.iter().find(|(name, _)| *name == folder).map_or("", |(_, attribute)| attribute)
}

/// Folder names are case-sensitive, but for INBOX (RFC 3501 section 5.1).
pub(super) fn folder_name(name: &str) -> String {
    if name.eq_ignore_ascii_case("INBOX") {
        "INBOX".to_owned()
    } else {
        name.trim_end_matches('/').to_owned()
    }
}
