//! Who takes a message to the provider: by SMTP or by Microsoft Graph.
//!
//! Invariant: a courier decides nothing about a message. It tells what the provider said, and whether that is about
//! the message, about the mailbox, or about the way.

use std::future;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Begun, Content};
use crate::protocol::Envelope;
pub use crate::protocol::Verdict;

/// One way to the provider, for one mailbox: one message at a time.
pub trait Courier: Send {
    /// Hands a message over. When it is dropped meanwhile, the message may have arrived all the same.
    fn send<'a>(&'a mut self, message: &'a mut Message) -> BoxFuture<'a, Outcome>;

    /// Comes to its end when somebody else has more need of what the courier keeps open between two messages.
    fn wanted(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(future::pending())
    }

    /// Gives back what it keeps open, politely and soon.
    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(future::ready(()))
    }
}

/// A message on its way.
#[derive(Debug)]
pub struct Message {
    /// With the recipients only that are still to be served.
    pub envelope: Envelope,
    /// From its beginning; who reads it again rewinds it.
    pub content: Content,
    /// What an earlier attempt has left at the provider.
    pub begun: Begun,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// For each recipient of the envelope, in order.
    Answered(Vec<Verdict>),
    /// Nothing can go out for this mailbox for now. It is not this message's fault.
    Held {
        /// In words.
        reason: String,
        /// How long the provider wants to be left alone, if it told.
        wait: Option<Duration>,
        /// What a person has to do, if one must.
        remedy: Option<String>,
    },
    /// The session broke off at this message, before its content. Most likely it is the mailbox's trouble; if it is so
    /// each time, the message's.
    Broken {
        /// In words.
        reason: String,
    },
    /// This way is closed to this mailbox until a person acts: the next way is taken, if there is one.
    Closed {
        /// The provider's words.
        said: String,
    },
    /// This message can't go by this way, which stays open: the next way is taken for it alone; if there is none, it
    /// is refused.
    Unsuited {
        /// Why.
        said: String,
    },
}
