//! How far a client is with a message, up to its content: RFC 5321 section 3.3.
//!
//! Invariant: a message begins only with a sender and at least one recipient that may be sent to.

use super::content::Decoder;
use super::envelope::{self, AllowedRecipients, Envelope, Mail};
use super::parameters::has_smtputf8;
use super::reply::Reply;

/// Recipients of a message: Exchange Online's limit (RFC 5321 section 4.5.3.1.8 wants at least 100).
const MAX_RECIPIENTS: usize = 500;

/// How far the client is with a message.
pub(super) enum Transaction {
    /// Before MAIL.
    None,
    /// It was refused at MAIL, at all of RCPT or at a chunk: so is what was pipelined behind that, which is
    /// no further error (RFC 3030 section 2 for BDAT).
    Refused,
    /// Before the content.
    Open(Box<Open>),
    /// The driver has the envelope.
    Begun(Decoder),
}

impl Transaction {
    /// Whether the content can begin; if not, the answer.
    pub(super) fn check_ready(&self) -> Result<(), Reply> {
        match self {
            Self::Open(open) if !open.envelope.recipients.is_empty() => Ok(()),
            Self::Open(open) if open.refused => Err(Reply::new(554, "5.5.1 no valid recipients")),
            Self::Open(_) => Err(Reply::new(503, "5.5.1 RCPT comes before the message")),
            Self::Refused => Err(refused()),
            Self::None | Self::Begun(_) => {
                Err(Reply::new(503, "5.5.1 MAIL and RCPT come before the message"))
            }
        }
    }
}

/// An envelope in the making.
pub(super) struct Open {
    pub(super) envelope: Envelope,
    /// In words, each once.
    pub(super) mends: Vec<String>,
    /// A recipient was refused.
    pub(super) refused: bool,
}

impl Open {
    pub(super) fn new(mail: Mail) -> Self {
        let Mail { sender, parameters, mends } = mail;
        let envelope = Envelope { sender, parameters, recipients: Vec::new() };
        Self { envelope, mends, refused: false }
    }

    /// RCPT.
    pub(super) fn add(&mut self, arguments: &[u8], allowed: Option<&AllowedRecipients>) -> Reply {
        match self.try_add(arguments, allowed) {
            Ok(()) => Reply::new(250, "2.1.5 recipient taken"),
            Err(reply) => {
                self.refused = true;
                reply
            }
        }
    }

    fn try_add(
        &mut self,
        arguments: &[u8],
        allowed: Option<&AllowedRecipients>,
    ) -> Result<(), Reply> {
        if self.envelope.recipients.len() >= MAX_RECIPIENTS {
            let text = format!("4.5.3 {MAX_RECIPIENTS} recipients of a message are the limit");
            return Err(Reply::new(452, text));
        }
        let rcpt = envelope::rcpt(arguments)?;
        let address = &rcpt.recipient.address;
        if allowed.is_some_and(|allowed| !allowed.allows(address)) {
            let words = "is not among the recipients that this device may send to";
            return Err(Reply::new(550, format!("5.7.1 {address} {words}")));
        }
        if !address.is_ascii() && !has_smtputf8(&self.envelope.parameters) {
            self.envelope.parameters.push("SMTPUTF8".into());
            self.mends.push("RCPT TO without SMTPUTF8".into());
        }
        for mend in rcpt.mends {
            if !self.mends.contains(&mend) {
                self.mends.push(mend);
            }
        }
        self.envelope.recipients.push(rcpt.recipient);
        Ok(())
    }
}

/// The answer to what belongs to a message that was refused.
pub(super) fn refused() -> Reply {
    Reply::new(503, "5.5.1 this message was refused: MAIL begins another")
}
