//! SMTP submission up to the login: RFC 5321, RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 3463 (codes).

mod envelope;
mod frontend;
mod upstream;

pub use envelope::{Envelope, Recipient};
pub(super) use frontend::SmtpFrontend;
pub(super) use upstream::SmtpUpstream;
