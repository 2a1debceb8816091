//! The XOAUTH2 exchange as the server sees it, the same for the three protocols.
//!
//! Invariant: the client's response is taken only in its exact form; one octet too many or too few
//! is a failed login.

use std::{io, sync::atomic::Ordering};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::time::Instant;

use super::{LoginFault, Protocol, World, locked, tokens::Grant, wire::Wire};

/// Room for a response of the largest tokens: RFC 4954 section 4 wants at least 12,288 octets.
const RESPONSE_LIMIT: usize = 12_288;

/// What some servers send before a failure; the client answers it with an empty line.
const CHALLENGE: &str =
    r#"{"status":"401","schemes":"bearer","scope":"https://outlook.office.com/"}"#;

/// Takes the client's response and decides about the login; `Err(None)` is a login that the client
/// cancelled. The last word, which each protocol has its own text for, is the caller's.
pub(super) async fn xoauth2(
    world: &World,
    wire: &mut Wire,
    protocol: Protocol,
    initial: Option<&str>,
) -> io::Result<Result<Grant, Option<LoginFault>>> {
    let prompt = if protocol == Protocol::Smtp { "334" } else { "+" };
    let response = match initial {
        Some(initial) => initial.as_bytes().to_vec(),
        None => {
            wire.say_line(&format!("{prompt} ")).await?;
            wire.line(RESPONSE_LIMIT).await?.unwrap_or_default()
        }
    };
    if response == b"*" {
        return Ok(Err(None));
    }
    let decided = decide(world, protocol, &response);
    let refused = [LoginFault::AuthFailed, LoginFault::AccessTokenExpired];
    if decided.as_ref().is_err_and(|fault| refused.contains(fault))
        && locked(&world.faults).challenge
    {
        wire.say_line(&format!("{prompt} {}", STANDARD.encode(CHALLENGE))).await?;
        wire.line(RESPONSE_LIMIT).await?;
    }
    Ok(decided.map_err(Some))
}

fn decide(world: &World, protocol: Protocol, response: &[u8]) -> Result<Grant, LoginFault> {
    let fault = {
        let mut faults = locked(&world.faults);
        faults.logins.pop_front().or(faults.login_outage)
    };
    let (fault, inside) = match fault {
        Some(fault) if fault.is_inside(protocol) => (None, Some(fault)),
        fault => (fault, None),
    };
    if let Some(fault) = fault {
        return Err(fault);
    }
    let (user, token) = decode(response).ok_or(LoginFault::AuthFailed)?;
    let mut grant = world.tokens.login(&token, &user, protocol)?;
    grant.fault = inside;
    if inside == Some(LoginFault::AccessTokenExpired) {
        grant.expires = Instant::now();
    }
    world.counts.logins.fetch_add(1, Ordering::Relaxed);
    Ok(grant)
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
            "user=\x01auth=Bearer t\x01\x01",
            "user=a\nb\x01auth=Bearer t\x01\x01",
        ] {
            assert_eq!(decoded(wrong), None, "{wrong:?}");
        }
        assert_eq!(decode(b"not base64"), None);
    }
}
