//! An IMAP or POP3 session behind its login, seen from outside: bytes pass untouched, and a [`Talk`] knows when nothing
//! is under way, so that gatepost can end the session there when it is stopped.
//!
//! Invariant: no octet of what passes is kept beyond the first words of a line. What is not understood is never
//! settled: such a session gets no word of gatepost's.

use std::mem;

use super::frontend::Closing;
use super::imap::ImapTalk;
use super::pop3::Pop3Talk;
use crate::vocabulary::Protocol;

/// What is kept of a line: a tag and a command. Behind a longer tag IDLE is a command like another, and never settled.
const HEAD: usize = 32;

/// A session that is looked at. SMTP's has a [`super::Watch`].
#[derive(Debug)]
pub struct Talk(Kind);

#[derive(Debug)]
enum Kind {
    Imap(ImapTalk),
    Pop3(Pop3Talk),
    /// Nothing is known of it.
    Unknown,
}

impl Talk {
    /// Directly behind a login.
    pub fn new(protocol: Protocol) -> Self {
        Self(match protocol {
            Protocol::Imap => Kind::Imap(ImapTalk::default()),
            Protocol::Pop3 => Kind::Pop3(Pop3Talk::default()),
            Protocol::Smtp => Kind::Unknown,
        })
    }

    /// The client has sent these.
    pub fn client(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Kind::Imap(talk) => talk.client(bytes),
            Kind::Pop3(talk) => talk.client(bytes),
            Kind::Unknown => {}
        }
        self.give_up_if_lost();
    }

    /// The upstream has sent these.
    pub fn server(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Kind::Imap(talk) => talk.server(bytes),
            Kind::Pop3(talk) => talk.server(bytes),
            Kind::Unknown => {}
        }
        self.give_up_if_lost();
    }

    /// What is not understood any more is not looked at any more.
    fn give_up_if_lost(&mut self) {
        let is_lost = match &self.0 {
            Kind::Imap(talk) => talk.is_lost(),
            Kind::Pop3(talk) => talk.is_lost(),
            Kind::Unknown => false,
        };
        if is_lost {
            self.0 = Kind::Unknown;
        }
    }

    /// Between two lines, with no command that is not answered; IMAP's IDLE (RFC 2177) is none.
    pub fn is_settled(&self) -> bool {
        match &self.0 {
            Kind::Imap(talk) => talk.is_settled(),
            Kind::Pop3(talk) => talk.is_settled(),
            Kind::Unknown => false,
        }
    }

    /// What the client is told where it is settled. POP3 has no word that is not an answer (RFC 1939 section 3).
    pub fn goodbye(&self, closing: Closing) -> Vec<u8> {
        // Another attempt is of no use then (RFC 5530 section 3).
        let code = match closing {
            Closing::MailboxRemoved => "[CONTACTADMIN] ",
            _ => "",
        };
        match &self.0 {
            Kind::Imap(_) => format!("* BYE {code}{}\r\n", closing.text()).into_bytes(),
            Kind::Pop3(_) | Kind::Unknown => Vec::new(),
        }
    }
}

/// The first octets of a line that comes in pieces.
#[derive(Debug)]
pub(super) struct Head {
    octets: [u8; HEAD],
    length: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self { octets: [0; HEAD], length: 0 }
    }
}

impl Head {
    /// More octets of the line; what is beyond the head is forgotten.
    pub(super) fn push(&mut self, octets: &[u8]) {
        let room = self.octets.get_mut(self.length..).unwrap_or_default();
        let kept = room.len().min(octets.len());
        for (place, octet) in room.iter_mut().zip(octets) {
            *place = *octet;
        }
        self.length += kept;
    }

    /// What there is, and begins anew.
    pub(super) fn take(&mut self) -> Self {
        mem::take(self)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.octets.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `>` before what the client sends, `<` before what the server does; whether it is settled behind each.
    pub(in crate::protocol) fn settled(protocol: Protocol, talk: &[(&str, bool)]) {
        for piece in [1, 2, 3, usize::MAX] {
            let mut seen = Talk::new(protocol);
            for (step, expected) in talk {
                let (side, bytes) = step.split_at(1);
                for part in bytes.as_bytes().chunks(piece) {
                    match side {
                        ">" => seen.client(part),
                        _ => seen.server(part),
                    }
                }
                assert_eq!(seen.is_settled(), *expected, "behind {step:?} in pieces of {piece}");
            }
        }
    }
}
