//! IMAP's client role: STARTTLS if need be, `AUTHENTICATE XOAUTH2` with its initial response.
//!
//! Invariant: `PREAUTH` is never accepted: it would be somebody else's mailbox, or an attacker keeping TLS
//! away (RFC 3501 section 7.1.4).

use super::super::sasl::Xoauth2;
use super::super::upstream::{
    Action, Dialect, Rejection, Welcome, beginning, broken, busy, known_rejection, not_permitted,
    token_rejected,
};

/// What is awaited.
enum State {
    Greeting,
    StartTls,
    Authenticate,
    Capability,
}

/// IMAP's dialect.
pub(in crate::protocol) struct ImapUpstream {
    state: State,
    encrypted: bool,
    /// Not to log in.
    looks_only: bool,
    /// Ask for the capabilities if they are not told.
    learn: bool,
    capabilities: Vec<String>,
}

impl ImapUpstream {
    pub(in crate::protocol) fn new(encrypted: bool, looks_only: bool) -> Self {
        let (state, capabilities) = (State::Greeting, Vec::new());
        Self { state, encrypted, looks_only, learn: false, capabilities }
    }

    /// Its next word is that of the login.
    fn greeted(&self) -> Action {
        match self.looks_only {
            true => Action::Ready(Welcome::default()),
            false => Action::Rest,
        }
    }

    fn greeting(&mut self, line: &str) -> Action {
        match word_behind(line, "*") {
            Some("OK") if self.encrypted => self.greeted(),
            Some("OK") => {
                self.state = State::StartTls;
                Action::Send("g1 STARTTLS".into())
            }
            Some("BYE") => Action::Reject(busy(line)),
            _ => Action::Reject(broken(&format!("not an IMAP greeting: {line}"))),
        }
    }

    fn start_tls(&self, line: &str) -> Action {
        match word_behind(line, "g1") {
            Some("OK") => Action::StartTls,
            Some(_) => Action::Reject(broken(&format!("it refuses STARTTLS: {line}"))),
            None => self.untagged(line),
        }
    }

    fn authenticated(&mut self, line: &str) -> Action {
        match word_behind(line, "g2") {
            Some("OK") => {
                if let Some(capabilities) = between(line, "[CAPABILITY ", "]") {
                    self.capabilities = words(capabilities);
                }
                if self.capabilities.is_empty() && self.learn {
                    self.state = State::Capability;
                    return Action::Send("g3 CAPABILITY".into());
                }
                self.ready()
            }
            Some(_) => Action::Reject(rejection(line)),
            // The error as a JSON challenge: it wants an empty answer, then comes the refusal.
            None if line.starts_with('+') => Action::Send(String::new()),
            None => {
                self.note_capabilities(line);
                self.untagged(line)
            }
        }
    }

    fn capability(&mut self, line: &str) -> Action {
        match word_behind(line, "g3") {
            // Exchange lets a good token in and says only now that the mailbox is not the token's.
            Some("NO" | "BAD") if known_rejection(line).is_some() => {
                Action::Reject(rejection(line))
            }
            // Without capabilities the session is still good.
            Some(_) => self.ready(),
            None => {
                self.note_capabilities(line);
                self.untagged(line)
            }
        }
    }

    fn note_capabilities(&mut self, line: &str) {
        const UNTAGGED: &str = "* CAPABILITY ";
        if let Some((start, capabilities)) = line.split_at_checked(UNTAGGED.len())
            && start.eq_ignore_ascii_case(UNTAGGED)
        {
            self.capabilities = words(capabilities);
        }
    }

    fn untagged(&self, line: &str) -> Action {
        match word_behind(line, "*") {
            Some("BYE") => Action::Reject(busy(line)),
            Some(_) => Action::Wait,
            None => Action::Reject(broken(&format!("not an IMAP response: {line}"))),
        }
    }

    fn ready(&mut self) -> Action {
        Action::Ready(Welcome { capabilities: std::mem::take(&mut self.capabilities).into() })
    }
}

impl Dialect for ImapUpstream {
    fn line(&mut self, line: &str) -> Action {
        match self.state {
            State::Greeting => self.greeting(line),
            State::StartTls => self.start_tls(line),
            State::Authenticate => self.authenticated(line),
            State::Capability => self.capability(line),
        }
    }

    /// A tag or a star, and a word. The longest is `* PREAUTH`.
    fn status<'a>(&self, line: &'a str) -> &'a str {
        match line.split_once(' ') {
            Some((tag, text)) if tag.len() <= "g1".len() => {
                let word = text.split(' ').next().unwrap_or_default().len();
                let end = tag.len() + 1 + word.min("PREAUTH".len());
                line.get(..end).unwrap_or_default()
            }
            _ => beginning(line, 4),
        }
    }

    fn tls_started(&mut self) -> Action {
        self.encrypted = true;
        self.capabilities.clear();
        self.greeted()
    }

    fn log_in(&mut self, login: &Xoauth2, learn: bool) -> Action {
        (self.state, self.learn) = (State::Authenticate, learn);
        Action::SendToken(login.line_behind("g2 AUTHENTICATE XOAUTH2 "))
    }

    fn is_goodbye(&self, line: &str) -> bool {
        word_behind(line, "*") == Some("BYE")
    }
}

/// RFC 5530 section 3 for the codes; Exchange sends none.
fn rejection(line: &str) -> Rejection {
    if let Some(known) = known_rejection(line) {
        return known;
    }
    let code = between(line, "[", "]").unwrap_or_default().to_ascii_uppercase();
    match code.split(' ').next().unwrap_or_default() {
        "UNAVAILABLE" | "INUSE" | "LIMIT" | "SERVERBUG" => busy(line),
        // RFC 2221: the mailbox is elsewhere. gatepost shows a token to nobody but whom the configuration names.
        "REFERRAL" => not_permitted(line),
        "AUTHORIZATIONFAILED" | "NOPERM" | "CONTACTADMIN" | "CANNOT" | "PRIVACYREQUIRED" => {
            not_permitted(line)
        }
        _ if word_behind(line, "g2") == Some("BAD") => broken(line),
        _ => token_rejected(line),
    }
}

/// `Some("OK")` of `g2 OK done`, behind the tag `g2`; a word that gatepost does not know is empty.
/// Letter case is free (RFC 3501 section 9).
fn word_behind(line: &str, tag: &str) -> Option<&'static str> {
    let word = line.strip_prefix(tag)?.strip_prefix(' ')?.split(' ').next()?;
    let known =
        ["OK", "NO", "BAD", "BYE"].into_iter().find(|known| known.eq_ignore_ascii_case(word));
    Some(known.unwrap_or_default())
}

fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, behind) = line.split_once(start)?;
    Some(behind.split_once(end)?.0)
}

/// The capabilities that concern a client which is logged in already.
fn words(text: &str) -> Vec<String> {
    let before_login = |word: &str| {
        let word = word.to_ascii_uppercase();
        word.starts_with("AUTH=") || ["STARTTLS", "LOGINDISABLED"].contains(&word.as_str())
    };
    text.split_ascii_whitespace()
        .filter(|word| word.bytes().all(|byte| byte.is_ascii_graphic()) && !before_login(word))
        .map(str::to_owned)
        .collect()
}
