//! IMAP4rev1 up to the login: RFC 3501, RFC 4959 (SASL-IR), RFC 7888 (LITERAL+), RFC 2971 (ID).

mod command;
mod frontend;
mod talk;
mod upstream;

pub(super) use frontend::ImapFrontend;
pub(super) use talk::ImapTalk;
pub(super) use upstream::ImapUpstream;
