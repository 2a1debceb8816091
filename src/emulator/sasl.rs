//! The XOAUTH2 exchange as the server sees it, the same for the three protocols.
//!
//! Invariant: the client's response is taken only in its exact form; one octet too many or too few
//! is a failed login.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    LoginFault, Protocol, World,
    tokens::{Grant, Verdict},
};

/// Room for a response of the largest tokens: RFC 4954 section 4 wants at least 12,288 octets.
pub(super) const RESPONSE_LIMIT: usize = 12_288;

/// The challenge that some servers send before a failure; the client answers it with an empty line.
const CHALLENGE: &str =
    r#"{"status":"401","schemes":"bearer","scope":"https://outlook.office.com/"}"#;

/// Decides about a login. `response` is the client's base64, without its line end.
pub(super) fn login(
    world: &World,
    protocol: Protocol,
    response: &[u8],
) -> Result<Grant, LoginFault> {
    if let Some(fault) = world.faults.next_login_fault() {
        return Err(fault);
    }
    let (user, token) = decode(response).ok_or(LoginFault::AuthFailed)?;
    match world.tokens.verdict(&token, &user, protocol) {
        Verdict::Open(grant) => {
            world.faults.count_login();
            Ok(grant)
        }
        Verdict::NotConnected => Err(LoginFault::NotConnected),
        Verdict::Refused => Err(LoginFault::AuthFailed),
    }
}

/// The base64 challenge to send before this failure, if challenges are switched on.
pub(super) fn challenge(world: &World, fault: LoginFault) -> Option<String> {
    (world.faults.challenge() && fault == LoginFault::AuthFailed)
        .then(|| STANDARD.encode(CHALLENGE))
}

/// User and token of `user=` user ^A `auth=Bearer ` token ^A ^A.
fn decode(response: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(response).ok()?).ok()?;
    let (user, rest) = text.strip_prefix("user=")?.split_once('\x01')?;
    let token = rest.strip_prefix("auth=Bearer ")?.strip_suffix("\x01\x01")?;
    let clean = |text: &str| !text.is_empty() && !text.contains(char::is_control);
    (clean(user) && clean(token)).then(|| (user.to_owned(), token.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_taken() {
        let decoded = |text: &str| decode(STANDARD.encode(text).as_bytes());
        assert_eq!(decoded("user=a@b\x01auth=Bearer t\x01\x01"), Some(("a@b".into(), "t".into())));
        for wrong in [
            "user=a@b\x01auth=Bearer t\x01",
            "user=a@b\x01auth=Bearer t\x01\x01\x01",
            "user=a@b\x01auth=bearer t\x01\x01",
            "user=a@b\x01auth=Bearer t\x01\x01\n",
            "user=\x01auth=Bearer t\x01\x01",
            "user=a\nb\x01auth=Bearer t\x01\x01",
        ] {
            assert_eq!(decoded(wrong), None, "{wrong:?}");
        }
        assert_eq!(decode(b"not base64"), None);
    }
}
