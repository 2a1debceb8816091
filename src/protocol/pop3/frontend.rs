//! POP3's server role before the login.
//!
//! Invariant: the greeting has no timestamp, so that no client tries APOP, which would need passwords
//! stored readably.

use super::super::frontend::{Action, Closing, Dialect, LocalTls};
use super::super::input::{Input, TooLong, split_word, trim_spaces_end};
use super::super::refusal::Refusal;
use super::super::sasl::{self, Failure, Mechanism};
use super::super::upstream::Welcome;

/// POP3's dialect. The default is a session that was just accepted.
#[derive(Default)]
pub(in crate::protocol) struct Pop3Frontend {
    /// From `USER`, until its `PASS`.
    user: Option<Vec<u8>>,
}

impl Dialect for Pop3Frontend {
    fn greeting(&self, _: LocalTls) -> Vec<u8> {
        b"+OK gatepost ready\r\n".to_vec()
    }

    fn advance(&mut self, input: &mut Input, tls: LocalTls) -> Result<Option<Action>, TooLong> {
        let Some(line) = input.line()? else { return Ok(None) };
        Ok(Some(self.run(&line, tls)))
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn challenge(&self, challenge: &str) -> Vec<u8> {
        format!("+ {challenge}\r\n").into_bytes()
    }

    fn malformed(&self, failure: Failure) -> Vec<u8> {
        let code = match failure {
            Failure::Cancelled | Failure::Malformed => "",
            Failure::BadUser | Failure::OtherIdentity => "[AUTH] ",
        };
        format!("-ERR {code}{}\r\n", failure.text()).into_bytes()
    }

    fn accepted(&mut self, _: &Welcome) -> Vec<u8> {
        b"+OK logged in\r\n".to_vec()
    }

    fn refused(&mut self, refusal: &Refusal) -> Vec<u8> {
        // RFC 3206 section 4.
        let code = match refusal {
            Refusal::BadCredentials | Refusal::NotAllowedFromHere => "AUTH",
            Refusal::NotPermitted { .. } => "SYS/PERM",
            Refusal::SignInNeeded { .. }
            | Refusal::AppRefused { .. }
            | Refusal::Throttled { .. }
            | Refusal::UpstreamBusy { .. }
            | Refusal::NoTurn { .. }
            | Refusal::UpstreamDown { .. }
            | Refusal::ShuttingDown => "SYS/TEMP",
        };
        format!("-ERR [{code}] {}\r\n", refusal.text()).into_bytes()
    }

    fn goodbye(&mut self, closing: Closing) -> Vec<u8> {
        match closing {
            Closing::Quit => b"+OK bye\r\n".to_vec(),
            Closing::ShuttingDown | Closing::Displaced => {
                format!("-ERR [SYS/TEMP] {}\r\n", closing.text()).into_bytes()
            }
            _ => format!("-ERR {}\r\n", closing.text()).into_bytes(),
        }
    }
}

impl Pop3Frontend {
    fn run(&mut self, line: &[u8], tls: LocalTls) -> Action {
        let (name, arguments) = split_word(line);
        let login_possible = tls != LocalTls::Offered;
        match name.to_ascii_uppercase().as_slice() {
            b"CAPA" => Action::Reply(capabilities(tls).into_bytes()),
            b"QUIT" => Action::Quit,
            b"STLS" => match tls {
                LocalTls::Offered => Action::StartTls(b"+OK begin TLS now\r\n".to_vec()),
                LocalTls::Active => error("TLS is on already"),
                LocalTls::Never => error("STLS is not offered here"),
            },
            b"USER" | b"PASS" | b"AUTH" if !login_possible => error("use STLS first"),
            b"USER" => self.take_user(arguments),
            // A password may hold spaces, also at its ends: it is all behind the first space.
            b"PASS" => self.take_password(line.get(b"PASS ".len()..).unwrap_or_default()),
            b"AUTH" => self.authenticate(arguments),
            _ => error("log in first"),
        }
    }

    fn take_user(&mut self, arguments: &[u8]) -> Action {
        // Whatever becomes of this one, the one before it is void: a PASS must not go with it.
        self.user = None;
        match sasl::user_name(trim_spaces_end(arguments)) {
            Ok(user) => {
                self.user = Some(user.into_bytes());
                Action::Reply(b"+OK now the password\r\n".to_vec())
            }
            Err(failure) => Action::Error(self.malformed(failure)),
        }
    }

    fn take_password(&mut self, password: &[u8]) -> Action {
        let Some(user) = self.user.take() else { return error("USER comes before PASS") };
        match sasl::user_name(&user).and_then(|user| sasl::login(user, password)) {
            Ok(login) => Action::Login(login),
            Err(failure) => Action::Error(self.malformed(failure)),
        }
    }

    fn authenticate(&mut self, arguments: &[u8]) -> Action {
        if arguments.is_empty() {
            // Older than RFC 5034, and still asked by PHP and Outlook: the list of mechanisms.
            let list = Mechanism::OFFERED.join("\r\n");
            return Action::Reply(format!("+OK\r\n{list}\r\n.\r\n").into_bytes());
        }
        let (name, initial) = split_word(trim_spaces_end(arguments));
        let Some(mechanism) = Mechanism::parse(name) else {
            return error("mechanism not offered; use PLAIN or LOGIN");
        };
        Action::Authenticate(mechanism, (!initial.is_empty()).then(|| initial.to_vec()))
    }
}

fn error(text: &str) -> Action {
    Action::Error(format!("-ERR {text}\r\n").into_bytes())
}

/// `TOP` and `UIDL` are named because some clients ask only once, before the login; every upstream of
/// today has them.
fn capabilities(tls: LocalTls) -> String {
    let login = match tls {
        LocalTls::Offered => "STLS".into(),
        LocalTls::Never | LocalTls::Active => {
            format!("USER\r\nSASL {}", Mechanism::OFFERED.join(" "))
        }
    };
    format!("+OK\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\n{login}\r\n.\r\n")
}
