//! SASL in both roles: PLAIN and LOGIN as a server, XOAUTH2 as a client.
//!
//! Invariant: credentials come out only when they are whole and clean (UTF-8 user name without control
//! characters, no authorization identity but the user's own). CRAM-MD5 and its like are not here: they
//! would need passwords stored readably.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use super::input::trim_spaces_end;
use crate::secret::Secret;

/// Scanners leave the padding out, so it is optional; anything else that is not base64 is refused.
const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Longest user name, in octets: what RFC 4616 section 2 asks of authcid.
const MAX_USER: usize = 255;

/// `Username:` in base64. Clients compare this prompt octet by octet.
const USERNAME_PROMPT: &str = "VXNlcm5hbWU6";
/// `Password:` in base64.
const PASSWORD_PROMPT: &str = "UGFzc3dvcmQ6";

/// A mechanism that gatepost offers to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    /// RFC 4616.
    Plain,
    /// draft-murchison-sasl-login: two prompts.
    Login,
}

impl Mechanism {
    /// As offered, in the order of preference.
    pub(super) const OFFERED: [&str; 2] = ["PLAIN", "LOGIN"];

    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        match name {
            _ if name.eq_ignore_ascii_case(b"PLAIN") => Some(Self::Plain),
            _ if name.eq_ignore_ascii_case(b"LOGIN") => Some(Self::Login),
            _ => None,
        }
    }
}

/// What ends an exchange without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The client sent `*`.
    Cancelled,
    /// Not base64, or not the fields that the mechanism wants.
    Malformed,
    /// A user name that can be nobody's: a control character, not UTF-8, too long.
    BadUser,
    /// An authorization identity other than the user's own.
    OtherIdentity,
}

impl Failure {
    /// For the reply.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Cancelled => "authentication cancelled",
            Self::Malformed => "malformed authentication data",
            Self::BadUser => "no mailbox can have this user name",
            Self::OtherIdentity => "the authorization identity must be empty or the user name",
        }
    }
}

/// What a client claims to be.
#[derive(Debug)]
pub struct Login {
    /// A clean user name: UTF-8, no control characters.
    pub user: String,
    /// The octets as they came; not always UTF-8.
    pub password: Secret<Vec<u8>>,
}

/// Where an exchange stands after a message of the client.
#[derive(Debug)]
pub(super) enum Progress {
    /// Send its challenge and read a line.
    Challenge(Exchange),
    /// Credentials, to be checked.
    Done(Login),
    /// No credentials.
    Failed(Failure),
}

/// A running exchange, in the server's role.
#[derive(Debug)]
pub(super) enum Exchange {
    /// The message of PLAIN is to come.
    Plain,
    /// The user name of LOGIN is to come.
    LoginUser,
    /// The password of LOGIN is to come.
    LoginPassword(String),
}

impl Exchange {
    /// Begins; `initial` is the initial response in base64, if the command had one.
    pub(super) fn start(mechanism: Mechanism, initial: Option<&[u8]>) -> Progress {
        match (mechanism, initial) {
            (Mechanism::Plain, None) => Progress::Challenge(Self::Plain),
            // RFC 4954 section 4 and RFC 4959 section 3: `=` is an initial response of no octets. In
            // LOGIN the server speaks first, so that the client has just said that it has nothing to say.
            (Mechanism::Login, None | Some(b"=")) => Progress::Challenge(Self::LoginUser),
            (Mechanism::Plain, Some(b"=")) => Self::Plain.respond(b""),
            (Mechanism::Plain, Some(response)) => Self::Plain.respond(response),
            (Mechanism::Login, Some(response)) => Self::LoginUser.respond(response),
        }
    }

    /// What the client is asked, in base64.
    pub(super) fn challenge(&self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::LoginUser => USERNAME_PROMPT,
            Self::LoginPassword(_) => PASSWORD_PROMPT,
        }
    }

    /// Takes a line of the client.
    pub(super) fn respond(self, line: &[u8]) -> Progress {
        let line = trim_spaces_end(line);
        if line == b"*" {
            return Progress::Failed(Failure::Cancelled);
        }
        let Ok(message) = LENIENT_BASE64.decode(line).map(Secret::new) else {
            return Progress::Failed(Failure::Malformed);
        };
        let login = match self {
            Self::Plain => parse_plain(message.expose()),
            Self::LoginUser => match user_name(message.expose()) {
                Ok(user) => return Progress::Challenge(Self::LoginPassword(user)),
                Err(failure) => Err(failure),
            },
            Self::LoginPassword(user) => login(user, message.expose()),
        };
        login.map_or_else(Progress::Failed, Progress::Done)
    }
}

