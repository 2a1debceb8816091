//! Mailboxes in memory, shared by IMAP, POP3 and SMTP.
//!
//! Invariant: within a folder, identifiers only grow and messages stand in their order (RFC 3501
//! section 2.3.1.1), and every change wakes whoever subscribed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use super::{
    calendar::{self, Style},
    locked, samples,
    tokens::folded,
};

/// The folders of a new mailbox.
const FOLDERS: [&str; 6] =
    ["INBOX", "Archive", "Deleted Items", "Drafts", "Junk Email", "Sent Items"];

/// A message that was accepted from a client for sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMail {
    /// Its place in the order in which messages were accepted, from 1.
    pub sequence: u64,
    /// When it was accepted, by this machine's clock.
    pub accepted: SystemTime,
    /// How it came.
    pub way: Way,
    /// The mailbox whose login sent it.
    pub mailbox: String,
    /// The address in MAIL FROM; empty for `<>`.
    pub sender: String,
    /// The parameters of MAIL, as they were written: `SIZE=20`.
    pub sender_parameters: Vec<String>,
    /// The addresses in RCPT TO, in their order.
    pub recipients: Vec<String>,
    /// The parameters of each RCPT.
    pub recipient_parameters: Vec<Vec<String>>,
    /// The message as it was sent, nothing added: dot-stuffing undone, or of Graph's MIME all but `Bcc`.
    pub data: Arc<[u8]>,
    /// What a draft of Graph's had besides its MIME.
    pub attachments: Vec<Attachment>,
}

/// How a message was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By an SMTP session.
    Smtp,
    /// By a request to Microsoft Graph.
    Graph,
}

/// A file that came to a draft of Graph's by a request of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The file's name.
    pub name: String,
    /// Its media type.
    pub content_type: String,
    /// What a `cid:` in the text refers to.
    pub content_id: Option<String>,
    /// Whether it is shown within the text.
    pub inline: bool,
    /// Its octets.
    pub data: Arc<[u8]>,
}

/// Whom a message is from and whom it goes to.
#[derive(Default)]
pub(super) struct Envelope {
    pub(super) sender: String,
    pub(super) sender_parameters: Vec<String>,
    pub(super) recipients: Vec<String>,
    pub(super) recipient_parameters: Vec<Vec<String>>,
}

/// A message on its way to be a [`SentMail`].
pub(super) struct Submission {
    pub(super) way: Way,
    pub(super) mailbox: String,
    pub(super) envelope: Envelope,
    pub(super) data: Arc<[u8]>,
    /// What arrives, if that is not `data`.
    pub(super) arrives: Option<Arc<[u8]>>,
    /// What the sender keeps, if that is not what arrives.
    pub(super) kept: Option<Arc<[u8]>>,
    pub(super) attachments: Vec<Attachment>,
}

/// A message in a folder. A clone shares its octets.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) uid: u32,
    pub(super) flags: BTreeSet<String>,
    /// An RFC 3501 `date-time`; what APPEND gave comes back as it was.
    pub(super) received: String,
    pub(super) data: Arc<[u8]>,
}

/// A folder and what RFC 3501 section 2.3.1.1 wants it to remember.
pub(super) struct Folder {
    pub(super) validity: u32,
    pub(super) next_uid: u32,
    pub(super) messages: Vec<Message>,
}

/// One mailbox's folders by name.
pub(super) type Folders = BTreeMap<String, Folder>;

/// All mailboxes, and what was sent.
pub(super) struct PostOffice {
    mailboxes: HashMap<String, Mutex<Folders>>,
    sent: Mutex<Vec<SentMail>>,
    /// Wakes the sessions that watch; told at every change of any mailbox.
    pub(super) changed: watch::Sender<()>,
}

