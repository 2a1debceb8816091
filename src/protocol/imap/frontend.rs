//! IMAP's server role before the login.
//!
//! Invariant: the greeting and every `CAPABILITY` list the same, gatepost's own capabilities: many clients
//! log in as their first command. What the upstream can do is told with the answer to the login.

use super::super::frontend::{Action, Closing, Dialect, LocalTls, first_words, is_http_method};
use super::super::input::{Input, TooLong};
use super::super::refusal::Refusal;
use super::super::sasl::{self, Failure, Mechanism};
use super::super::upstream::Welcome;
use super::command::{Command, NO_COMMAND, Reader, Reading};

/// The answer to a login in plain text where TLS is to come first (RFC 5530 section 3).
const STARTTLS_FIRST: &str = "NO [PRIVACYREQUIRED] use STARTTLS first";

/// IMAP's dialect. The default is a session that was just accepted.
#[derive(Default)]
pub(in crate::protocol) struct ImapFrontend {
    reader: Reader,
    /// Of the login that is being checked or authenticated.
    tag: String,
    /// The last command was AUTHENTICATE.
    exchanged: bool,
}

impl Dialect for ImapFrontend {
    fn greeting(&self, tls: LocalTls) -> Vec<u8> {
        format!("* OK [CAPABILITY {}] gatepost ready\r\n", capabilities(tls)).into_bytes()
    }

    fn advance(&mut self, input: &mut Input, tls: LocalTls) -> Result<Option<Action>, TooLong> {
        Ok(self.reader.advance(input)?.map(|reading| match reading {
            Reading::Continue => self.ask_for_literal(tls),
            Reading::Command(command) => self.run(&command, tls),
            Reading::Bad(tag, why) => {
                // A word alone behind an exchange that has failed is no tag: a password that was sent ahead.
                let tag = tag.filter(|_| !(self.exchanged && why == NO_COMMAND));
                let tag = tag.unwrap_or_else(|| "*".into());
                Action::Error(format!("{tag} BAD {why}\r\n").into_bytes())
            }
        }))
    }

    /// What stands first is the tag, which may be any word; what follows a real one is a command's name.
    fn is_http(&self, line: &[u8]) -> bool {
        let (tag, name) = first_words(line);
        let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_alphabetic);
        self.reader.is_between_commands() && is_http_method(tag) && !is_name
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn challenge(&self, challenge: &str) -> Vec<u8> {
        format!("+ {challenge}\r\n").into_bytes()
    }

    fn malformed(&self, failure: Failure) -> Vec<u8> {
        let status = match failure {
            Failure::Cancelled | Failure::Malformed => "BAD",
            Failure::BadUser => "NO [AUTHENTICATIONFAILED]",
            Failure::OtherIdentity => "NO [AUTHORIZATIONFAILED]",
        };
        format!("{} {status} {}\r\n", self.tag, failure.text()).into_bytes()
    }

    fn accepted(&mut self, welcome: &Welcome) -> Vec<u8> {
        let capabilities = match &*welcome.capabilities {
            [] => String::new(),
            some => format!("[CAPABILITY {}] ", some.join(" ")),
        };
        format!("{} OK {capabilities}logged in\r\n", self.tag).into_bytes()
    }

    fn refused(&mut self, refusal: &Refusal) -> Vec<u8> {
        // RFC 5530 section 3.
        let code = match refusal {
            Refusal::BadCredentials => "AUTHENTICATIONFAILED",
            Refusal::NotAllowedFromHere => "AUTHORIZATIONFAILED",
            Refusal::NotPermitted { .. } => "CONTACTADMIN",
            Refusal::Throttled { .. } | Refusal::UpstreamBusy { .. } | Refusal::NoTurn { .. } => {
                "LIMIT"
            }
            Refusal::SignInNeeded { .. }
            | Refusal::AppRefused { .. }
            | Refusal::UpstreamDown { .. }
            | Refusal::ShuttingDown => "UNAVAILABLE",
        };
        let text = refusal.text();
        let refused = format!("{} NO [{code}] {text}\r\n", self.tag);
        match refusal {
            // Clients try again without a word at UNAVAILABLE; an alert they must show (RFC 3501 section 7.1), and
            // here a person must act.
            Refusal::SignInNeeded { .. }
            | Refusal::AppRefused { .. }
            | Refusal::NotPermitted { .. } => {
                format!("* NO [ALERT] {text}\r\n{refused}").into_bytes()
            }
            _ => refused.into_bytes(),
        }
    }

