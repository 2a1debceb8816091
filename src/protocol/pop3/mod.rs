//! POP3 up to the login: RFC 1939, RFC 2449 (CAPA), RFC 2595 (STLS), RFC 5034 (AUTH), RFC 3206 (codes).

mod frontend;
mod talk;
mod upstream;

pub(super) use frontend::Pop3Frontend;
pub(super) use talk::Pop3Talk;
pub(super) use upstream::Pop3Upstream;
