//! SMTP submission: RFC 5321, RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 3463 (codes).
//!
//! Up to the login as a server and as a client, and behind it as a server that takes mail itself (RFC 6409,
//! RFC 3030), the [`Receiver`], as a client that hands it over, the [`Submission`], and between the two, the
//! [`Watch`].

mod answers;
mod content;
mod dots;
mod envelope;
mod frontend;
mod judgement;
mod offers;
mod parameters;
mod receiver;
mod reply;
mod submission;
mod transaction;
mod upstream;
mod watch;

pub(super) use frontend::SmtpFrontend;
pub use frontend::session_refusal;
pub(super) use upstream::SmtpUpstream;

pub use dots::Dots;
pub use envelope::{AllowedRecipients, Envelope, Recipient};
pub use receiver::{Receiver, ReceiverRules, ReceiverStep, spool_keywords};
pub use reply::{Reply, is_status};
pub use submission::{Encoding, Step as SubmissionStep, Submission, Submitted, Verdict};
pub use watch::{ClientStep, DeviceRules, Noticed, Watch};
