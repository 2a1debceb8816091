//! What brings a spooled message to the provider, by whichever way.
//!
//! Invariant: a courier tells for each recipient what became of it, or that nothing can go out by its way; it never
//! decides when the next attempt is.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Content;
use crate::protocol::Envelope;

/// A way out of the house, for one mailbox.
pub trait Courier: Send {
    /// Tries once.
    fn send<'a>(&'a mut self, message: &'a mut Message) -> BoxFuture<'a, Outcome>;
}

/// A message on its way.
#[derive(Debug)]
pub struct Message {
    /// Its name in the spool.
    pub id: String,
    /// With the recipients alone that are still to be served.
    pub envelope: Envelope,
    /// Its octets.
    pub content: Content,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// For each recipient of the envelope, in their order.
    Answered(Vec<Verdict>),
    /// Nothing can go out for this mailbox for now; it is not this message's fault.
    Held {
        /// Why.
        reason: String,
        /// For how long, if the provider said so.
        wait: Option<Duration>,
        /// When a person must act: on what.
        remedy: Option<String>,
    },
    /// This way is closed to this mailbox for good: the next one is taken, if there is one.
    Closed {
        /// The provider's words.
        said: String,
    },
    /// This message can't go by this way: the next one is taken for it alone; if there is none, it is refused.
    Unsuited {
        /// Why.
        said: String,
    },
}

/// What became of one recipient, in the provider's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The provider has it.
    Delivered(String),
    /// It may work later.
    Later(String),
    /// It never will.
    Refused(String),
}
