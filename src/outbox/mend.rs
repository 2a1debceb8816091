//! Senders and headers, put right.

use crate::clock::Timestamp;
use crate::config::SenderRule;

/// What a message is mended by.
#[derive(Clone, Copy, Debug)]
pub struct MendRules<'a> {
    /// The mailbox that the message goes out by.
    pub mailbox: &'a str,
    /// What becomes of the sender.
    pub sender: &'a SenderRule,
    /// When the message was taken.
    pub now: Timestamp,
    /// Tells the message from all others.
    pub queue_id: &'a str,
}

/// A mended message's head.
#[derive(Debug, PartialEq, Eq)]
pub struct Mended {
    /// In place of the header that was given.
    pub header: Vec<u8>,
    /// The envelope's sender.
    pub sender: String,
    /// What was changed, in words for the log.
    pub mends: Vec<String>,
}

/// Stands in until the branch with the real one is merged.
pub fn mend(header: &[u8], envelope_sender: &str, _rules: &MendRules<'_>) -> Mended {
    Mended { header: header.to_vec(), sender: envelope_sender.to_owned(), mends: Vec::new() }
}
