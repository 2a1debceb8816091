//! Recipients: Graph takes them from the header.
//!
//! Invariant: nothing of the header is written anew but the Bcc field.

use std::collections::BTreeSet;

use crate::outbox::{Header, header_recipients};
use crate::protocol::Envelope;

/// What a Bcc field needs besides the addresses: its name, and per address a comma, a line end and a blank.
const NAME: usize = 8;
const SEPARATOR: usize = 4;

/// Names the envelope's recipients in a header that lacks some; the error tells why Graph can't send it.
pub fn add_hidden_recipients(message: &mut Vec<u8>, envelope: &Envelope) -> Result<(), String> {
    let hidden = Hidden::of(message, envelope).map_err(|strangers| strangers.said())?;
    hidden.add_to(message);
    Ok(())
}

/// Recipients that the header does not name yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hidden(Vec<String>);

/// The header names people that the message is not for, or no more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Strangers(Vec<String>);

impl Hidden {
    /// Compares envelope and header.
    pub(super) fn of(message: &[u8], envelope: &Envelope) -> Result<Self, Strangers> {
        let named = header_recipients(message);
        let wanted = envelope.recipients.iter().map(|recipient| &recipient.address);
        let meant: BTreeSet<String> =
            wanted.clone().map(|address| address.to_lowercase()).collect();
        let strangers: Vec<_> = named.difference(&meant).cloned().collect();
        if !strangers.is_empty() {
            return Err(Strangers(strangers));
        }
        let mut seen = named;
        let hidden = wanted.filter(|address| seen.insert(address.to_lowercase()));
        Ok(Self(hidden.cloned().collect()))
    }

    /// How many octets they add at most.
    pub(super) fn len(&self) -> usize {
        let addresses: usize = self.0.iter().map(|address| address.len() + SEPARATOR).sum();
        if self.0.is_empty() { 0 } else { NAME + addresses }
    }

    /// Names them in a Bcc field in front, or in the one that is there: RFC 5322 section 3.6 has but one.
    pub(super) fn add_to(&self, message: &mut Vec<u8>) {
        if self.0.is_empty() {
            return;
        }
        let list = self.0.join(",\r\n ");
        let header = Header::read(message);
        let mut at = header.fields_at();
        for field in header.fields() {
            let end = at + field.raw().len();
            if field.is("Bcc") {
                let mut filled = format!("Bcc: {list}").into_bytes();
                if !header_recipients(field.raw()).is_empty() {
                    // Octet for octet: what is no address must not become one.
                    filled.extend_from_slice(b",\r\n ");
                    filled.extend_from_slice(field.value().trim_ascii_start());
                }
                filled.extend_from_slice(b"\r\n");
                message.splice(at..end, filled);
                return;
            }
            at = end;
        }
        let at = header.fields_at();
        // A blank at the top would make text a part of the field (RFC 5322 section 2.2.3): it is the body.
        let folds = matches!(message.get(at), Some(b' ' | b'\t'));
        let end = if folds { "\r\n" } else { "" };
        message.splice(at..at, format!("Bcc: {list}\r\n{end}").into_bytes());
    }
}

impl Strangers {
    /// For people.
    pub(super) fn said(&self) -> String {
        format!(
            "Microsoft Graph sends to whom To, Cc and Bcc name, and they name others than this delivery is for: {}",
            self.0.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Recipient;

    fn envelope(recipients: &[&str]) -> Envelope {
        let recipient =
            |address: &&str| Recipient { address: (*address).into(), parameters: vec![] };
        let recipients = recipients.iter().map(recipient).collect();
        Envelope { sender: "scan@contoso.com".into(), parameters: vec![], recipients }
    }

    fn added(message: &str, recipients: &[&str]) -> String {
        let hidden = Hidden::of(message.as_bytes(), &envelope(recipients)).unwrap();
        let mut octets = message.as_bytes().to_vec();
        hidden.add_to(&mut octets);
        assert!(octets.len() <= message.len() + hidden.len(), "{} more", hidden.len());
        String::from_utf8(octets).unwrap()
    }

    #[test]
    fn who_is_in_the_envelope_alone_gets_a_bcc_field() {
        let message = "To: \"a, b\" <A@x.com>\r\nSubject: s\r\n\r\nTo: nobody@x.com\r\n";
        assert_eq!(added(message, &["a@X.com"]), message);
        let two = added(message, &["a@x.com", "B@y.com", "b@y.com", "c@z.com"]);
        assert_eq!(two, format!("Bcc: B@y.com,\r\n c@z.com\r\n{message}"));
    }

    #[test]
    fn a_bcc_field_that_is_there_is_the_one() {
        let message = "To: a@x.com\r\nbCC : d@x.com,\r\n e@x.com\r\nX: y\r\n\r\n";
        let added = added(message, &["a@x.com", "d@x.com", "e@x.com", "f@x.com"]);
        let expected = "To: a@x.com\r\nBcc: f@x.com,\r\n d@x.com,\r\n e@x.com\r\nX: y\r\n\r\n";
        assert_eq!(added, expected);
    }

    /// Found by the fuzz target `graph_recipients`.
    #[test]
    fn what_is_no_address_does_not_become_one() {
        let mut message = b"Bcc: \xff@x.com, d@x.com\r\n\r\n".to_vec();
        let wanted = envelope(&["d@x.com", "f@x.com"]);
        Hidden::of(&message, &wanted).unwrap().add_to(&mut message);
        assert_eq!(message, b"Bcc: f@x.com,\r\n \xff@x.com, d@x.com\r\n\r\n");
        assert_eq!(header_recipients(&message).len(), 2);
    }

    /// Found by the fuzz target `graph_recipients`. The spool lets no such message in.
    #[test]
    fn text_at_the_top_does_not_become_a_recipient() {
        let message = " x: a@x.com\r\n";
        assert_eq!(added(message, &["f@x.com"]), format!("Bcc: f@x.com\r\n\r\n{message}"));
    }

    #[test]
    fn an_empty_bcc_field_is_filled() {
        for empty in ["Bcc:\r\n", "Bcc: \r\n", "BCC: undisclosed-recipients:;\r\n"] {
            let message = format!("{empty}X: y\r\n\r\n");
            assert_eq!(added(&message, &["f@x.com"]), "Bcc: f@x.com\r\nX: y\r\n\r\n");
        }
    }

    #[test]
    fn nobody_gets_what_was_not_for_them() {
        let message = b"To: a@x.com, b@x.com\r\nCc: Friends: c@x.com, d@x.com;\r\n\r\n";
        let strangers = Hidden::of(message, &envelope(&["a@x.com", "d@x.com"])).unwrap_err();
        assert_eq!(strangers, Strangers(vec!["b@x.com".into(), "c@x.com".into()]));
        assert!(strangers.said().ends_with("for: b@x.com, c@x.com"));
    }
}