/// RFC 4616 section 2: `[authzid] NUL authcid NUL passwd`.
fn parse_plain(message: &[u8]) -> Result<Login, Failure> {
    let mut fields = message.split(|&byte| byte == 0);
    let (Some(authzid), Some(authcid), Some(password), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Failure::Malformed);
    };
    if !authzid.is_empty() && !authzid.eq_ignore_ascii_case(authcid) {
        return Err(Failure::OtherIdentity);
    }
    login(user_name(authcid)?, password)
}

/// A whole login, from a user name that is already clean.
pub(super) fn login(user: String, password: &[u8]) -> Result<Login, Failure> {
    if password.contains(&0) {
        return Err(Failure::Malformed);
    }
    Ok(Login { user, password: Secret::new(password.to_vec()) })
}

/// Checks a user name before anything else looks at it.
pub(super) fn user_name(octets: &[u8]) -> Result<String, Failure> {
    if octets.is_empty() {
        return Err(Failure::Malformed);
    }
    match std::str::from_utf8(octets) {
        Ok(user) if octets.len() <= MAX_USER && !user.chars().any(char::is_control) => {
            Ok(user.to_owned())
        }
        _ => Err(Failure::BadUser),
    }
}

/// The client's message of XOAUTH2.
#[derive(Clone, Debug)]
pub struct Xoauth2(Secret<String>);

impl Xoauth2 {
    /// `base64("user=" user ^A "auth=Bearer " token ^A ^A)`; `None` if either has a control character,
    /// which would let it forge a field.
    pub fn new(user: &str, token: &Secret<String>) -> Option<Self> {
        if user.chars().chain(token.expose().chars()).any(char::is_control) {
            return None;
        }
        // At its full length from the beginning: what grows leaves pieces of itself in memory.
        let message = ["user=", user, "\x01auth=Bearer ", token.expose(), "\x01\x01"].concat();
        let encoded = BASE64_STANDARD.encode(Zeroizing::new(message).as_bytes());
        Some(Self(Secret::new(encoded)))
    }

    /// A line of a protocol that ends with it.
    pub(super) fn line_behind(&self, command: &str) -> Secret<Vec<u8>> {
        Secret::new([command, self.0.expose(), "\r\n"].concat().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(message: &[u8]) -> Progress {
        Exchange::start(Mechanism::Plain, Some(BASE64_STANDARD.encode(message).as_bytes()))
    }

    fn failure(progress: &Progress) -> Option<Failure> {
        match progress {
            Progress::Failed(failure) => Some(*failure),
            _ => None,
        }
    }

    #[test]
    fn plain_takes_own_identity_only() {
        assert!(matches!(plain(b"\0jane\0pw"), Progress::Done(login) if login.user == "jane"));
        assert!(matches!(plain(b"jane\0jane\0pw"), Progress::Done(_)));
        assert_eq!(failure(&plain(b"root\0jane\0pw")), Some(Failure::OtherIdentity));
    }

    #[test]
    fn plain_refuses_what_is_not_three_fields() {
        for message in [&b""[..], b"jane", b"\0jane", b"\0jane\0p\0w", b"\0\0pw"] {
            assert_eq!(failure(&plain(message)), Some(Failure::Malformed), "{message:?}");
        }
        assert_eq!(failure(&plain(b"\0ja\rne\0pw")), Some(Failure::BadUser));
        assert_eq!(failure(&plain(b"\0ja\xffne\0pw")), Some(Failure::BadUser));
    }

    #[test]
    fn login_prompts_and_takes_an_inline_user() {
        let Progress::Challenge(exchange) = Exchange::start(Mechanism::Login, Some(b"amFuZQ"))
        else {
            panic!("no prompt");
        };
        assert_eq!(exchange.challenge(), PASSWORD_PROMPT);
        assert!(matches!(exchange.respond(b"cHc="), Progress::Done(login) if login.user == "jane"));
    }

    #[test]
    fn xoauth2_never_carries_a_control_character() {
        let token = Secret::new(String::from("ey.J"));
        let message = Xoauth2::new("jane@contoso.com", &token)
            .map(|message| BASE64_STANDARD.decode(message.0.expose()).unwrap_or_default());
        assert_eq!(
            message.as_deref(),
            Some(&b"user=jane@contoso.com\x01auth=Bearer ey.J\x01\x01"[..])
        );
        assert!(Xoauth2::new("jane\x01auth=Bearer x", &token).is_none());
        for token in ["ey\x01J", "ey\r\nJ"] {
            assert!(Xoauth2::new("jane", &Secret::new(token.into())).is_none(), "{token:?}");
        }
    }
}
