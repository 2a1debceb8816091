//! SMTP's client role: EHLO, STARTTLS and EHLO again if need be, `AUTH XOAUTH2`, the response on a line
//! of its own.
//!
//! Invariant: the response never stands behind the command. A token has 1.5 to 2.5 KB and a command line
//! with its initial response at most 512 octets (RFC 4954 section 4).

use super::super::sasl::Xoauth2;
use super::super::upstream::{
    Action, Dialect, Rejection, Welcome, broken, busy, known_rejection, not_permitted,
    token_rejected,
};

/// What is awaited.
enum State {
    Greeting,
    Ehlo,
    StartTls,
    /// 334, to send the response.
    Challenge,
    /// The answer to the response.
    Answer,
    /// 221.
    Quit,
}

/// SMTP's dialect.
pub(in crate::protocol) struct SmtpUpstream {
    state: State,
    encrypted: bool,
    /// Not to log in.
    looks_only: bool,
    ehlo: String,
    /// Keywords of the EHLO answer that is coming in.
    keywords: Vec<String>,
    /// The reply that is coming in, on one line: servers spread the reason over several.
    reply: String,
}

impl SmtpUpstream {
    pub(in crate::protocol) fn new(encrypted: bool, looks_only: bool, host: &str) -> Self {
        Self {
            state: State::Greeting,
            encrypted,
            looks_only,
            ehlo: format!("EHLO {host}"),
            keywords: Vec::new(),
            reply: String::new(),
        }
    }

    fn say_ehlo(&mut self) -> Action {
        self.state = State::Ehlo;
        self.keywords.clear();
        Action::Send(self.ehlo.clone())
    }

    /// The last line of a reply.
    fn reply(&mut self, code: u16, line: &str) -> Action {
        match (&self.state, code) {
            (State::Greeting, 220) => self.say_ehlo(),
            (State::Ehlo, 250) if !self.encrypted => {
                self.state = State::StartTls;
                Action::Send("STARTTLS".into())
            }
            (State::Ehlo, 250) => self.identified(),
            (State::StartTls, 220) => Action::StartTls,
            (State::StartTls, _) => Action::Reject(broken(&format!("it refuses STARTTLS: {line}"))),
            (State::Challenge, 334) => Action::Rest,
            // The error as a JSON challenge: it wants an empty answer, then comes the refusal.
            (State::Answer, 334) => Action::Send(String::new()),
            (State::Answer, 235) | (State::Quit, _) => self.ready(),
            (_, 400..500) => Action::Reject(busy(line)),
            (State::Challenge | State::Answer, 500..600) => Action::Reject(rejection(code, line)),
            _ => Action::Reject(broken(&format!("an answer out of turn: {line}"))),
        }
    }

    fn identified(&mut self) -> Action {
        let (state, command) = match self.looks_only {
            false => (State::Challenge, "AUTH XOAUTH2"),
            true => (State::Quit, "QUIT"),
        };
        self.state = state;
        Action::Send(command.into())
    }

    fn ready(&mut self) -> Action {
        Action::Ready(Welcome { capabilities: std::mem::take(&mut self.keywords).into() })
    }
}

impl Dialect for SmtpUpstream {
    fn line(&mut self, line: &str) -> Action {
        let Some((code, last)) = reply_code(line) else {
            return Action::Reject(broken(&format!("not an SMTP reply: {line}")));
        };
        let first = self.reply.is_empty();
        match line.get(4..) {
            Some(_) if self.reply.len() > MAX_REPLY => {}
            Some(text) if !first => self.reply += &format!(" {text}"),
            None if !first => {}
            _ => self.reply += line,
        }
        // The first line of the EHLO answer is the server's name.
        if matches!(self.state, State::Ehlo) && code == 250 && !first {
            self.keywords.extend(keyword(line));
        }
        if !last {
            return Action::Wait;
        }
        let reply = std::mem::take(&mut self.reply);
        self.reply(code, &reply)
    }

    fn tls_started(&mut self) -> Action {
        self.encrypted = true;
        self.say_ehlo()
    }

    fn log_in(&mut self, login: &Xoauth2, _: bool) -> Action {
        self.state = State::Answer;
        Action::SendToken(login.line_behind(""))
    }

    /// RFC 5321 section 3.8: of a server that closes, at any time.
    fn is_goodbye(&self, line: &str) -> bool {
        reply_code(line).is_some_and(|(code, _)| code == 421)
    }
}

/// Its code, and whether it is the last line of the reply (RFC 5321 section 4.2.1).
pub(super) fn reply_code(line: &str) -> Option<(u16, bool)> {
    let code = line.get(..3)?.parse().ok().filter(|code| (200..600).contains(code))?;
    match line.as_bytes().get(3) {
        None | Some(b' ') => Some((code, true)),
        Some(b'-') => Some((code, false)),
        Some(_) => None,
    }
}

/// Enough of a reply to see its reason: Exchange's have up to 300 octets.
const MAX_REPLY: usize = 1024;

/// Longest EHLO keyword with its parameters: a reply line has 512 octets (RFC 5321 section 4.5.3.1.5),
/// of which the code and the line end take six.
const MAX_KEYWORD: usize = 506;

/// A keyword with its parameters, if it is one that can be repeated to a client.
fn keyword(line: &str) -> Option<String> {
    let text = line.get(4..)?.trim();
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    (!text.is_empty() && text.len() <= MAX_KEYWORD && printable).then(|| text.to_owned())
}

/// RFC 4954 section 6 for the codes, with Exchange's enhanced ones.
fn rejection(code: u16, line: &str) -> Rejection {
    match known_rejection(line) {
        Some(known) => known,
        None if code == 535 => token_rejected(line),
        None => not_permitted(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_codes() {
        assert_eq!(reply_code("250-SIZE 1"), Some((250, false)));
        assert_eq!(reply_code("250 OK"), Some((250, true)));
        assert_eq!(reply_code("334"), Some((334, true)));
        for line in ["", "25", "2500", "abc x", "99 x", "999 x"] {
            assert_eq!(reply_code(line), None, "{line}");
        }
    }
}
