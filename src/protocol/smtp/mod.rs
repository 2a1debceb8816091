//! SMTP submission: RFC 5321, RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 3463 (codes).
//!
//! Up to the login as a server and as a client, and behind it as a server that takes mail itself (RFC 6409,
//! RFC 3030): the [`Receiver`], with the envelope and the content as its two halves.

mod content;
mod envelope;
mod frontend;
mod parameters;
mod receiver;
mod reply;
mod transaction;
mod upstream;

pub(super) use frontend::SmtpFrontend;
pub(super) use upstream::SmtpUpstream;

pub use envelope::{AllowedRecipients, Envelope, Recipient};
pub use receiver::{Receiver, ReceiverRules, ReceiverStep, spool_keywords};
pub use reply::Reply;
