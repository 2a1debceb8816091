//! How a connection ended, in the words of its one line in the log.
//!
//! Invariant: nothing of it is what a client has sent.

use std::fmt;
use std::io;

use crate::lobby::Displaced;
use crate::net::{Relayed, why_no_tls};
use crate::outbox::Taken;
use crate::protocol::Closing;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// Without a login.
    Closed(Closing),
    /// The connection broke before its login.
    Lost(io::Error),
    /// No TLS with the client.
    Handshake(io::Error),
    /// After a session with the provider.
    Session(Relayed),
    /// After a session with the spool.
    Taken(Taken),
    /// gatepost was stopped during the session, or its mailbox left the configuration.
    Cut,
}

impl From<Displaced> for Ending {
    fn from(_: Displaced) -> Self {
        Self::Closed(Closing::Displaced)
    }
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(closing) => f.write_str(closing.text()),
            Self::Lost(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str(Closing::Quit.text())
            }
            Self::Lost(error) => write!(f, "broken off before a login: {error}"),
            Self::Handshake(error) => {
                write!(f, "no TLS with the client: {} ({error})", why_no_tls(error))
            }
            Self::Session(Relayed { end: Ok(()), dismissed: true, .. }) => {
                f.write_str("session ended by gatepost, with nothing under way")
            }
            Self::Session(Relayed { end: Ok(()), .. }) => f.write_str("session done"),
            Self::Session(Relayed { end: Err(error), .. }) => {
                write!(f, "session broken off: {error}")
            }
            Self::Taken(taken) => taken.fmt(f),
            Self::Cut => f.write_str("session cut off: gatepost stops, or its mailbox is gone"),
        }
    }
}