impl PostOffice {
    pub(super) fn new(addresses: &[String]) -> Self {
        let folders = || FOLDERS.iter().map(|name| ((*name).to_owned(), Folder::new()));
        let empty = |address: &String| (folded(address), Mutex::new(folders().collect()));
        let mailboxes = addresses.iter().map(empty).collect();
        let office = Self { mailboxes, sent: Mutex::default(), changed: watch::Sender::new(()) };
        for address in addresses {
            for sample in samples::messages(address) {
                office.store(address, "INBOX", sample.into(), &[]);
            }
        }
        office
    }

    /// The folders of a mailbox; `None` if there is none of that address.
    pub(super) fn open(&self, address: &str) -> Option<&Mutex<Folders>> {
        self.mailboxes.get(&folded(address))
    }

    /// Copies of the messages in a folder, oldest first.
    pub(super) fn messages(&self, address: &str, folder: &str) -> Vec<Message> {
        let folders = self.open(address).map(locked);
        let folder = folders.as_ref().and_then(|folders| folders.get(folder));
        folder.map(|folder| folder.messages.clone()).unwrap_or_default()
    }

    /// Puts a message into one folder of a mailbox; `false` if one of them does not exist.
    pub(super) fn store(
        &self,
        address: &str,
        folder: &str,
        data: Arc<[u8]>,
        flags: &[&str],
    ) -> bool {
        let mut folders = self.open(address).map(locked);
        let Some(folder) = folders.as_mut().and_then(|folders| folders.get_mut(folder)) else {
            return false;
        };
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        folder.add(data, flags, calendar::now(Style::Imap));
        self.changed.send_replace(());
        true
    }

    /// Delivers a submitted message: to inboxes here, to the sender's Sent Items as Exchange does, and to
    /// the list of all that was sent.
    pub(super) fn deliver(&self, submission: Submission) {
        let Submission { way, mailbox, envelope, data, arrives, kept, attachments } = submission;
        let Envelope { sender, sender_parameters, recipients, recipient_parameters } = envelope;
        let arrives = arrives.unwrap_or_else(|| data.clone());
        for recipient in &recipients {
            self.store(recipient, "INBOX", arrives.clone(), &[]);
        }
        self.store(&mailbox, "Sent Items", kept.unwrap_or(arrives), &["\\Seen"]);
        let mut sent = locked(&self.sent);
        let (sequence, accepted) = (sent.len() as u64 + 1, SystemTime::now());
        sent.push(SentMail {
            sequence,
            accepted,
            way,
            mailbox,
            sender,
            sender_parameters,
            recipients,
            recipient_parameters,
            data,
            attachments,
        });
    }

    /// All that was sent, oldest first.
    pub(super) fn sent(&self) -> Vec<SentMail> {
        locked(&self.sent).clone()
    }

    /// The same, and forgets them.
    pub(super) fn take_sent(&self) -> Vec<SentMail> {
        std::mem::take(&mut *locked(&self.sent))
    }

    /// Removes all messages but the oldest ones.
    pub(super) fn empty(&self, address: &str, folder: &str, keep: usize) {
        let mut folders = self.open(address).map(locked);
        if let Some(folder) = folders.as_mut().and_then(|folders| folders.get_mut(folder)) {
            folder.messages.truncate(keep);
            self.changed.send_replace(());
        }
    }
}

impl Folder {
    pub(super) fn new() -> Self {
        // a constant would let a client reuse what it cached from a folder of the same name before
        let validity = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { validity: u32::try_from(validity).unwrap_or(1), next_uid: 1, messages: Vec::new() }
    }

    /// Adds a message; the answer is its UID.
    pub(super) fn add(
        &mut self,
        data: Arc<[u8]>,
        flags: BTreeSet<String>,
        received: String,
    ) -> u32 {
        let uid = self.next_uid;
        self.next_uid = uid.saturating_add(1);
        self.messages.push(Message { uid, flags, received, data });
        uid
    }

    pub(super) fn uids(&self) -> Vec<u32> {
        self.messages.iter().map(|message| message.uid).collect()
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
