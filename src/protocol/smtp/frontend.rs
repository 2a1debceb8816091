//! SMTP's server role before the login.
//!
//! Invariant: the EHLO answer lists the upstream's own keywords, because a client keeps what it saw before
//! AUTH; only STARTTLS and AUTH are gatepost's. No mail is taken without a login, unless the session is open
//! to a device.

use std::sync::Arc;

use super::super::frontend::{Action, Closing, Dialect, LocalTls};
use super::super::input::{Input, TooLong, split_word};
use super::super::refusal::Refusal;
use super::super::sasl::{Failure, Mechanism};
use super::super::upstream::Welcome;

/// SMTP's dialect.
pub(in crate::protocol) struct SmtpFrontend {
    /// The upstream's EHLO keywords.
    keywords: Arc<[String]>,
    /// The client has said HELO or EHLO.
    greeted: bool,
}

impl SmtpFrontend {
    pub(in crate::protocol) fn new(keywords: Arc<[String]>) -> Self {
        Self { keywords, greeted: false }
    }
}

impl Dialect for SmtpFrontend {
    fn greeting(&self, _: LocalTls) -> Vec<u8> {
        b"220 localhost ESMTP gatepost ready\r\n".to_vec()
    }

    fn advance(&mut self, input: &mut Input, tls: LocalTls) -> Result<Option<Action>, TooLong> {
        let Some(line) = input.line()? else { return Ok(None) };
        Ok(Some(self.run(&line, tls)))
    }

    fn is_device(&self, line: &[u8]) -> bool {
        let (name, _) = split_word(line.trim_ascii());
        name.eq_ignore_ascii_case(b"MAIL")
    }

    fn reset(&mut self) {
        self.greeted = false;
    }

    fn challenge(&self, challenge: &str) -> Vec<u8> {
        format!("334 {challenge}\r\n").into_bytes()
    }

    fn malformed(&self, failure: Failure) -> Vec<u8> {
        let code = match failure {
            Failure::Cancelled => "501 5.7.0",
            Failure::Malformed => "501 5.5.2",
            Failure::BadUser | Failure::OtherIdentity => "535 5.7.8",
        };
        format!("{code} {}\r\n", failure.text()).into_bytes()
    }

    fn accepted(&mut self, _: &Welcome) -> Vec<u8> {
        b"235 2.7.0 logged in\r\n".to_vec()
    }

    fn refused(&mut self, refusal: &Refusal) -> Vec<u8> {
        // RFC 4954 section 6 for the codes of AUTH. A device gives up at 5yz and tries again at 4yz.
        let code = match refusal {
            Refusal::BadCredentials | Refusal::NotAllowedFromHere => "535 5.7.8",
            Refusal::NotPermitted { .. } => "550 5.7.1",
            Refusal::SignInNeeded { .. }
            | Refusal::AppRefused { .. }
            | Refusal::Throttled { .. }
            | Refusal::UpstreamDown { .. } => "454 4.7.0",
            Refusal::UpstreamBusy { .. } | Refusal::ShuttingDown => "454 4.3.2",
            // RFC 5321 section 4.2.1: the one code that ends a session whatever the command.
            Refusal::NoTurn { .. } => "421 4.3.2",
        };
        format!("{code} {}\r\n", refusal.text()).into_bytes()
    }

    fn goodbye(&mut self, closing: Closing) -> Vec<u8> {
        goodbye(closing)
    }
}

