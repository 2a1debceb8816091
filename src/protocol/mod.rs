//! The dialogues up to the login, and SMTP's behind it where gatepost takes, watches or hands over the mail, as sans-IO
//! state machines: bytes in, steps out. What a load balancer says before them is a [`ProxyHeader`].
//!
//! A [`Frontend`] is the server's role towards the client, an [`Upstream`] the client's role towards
//! Exchange. There is one pair for each protocol; what all three share (line buffer, limits, counting of
//! errors, STARTTLS) stands once, in `frontend.rs` and `upstream.rs`.
//!
//! Invariant: no clock, no socket, no log in here, and splitting the input at any byte never changes
//! what comes out.

#![deny(clippy::indexing_slicing)]

mod frontend;
mod imap;
mod input;
mod pop3;
mod proxy_header;
mod refusal;
mod sasl;
mod smtp;
mod talk;
mod upstream;

pub use frontend::{Closing, Frontend, LocalTls, Step as FrontendStep};
pub use input::MAX_LINE;
pub use proxy_header::{Announced, NoHeader, OWN_PROXY_HEADER, ProxyHeader};
pub use refusal::Refusal;
pub use sasl::{Login, Xoauth2};
pub use smtp::{
    AllowedRecipients, ClientStep, DeviceRules, Dots, Encoding, Envelope, Noticed, Receiver,
    ReceiverRules, ReceiverStep, Recipient, Reply, Submission, SubmissionStep, Submitted, Verdict,
    Watch, is_status, session_refusal, spool_keywords,
};
pub use talk::Talk;
pub use upstream::{Goal, Phase, Rejection, Step as UpstreamStep, Upstream, Welcome};
