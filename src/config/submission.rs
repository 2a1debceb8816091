//! What the configuration says of mail on its way out: devices, senders, limits, the spool.
//!
//! Invariant: plain values, checked. Sizes are octets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::Account;

/// A `[[device]]`: who may hand over mail without a login.
#[derive(Debug)]
pub struct Device {
    /// For logs and people.
    pub name: String,
    /// From where.
    pub networks: Vec<IpNet>,
    /// For which mailbox; with the device's own `sender`, if it has one.
    pub account: Arc<Account>,
    /// Domains and addresses that it may write to; none: all.
    pub recipients: Option<Vec<String>>,
    /// Longest message, in octets, if not the spool's.
    pub size: Option<u64>,
    /// Messages a minute; none: no limit of its own.
    pub rate: Option<u32>,
    /// The line of the file where it begins.
    pub line: usize,
}

/// Wherever it stands in the file.
impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        let Self { name, networks, account, recipients, size, rate, line: _ } = self;
        (name, networks, account) == (&other.name, &other.networks, &other.account)
            && (recipients, size, rate) == (&other.recipients, &other.size, &other.rate)
    }
}

impl Device {
    /// How narrow its network at this address is; none: it is not there.
    pub(super) fn prefix_at(&self, peer: IpAddr) -> Option<u8> {
        let peer = peer.to_canonical();
        let at = self.networks.iter().filter(|network| network.contains(&peer));
        at.map(IpNet::prefix_len).max()
    }
}

/// In whose name a spooled message is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SenderRule {
    /// In the one that it came with.
    #[default]
    Keep,
    /// In the mailbox's.
    Mailbox,
    /// By the one that it came with: an address, `*@DOMAIN` or `*`, in lower case.
    Map(BTreeMap<String, String>),
}

/// What a mailbox may do at the provider's SMTP server; more is answered with errors there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent connections; none: any number.
    pub connections: Option<u32>,
    /// Messages in any 60 seconds; none: any number.
    pub messages_per_minute: Option<u32>,
    /// Recipients in any 24 hours; none: any number. gatepost counts and warns, the provider refuses.
    pub recipients_per_day: Option<u32>,
    /// How long a direct session waits for its turn.
    pub wait: Duration,
}

impl Default for Limits {
    /// Exchange Online's limits (Microsoft Learn, "Exchange Online limits", SMTP AUTH client submission). RFC 5321
    /// section 4.5.3.2 has clients wait five minutes for an answer: the turn comes, or the refusal, before.
    fn default() -> Self {
        Self {
            connections: Some(3),
            messages_per_minute: Some(30),
            recipients_per_day: Some(10_000),
            wait: Duration::from_secs(270),
        }
    }
}

/// `[spool]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// All messages together.
    pub size: u64,
    /// One message, announced as SIZE (RFC 1870).
    pub message: u64,
    /// The waits between the attempts; the last one goes on.
    pub retry: Vec<Duration>,
    /// From acceptance until a message has failed.
    pub give_up: Duration,
}

impl Default for SpoolSettings {
    /// RFC 5321 section 4.5.4.1: give-up time 4 to 5 days. 150 MB is Exchange Online's largest message.
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            size: 2 << 30,
            message: 150 << 20,
            retry: [1, 5, 15, 60].map(minutes).to_vec(),
            give_up: minutes(5 * 24 * 60),
        }
    }
}
