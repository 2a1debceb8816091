//! The life of an access token: when it may be used, when it is renewed.
//!
//! Invariant: a token is renewed just before half of its life, so that an outage of the token endpoint which
//! begins at half of it meets a token that was renewed already, and lasts nearly another life: an hour's
//! outage is not noticed with any life from 3,700 s (Entra's are 3,600 to 5,400 s).

use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Principal};
use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::store::{StoredToken, Token};
use crate::vocabulary::Resource;

/// When a renewal begins, as parts of a token's life; between the two at random, so that many principals
/// don't renew at once. A token that is renewed at 0.475 ends at 1.475 lives: an hour after 0.5 of 3,700 s.
const RENEW_FROM: f64 = 0.475;
const RENEW_TO: f64 = 0.49;

/// No session starts with less life left than this, or a tenth of the life if that is less, while a newer
/// token can be had.
const LITTLE_LIFE: Duration = Duration::from_secs(300);

/// A token from this far in the future shows that the clock was set back: its end can't be trusted.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(120);

/// What is stored of an answer to a request for mail that was made at `asked_at`. Without a new refresh token the
/// `former` one goes on (RFC 6749 section 6).
pub fn token_of(
    principal: &Principal,
    answer: Answer,
    former: Option<Secret<String>>,
    asked_at: Timestamp,
) -> Token {
    let access = access_of(principal, Resource::Mail, &answer, asked_at);
    Token { refresh_token: answer.refresh_token.or(former), access: Some(access), graph: None }
}

/// Its access token, for `resource`: the life that it tells began at an unknown moment after `asked_at`.
pub(super) fn access_of(
    principal: &Principal,
    resource: Resource,
    answer: &Answer,
    asked_at: Timestamp,
) -> StoredToken {
    StoredToken {
        token: answer.access_token.clone(),
        issued_at: asked_at,
        expires_at: asked_at.plus(answer.expires_in),
        refresh_at: answer.refresh_in.map(|wait| asked_at.plus(wait)),
        fingerprint: principal.fingerprint(resource),
    }
}

/// An access token that logins can use.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// Tells it from the tokens before and after it.
    pub generation: u64,
    /// The token; all that use it have the same.
    pub token: Arc<Secret<String>>,
    issued_at: Timestamp,
    expires_at: Timestamp,
    renew_at: Timestamp,
}

impl AccessToken {
    pub(super) fn new(generation: u64, stored: &StoredToken) -> Self {
        let StoredToken { issued_at, expires_at, refresh_at, .. } = stored;
        let life = expires_at.saturating_since(*issued_at);
        let part = RENEW_FROM + (RENEW_TO - RENEW_FROM) * fastrand::f64();
        let half_life = issued_at.plus(life.mul_f64(part));
        Self {
            generation,
            token: Arc::new(stored.token.clone()),
            issued_at: *issued_at,
            expires_at: *expires_at,
            renew_at: refresh_at.map_or(half_life, |at| at.min(half_life)),
        }
    }

    /// Whether it is the stored one.
    pub(super) fn is(&self, stored: &StoredToken) -> bool {
        *self.token == stored.token
            && (self.issued_at, self.expires_at) == (stored.issued_at, stored.expires_at)
    }

    /// When its renewal is due.
    pub(super) fn renew_at(&self) -> Timestamp {
        self.renew_at
    }

    /// Whether it is still valid.
    pub(super) fn is_alive(&self, now: Timestamp) -> bool {
        now < self.expires_at && now.plus(CLOCK_TOLERANCE) >= self.issued_at
    }

    /// Whether a session may start with it without looking for a newer one.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        let life = self.expires_at.saturating_since(self.issued_at);
        self.is_alive(now) && self.expires_at.saturating_since(now) > LITTLE_LIFE.min(life / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(life: u64, refresh_in: Option<u64>) -> AccessToken {
        let issued_at = Timestamp::from_millis(0);
        AccessToken::new(
            1,
            &StoredToken {
                token: Secret::default(),
                issued_at,
                expires_at: issued_at.plus(Duration::from_secs(life)),
                refresh_at: refresh_in.map(|seconds| issued_at.plus(Duration::from_secs(seconds))),
                fingerprint: String::new(),
            },
        )
    }

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_millis(0).plus(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn renewed_before_half_of_its_life() {
        for _ in 0..100 {
            let renew_at = token(3600, None).renew_at();
            assert!(renew_at >= at(1710.0) && renew_at <= at(1764.0), "{renew_at:?}");
        }
        assert_eq!(token(3600, Some(60)).renew_at(), at(60.0));
        assert!(token(86_400, Some(80_000)).renew_at() < at(43_200.0));
    }

    #[test]
    fn no_session_starts_with_little_life() {
        assert!(token(3600, None).is_fresh(at(3299.0)) && !token(3600, None).is_fresh(at(3301.0)));
        assert!(token(5, None).is_fresh(at(4.4)) && !token(5, None).is_fresh(at(4.6)));
        assert!(token(5, None).is_alive(at(4.6)) && !token(5, None).is_alive(at(5.0)));
    }

    #[test]
    fn a_clock_that_was_set_back_is_noticed() {
        let mut late = token(3600, None);
        late.issued_at = at(1000.0);
        late.expires_at = at(4600.0);
        assert!(late.is_fresh(at(1000.0)) && late.is_fresh(at(900.0)) && !late.is_fresh(at(800.0)));
    }
}