    fn goodbye(&mut self, closing: Closing) -> Vec<u8> {
        match closing {
            Closing::Displaced => {
                format!("* BYE [UNAVAILABLE] {}\r\n", closing.text()).into_bytes()
            }
            Closing::Quit => format!("* BYE gatepost\r\n{} OK bye\r\n", self.tag).into_bytes(),
            _ => format!("* BYE {}\r\n", closing.text()).into_bytes(),
        }
    }
}

impl ImapFrontend {
    /// A password must not be asked for where it would come in plain text.
    fn ask_for_literal(&mut self, tls: LocalTls) -> Action {
        let barred = match tls {
            LocalTls::Offered => self.reader.abandon(["LOGIN", "AUTHENTICATE"]),
            LocalTls::Never | LocalTls::Active => None,
        };
        match barred {
            Some(tag) => Action::Error(format!("{tag} {STARTTLS_FIRST}\r\n").into_bytes()),
            None => Action::Reply(b"+ go ahead\r\n".to_vec()),
        }
    }

    fn run(&mut self, command: &Command, tls: LocalTls) -> Action {
        let tag = &command.tag;
        let ok = |what: &str| Action::Reply(format!("{what}{tag} OK done\r\n").into_bytes());
        let error = |answer: &str| Action::Error(format!("{tag} {answer}\r\n").into_bytes());
        self.tag.clone_from(tag);
        self.exchanged = command.is("AUTHENTICATE");
        match () {
            () if command.is("CAPABILITY") => {
                ok(&format!("* CAPABILITY {}\r\n", capabilities(tls)))
            }
            () if command.is("NOOP") => ok(""),
            () if command.is("ID") => ok("* ID (\"name\" \"gatepost\")\r\n"),
            () if command.is("LOGOUT") => Action::Quit,
            () if command.is("STARTTLS") => match tls {
                LocalTls::Offered => {
                    Action::StartTls(format!("{tag} OK begin TLS now\r\n").into_bytes())
                }
                LocalTls::Active => error("BAD TLS is on already"),
                LocalTls::Never => error("BAD STARTTLS is not offered here"),
            },
            () if !(command.is("LOGIN") || command.is("AUTHENTICATE")) => error("BAD log in first"),
            () if tls == LocalTls::Offered => error(STARTTLS_FIRST),
            () if command.is("LOGIN") => self.login(command),
            () => self.authenticate(command),
        }
    }

    fn login(&self, command: &Command) -> Action {
        let strings = command.strings().unwrap_or_default();
        let [user, password] = strings.as_slice() else {
            return self.error("BAD LOGIN takes a user name and a password");
        };
        match sasl::user_name(user).and_then(|user| sasl::login(user, password)) {
            Ok(login) => Action::Login(login),
            Err(failure) => Action::Error(self.malformed(failure)),
        }
    }

    fn authenticate(&self, command: &Command) -> Action {
        let strings = command.strings().unwrap_or_default();
        let (name, initial) = match strings.as_slice() {
            [name] => (name, None),
            [name, initial] => (name, Some(initial.to_vec())),
            _ => return self.error("BAD AUTHENTICATE takes a mechanism and an initial response"),
        };
        let Some(mechanism) = Mechanism::parse(name) else {
            return self.error("NO [CANNOT] mechanism not offered; use PLAIN or LOGIN");
        };
        Action::Authenticate(mechanism, initial)
    }

    fn error(&self, answer: &str) -> Action {
        Action::Error(format!("{} {answer}\r\n", self.tag).into_bytes())
    }
}

fn capabilities(tls: LocalTls) -> String {
    let login = match tls {
        LocalTls::Offered => "STARTTLS LOGINDISABLED",
        LocalTls::Never | LocalTls::Active => "AUTH=PLAIN AUTH=LOGIN",
    };
    format!("IMAP4rev1 SASL-IR LITERAL+ ID {login}")
}
