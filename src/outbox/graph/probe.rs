//! Whether Graph would take mail of a mailbox, tried with a request that can't send any.
//!
//! Invariant: what it sends is no message.

use reqwest::Method;

use super::Graph;
use super::body::Body;
use super::client::Call;
use super::fault::{Fault, Said};
use crate::secret::Secret;

/// No base64, so that Graph refuses it as a message once it has let the request in.
const NO_MESSAGE: &[u8] = b"!";

/// What came of it, in Graph's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// The token may send as the mailbox, as far as Graph tells without a message.
    LetIn,
    /// It may not.
    Refused(String),
    /// That can't be told for now.
    NotNow(String),
}

impl Graph {
    /// Tries the token at the mailbox. Mail.Send permits nothing else that would be harmless.
    pub async fn probe(&self, mailbox: &str, token: &Secret<String>) -> Probed {
        let url = self.url(mailbox, &["sendMail"]);
        let body = Body::Octets(NO_MESSAGE.into());
        let call = Call { method: Method::POST, url, kind: "text/plain", body };
        match self.ask(mailbox, call, Some(token)).await {
            Ok(_) => Probed::LetIn,
            Err(Fault::Said(Said { status: 400, code, .. })) if !code.is_empty() => Probed::LetIn,
            Err(fault) if fault.may_pass() => Probed::NotNow(fault.to_string()),
            Err(fault) => Probed::Refused(fault.to_string()),
        }
    }
}
