//! The words that the configuration, the protocols and the network share.
//!
//! Invariant: plain values, no behaviour beyond their names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A mail protocol that gatepost speaks on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// IMAP4rev1, RFC 3501.
    Imap,
    /// POP3, RFC 1939.
    Pop3,
    /// SMTP submission, RFC 5321 and RFC 6409.
    Smtp,
}

impl Protocol {
    /// All of them, in the order in which they are listed to people.
    pub const ALL: [Self; 3] = [Self::Imap, Self::Pop3, Self::Smtp];

    /// The name as the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Smtp => "smtp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.name() == name)
            .ok_or_else(|| format!("{name:?} is not a protocol; use imap, pop3 or smtp"))
    }
}

/// How TLS begins on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Not at all: for loopback.
    #[default]
    None,
    /// The client asks for it in the dialogue (RFC 2595, RFC 3207) and may not log in before.
    StartTls,
    /// From the first byte (RFC 8314).
    Implicit,
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::StartTls => "starttls",
            Self::Implicit => "implicit",
        })
    }
}

/// What becomes of a message that a client hands over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// The client talks through to the upstream and hears its answer.
    #[default]
    Direct,
    /// gatepost takes it, answers when it is safely on disk, and delivers by itself.
    Spool,
}

/// What a line feed without its carriage return is, in a message (RFC 5321 section 2.3.8 forbids it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BareLf {
    /// A reason to refuse the message.
    #[default]
    Refuse,
    /// A line's end, as old devices mean it.
    Accept,
}

/// By what a spooled message goes to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// SMTP submission with XOAUTH2.
    Smtp,
    /// Microsoft Graph's `sendMail`.
    Graph,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Smtp => "smtp",
            Self::Graph => "graph",
        })
    }
}

/// What a token opens. Entra gives one for each: a token request names one resource's scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// IMAP, POP3 and SMTP.
    Mail,
    /// Microsoft Graph.
    Graph,
}

impl Resource {
    /// Mail first: where both are due, a login may wait for it.
    pub const ALL: [Self; 2] = [Self::Mail, Self::Graph];
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mail => "mail",
            Self::Graph => "Microsoft Graph",
        })
    }
}

/// What has to change before tokens are granted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The sign-in: it was revoked, has expired, or lacks a consent. The same refresh token stays useless.
    SignIn,
    /// The app registration, its secret or the configuration.
    Registration,
}
