//! POP3's client role: STLS if need be, then `AUTH XOAUTH2` and the response on a line of its own.
//!
//! Invariant: the response is sent only when the upstream has asked for it, since Exchange takes no
//! initial response.

use super::super::sasl::Xoauth2;
use super::super::upstream::{
    Action, Dialect, Rejection, Welcome, broken, busy, known_rejection, not_permitted,
    token_rejected,
};

/// What is awaited.
enum State {
    Greeting,
    StartTls,
    /// `+`, to send the response.
    Challenge,
    /// The answer to the response.
    Answer,
}

/// POP3's dialect.
pub(in crate::protocol) struct Pop3Upstream {
    state: State,
    encrypted: bool,
    /// Not to log in.
    looks_only: bool,
}

impl Pop3Upstream {
    pub(in crate::protocol) fn new(encrypted: bool, looks_only: bool) -> Self {
        Self { state: State::Greeting, encrypted, looks_only }
    }

    fn authenticate(&mut self) -> Action {
        if self.looks_only {
            return Action::Ready(Welcome::default());
        }
        self.state = State::Challenge;
        Action::Send("AUTH XOAUTH2".into())
    }
}

impl Dialect for Pop3Upstream {
    fn line(&mut self, line: &str) -> Action {
        let accepted = line.starts_with("+OK");
        let challenged = line.starts_with('+') && !accepted;
        match self.state {
            State::Greeting if accepted && self.encrypted => self.authenticate(),
            State::Greeting if accepted => {
                self.state = State::StartTls;
                Action::Send("STLS".into())
            }
            State::Greeting if line.starts_with("-ERR") => Action::Reject(busy(line)),
            State::Greeting => Action::Reject(broken(&format!("not a POP3 greeting: {line}"))),
            State::StartTls if accepted => Action::StartTls,
            State::StartTls => Action::Reject(broken(&format!("it refuses STLS: {line}"))),
            State::Challenge if challenged => Action::Rest,
            State::Challenge if accepted => Action::Reject(broken("it logs in without a token")),
            // The error as a JSON challenge: it wants an empty answer, then comes the refusal.
            State::Answer if challenged => Action::Send(String::new()),
            State::Answer if accepted => Action::Ready(Welcome::default()),
            State::Challenge | State::Answer if line.starts_with("-ERR") => {
                Action::Reject(rejection(line))
            }
            State::Challenge | State::Answer => {
                Action::Reject(broken(&format!("not a POP3 response: {line}")))
            }
        }
    }

    fn tls_started(&mut self) -> Action {
        self.encrypted = true;
        self.authenticate()
    }

    fn log_in(&mut self, login: &Xoauth2, _: bool) -> Action {
        self.state = State::Answer;
        Action::SendToken(login.line_behind(""))
    }

    /// POP3 has no word for it: a `-ERR` may be an answer.
    fn is_goodbye(&self, _: &str) -> bool {
        false
    }
}

/// RFC 3206 and RFC 2449 section 8 for the codes; Exchange sends none.
fn rejection(line: &str) -> Rejection {
    let has = |code: &str| line.to_ascii_uppercase().contains(code);
    match known_rejection(line) {
        Some(known) => known,
        None if has("[SYS/TEMP]") || has("[IN-USE]") || has("[LOGIN-DELAY]") => busy(line),
        None if has("[SYS/PERM]") => not_permitted(line),
        None => token_rejected(line),
    }
}