impl SmtpFrontend {
    fn run(&mut self, line: &[u8], tls: LocalTls) -> Action {
        let (name, arguments) = split_word(line.trim_ascii_end());
        match name.to_ascii_uppercase().as_slice() {
            b"EHLO" => {
                self.greeted = true;
                Action::Reply(self.ehlo(tls))
            }
            b"HELO" => {
                self.greeted = true;
                reply("250 localhost")
            }
            b"NOOP" | b"RSET" => reply("250 2.0.0 done"),
            b"QUIT" => Action::Quit,
            b"STARTTLS" => match tls {
                _ if !arguments.is_empty() => error("501 5.5.4 STARTTLS has no argument"),
                LocalTls::Offered => Action::StartTls(b"220 2.0.0 begin TLS now\r\n".to_vec()),
                LocalTls::Active => error("503 5.5.1 TLS is on already"),
                LocalTls::Never => error("502 5.5.1 STARTTLS is not offered here"),
            },
            b"AUTH" if tls == LocalTls::Offered => error("530 5.7.0 use STARTTLS first"),
            b"AUTH" if !self.greeted => error("503 5.5.1 EHLO comes before AUTH"),
            b"AUTH" => self.authenticate(arguments),
            b"MAIL" | b"RCPT" | b"DATA" | b"BDAT" | b"VRFY" | b"EXPN" => {
                error("530 5.7.0 log in first: AUTH PLAIN or AUTH LOGIN")
            }
            _ => error("500 5.5.1 command not known"),
        }
    }

    fn ehlo(&self, tls: LocalTls) -> Vec<u8> {
        let login = match tls {
            LocalTls::Offered => "STARTTLS".into(),
            LocalTls::Never | LocalTls::Active => format!("AUTH {}", Mechanism::OFFERED.join(" ")),
        };
        let mut answer = String::from("250-localhost\r\n");
        for keyword in self.keywords.iter().filter(|keyword| !is_own(keyword)) {
            answer += &format!("250-{keyword}\r\n");
        }
        answer += &format!("250 {login}\r\n");
        answer.into_bytes()
    }

    fn authenticate(&mut self, arguments: &[u8]) -> Action {
        let (name, initial) = split_word(arguments);
        let Some(mechanism) = Mechanism::parse(name) else {
            return error("504 5.5.4 mechanism not offered; use PLAIN or LOGIN");
        };
        Action::Authenticate(mechanism, (!initial.is_empty()).then(|| initial.to_vec()))
    }
}

/// The last words, before the login and after it.
pub(super) fn goodbye(closing: Closing) -> Vec<u8> {
    let code = match closing {
        Closing::Quit => return b"221 2.0.0 bye\r\n".to_vec(),
        Closing::TooLong => "500 5.5.2",
        Closing::Deadline | Closing::Idle => "421 4.4.2",
        Closing::ShuttingDown | Closing::Displaced => "421 4.3.2",
        _ => "421 4.7.0",
    };
    format!("{code} {}\r\n", closing.text()).into_bytes()
}

/// The answer to MAIL of a session whose way to the upstream is barred.
pub fn session_refusal(refusal: &Refusal) -> Vec<u8> {
    // As at AUTH, with RFC 5321 section 4.2.2's codes for MAIL: 454 is none of them.
    let code = match refusal {
        Refusal::NoTurn { .. } | Refusal::ShuttingDown => "421 4.3.2",
        Refusal::SignInNeeded { .. } | Refusal::AppRefused { .. } => "451 4.7.0",
        Refusal::UpstreamDown { .. } => "451 4.3.0",
        Refusal::UpstreamBusy { .. } => "451 4.3.2",
        Refusal::Throttled { .. } => "450 4.7.1",
        Refusal::BadCredentials | Refusal::NotAllowedFromHere | Refusal::NotPermitted { .. } => {
            "550 5.7.1"
        }
    };
    format!("{code} {}\r\n", refusal.text_for_device()).into_bytes()
}

fn reply(text: &str) -> Action {
    Action::Reply(format!("{text}\r\n").into_bytes())
}

fn error(text: &str) -> Action {
    Action::Error(format!("{text}\r\n").into_bytes())
}

/// Keywords of the upstream's that are not passed on: gatepost has its own of the first two, the next two are
/// their kin in Exchange, and the last two let a proxy speak for its client (Postfix, Dovecot).
const OWN: [&str; 6] = ["STARTTLS", "AUTH", "X-ANONYMOUSTLS", "X-EXPS", "XCLIENT", "XFORWARD"];

fn is_own(keyword: &str) -> bool {
    let name = keyword.split([' ', '=']).next().unwrap_or_default();
    OWN.iter().any(|own| own.eq_ignore_ascii_case(name))
}
