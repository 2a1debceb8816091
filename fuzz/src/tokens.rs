//! Any answer of a token endpoint, and any token.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gatepost::oauth::{Claims, DeviceCode, TokenError, read_answer, retry_after};
use gatepost::protocol::Xoauth2;
use gatepost::secret::Secret;
use serde_json::Value;

use super::case::Case;
use super::wire::assert_words;

/// Longest pause that is honoured.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Longest life of a token that is believed.
const LONGEST_LIFE: Duration = Duration::from_secs(2 * 86_400);

/// An answer is a token that can stand in XOAUTH2, or an error on one line that is for good only if an OAuth error
/// says so; and it shows nothing of a token that it may have.
pub fn check_answer(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let status = [200, 201, 400, 401, 403, 404, 429, 500][usize::from(case.flags & 7)];
    let at = case.wire.iter().position(|&octet| octet == b'\n').unwrap_or(0);
    let (header, body) = case.wire.split_at(at);
    let header = std::str::from_utf8(header).ok().filter(|_| case.flag(3));
    let answer = read_answer(status, header, body);
    match &answer {
        Ok(answer) => {
            assert!((200..300).contains(&status));
            assert_object(body);
            assert!(Xoauth2::new("jane", &answer.access_token).is_some());
            assert!(answer.expires_in <= LONGEST_LIFE, "{:?}", answer.expires_in);
            assert!(answer.refresh_in.is_none_or(|wait| wait <= LONGEST_LIFE));
            assert!(!answer.refresh_token.as_ref().is_some_and(|token| token.expose().is_empty()));
            let token = answer.access_token.expose();
            assert!(token.len() < 40 || !format!("{answer:?}").contains(token), "a token is shown");
        }
        Err(error) => check_error(error, status, body),
    }
    if let Some(wait) = header.and_then(retry_after) {
        assert!(wait <= LONGEST_WAIT);
    }
    if let Ok(device) = serde_json::from_slice::<DeviceCode>(body) {
        assert_words(&device.user_code, 200);
        assert_words(&device.verification_uri, 200);
        assert!(device.life() <= LONGEST_LIFE && device.interval() <= LONGEST_WAIT);
    }
}

fn check_error(error: &TokenError, status: u16, body: &[u8]) {
    assert_words(&error.to_string(), 700);
    match error {
        TokenError::Transient { retry_after, .. } => {
            assert!(retry_after.is_none_or(|wait| wait <= LONGEST_WAIT));
        }
        TokenError::Permanent { .. } => {
            assert!(matches!(status, 400 | 401 | 403), "{status}");
            // A number that is too large is none for a Value, and passed over by who does not need it.
            if let Ok(body) = serde_json::from_slice::<Value>(body) {
                assert!(body.get("error").is_some_and(Value::is_string), "{body}");
            }
            assert_object(body);
        }
    }
    if let Some(trace) = error.trace() {
        assert_words(&trace.to_string(), 300);
    }
}

/// What is believed was written as an object.
fn assert_object(body: &[u8]) {
    assert!(body.trim_ascii().starts_with(b"{"), "{body:?}");
}

/// Claims are read from whatever looks like a token, or not at all.
pub fn check_claims(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let token = match case.flag(0) {
        true => format!("eyJ9.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(case.wire)),
        false => String::from_utf8_lossy(case.wire).into_owned(),
    };
    let Some(claims) = Claims::of(&Secret::new(token)) else { return };
    let _ = (claims.app(), claims.audiences(), claims.permissions());
    if let Some(expires) = claims.expires() {
        assert!(!expires.text().is_empty());
    }
    assert!(claims.person().is_none_or(|person| person.contains('@')));
}
