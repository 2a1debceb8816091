//! What MAIL and RCPT say: RFC 5321 sections 4.1.1.2 and 4.1.2.

use serde::{Deserialize, Serialize};

/// What a message is sent with (RFC 5321 section 3.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Empty: the null sender. Of a device it may be a name without a domain.
    pub sender: String,
    /// Of MAIL, as they were written, without SIZE and AUTH.
    pub parameters: Vec<String>,
    /// At least one in a message.
    pub recipients: Vec<Recipient>,
}

/// Whom a message is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// With its domain.
    pub address: String,
    /// NOTIFY and ORCPT (RFC 3461), as they were written.
    pub parameters: Vec<String>,
}
