//! Entra's errors by their AADSTS number.
//!
//! HTTP status, `error` and `suberror` of each number are what the v2.0 endpoints answer; they differ
//! from the v1.0 ones, which say `interaction_required` where these say `invalid_grant`. The sentences
//! are the emulator's own.
//!
//! Invariant: a number means the same wherever it comes from, a rule broken or a fault asked for.

use axum::{http::StatusCode, response::Response};
use serde_json::{Value, json};

use super::{Request, json_answer};
use crate::{
    World,
    calendar::{self, Style},
    tokens,
};

/// Why something is refused.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) number: u32,
    detail: String,
    /// The OAuth error, where it is not the number's own.
    error: Option<&'static str>,
}

/// What Entra answers for a number: status, OAuth error and sentence; `{}` is the detail.
type Known = (u16, &'static str, &'static str);

/// A failure of this number; the detail goes into its sentence.
pub(super) fn fail(number: u32, detail: impl Into<String>) -> Failure {
    Failure { number, detail: detail.into(), error: None }
}

impl Failure {
    /// The same failure under another OAuth error.
    pub(super) fn named(self, error: &'static str) -> Self {
        Self { error: Some(error), ..self }
    }

    pub(super) fn error(&self) -> &'static str {
        self.error.unwrap_or(known(self.number).1)
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(known(self.number).0).unwrap_or(StatusCode::BAD_REQUEST)
    }

    /// `AADSTS…: …`, with the ids that Microsoft's support asks for.
    pub(super) fn description(&self, world: &World, correlation: &str) -> String {
        let (trace, now) = (tokens::guid(), calendar::at(world.now(), Style::Entra));
        self.describe(&trace, correlation, &now)
    }

    pub(super) fn uri(&self) -> String {
        format!("https://login.microsoftonline.com/error?code={}", self.number)
    }

    /// The answer of an endpoint that is not for browsers.
    pub(super) fn answer(&self, world: &World, request: &Request) -> Response {
        let (trace, now) = (tokens::guid(), calendar::at(world.now(), Style::Entra));
        let mut body = json!({
            "error": self.error(),
            "error_description": self.describe(&trace, &request.correlation, &now),
            "error_codes": [self.number],
            "timestamp": now,
            "trace_id": trace,
            "correlation_id": request.correlation,
            "error_uri": self.uri(),
        });
        if let Some(suberror) = suberror(self.number) {
            body["suberror"] = json!(suberror);
        }
        if let Some(claims) = claims(self.number) {
            body["claims"] = json!(claims.to_string());
        }
        json_answer(self.status(), &body, &request.correlation)
    }

    fn describe(&self, trace: &str, correlation: &str, now: &str) -> String {
        let sentence = known(self.number).2.replace("{}", &self.detail);
        format!(
            "AADSTS{}: {sentence} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {now}",
            self.number
        )
    }
}

fn known(number: u32) -> Known {
    let tables = [request_errors, sign_in_errors, grant_errors, client_errors];
    let found = tables.iter().find_map(|table| table(number));
    found.unwrap_or((400, "invalid_grant", "The request failed."))
}

/// Requests that nobody could answer.
fn request_errors(number: u32) -> Option<Known> {
    Some(match number {
        28_000 => (400, "invalid_scope", "The scope '{}' names more than one resource."),
        50_059 => (400, "invalid_request", "Nothing in the request tells the tenant."),
        50_149 => (400, "invalid_request", "The code_challenge_method '{}' is not supported."),
        70_003 => (400, "unsupported_grant_type", "The grant type '{}' is not supported."),
        70_005 => (400, "unsupported_response_type", "The response type '{}' is not supported."),
        70_007 => (400, "invalid_request", "The response mode '{}' is not supported."),
        70_011 | 1_002_012 => (400, "invalid_scope", "The provided scope '{}' is not valid."),
        90_002 => (400, "invalid_request", "Tenant '{}' not found."),
        90_033 => (503, "temporarily_unavailable", "A transient error has occurred."),
        500_011 => (400, "invalid_resource", "The resource '{}' is not known in the tenant."),
        500_014 => (400, "invalid_resource", "The resource '{}' is disabled in the tenant."),
        501_491 => (400, "invalid_request", "The size of the code_challenge is wrong."),
        900_144 => (400, "invalid_request", "The request body must contain the parameter '{}'."),
        900_971 => (400, "invalid_request", "No reply address is given."),
        9_000_411 => (400, "invalid_request", "The parameter '{}' is duplicated."),
        9_002_313 => (400, "invalid_grant", "The request is malformed."),
        _ => return None,
    })
}

/// The user, and what is asked of them.
fn sign_in_errors(number: u32) -> Option<Known> {
    Some(match number {
        50_020 | 50_034 => (400, "invalid_grant", "The user account '{}' is not in the tenant."),
        50_053 => (400, "invalid_grant", "The account is locked after too many attempts."),
        50_055 => (400, "invalid_grant", "The password has expired."),
        50_057 => (400, "invalid_grant", "The user account is disabled."),
        50_058 => {
            (400, "login_required", "A silent sign-in was asked for, but nobody is signed in.")
        }
        50_076 => (400, "invalid_grant", "You must use multi-factor authentication."),
        50_079 => (400, "invalid_grant", "You must enroll in multi-factor authentication."),
        50_105 => (400, "invalid_grant", "The user is not assigned to a role for the application."),
        50_126 => (400, "invalid_grant", "The user name or the password is wrong."),
        50_158 => (400, "invalid_grant", "An external security challenge was not met."),
        53_000 => (400, "invalid_grant", "The device is not compliant with conditional access."),
        53_003 => (400, "invalid_grant", "Conditional access policies block the access."),
        65_001 => (400, "invalid_grant", "Nobody has consented to the permission '{}'."),
        65_004 => (400, "access_denied", "The user declined to consent to the application."),
        90_094 => (400, "access_denied", "An administrator must consent to the permission '{}'."),
        530_003 => (400, "invalid_grant", "The device must be managed to access this resource."),
        _ => return None,
    })
}

/// Refresh tokens and codes that are no good.
fn grant_errors(number: u32) -> Option<Known> {
    Some(match number {
        50_089 => (400, "invalid_grant", "The authentication flow has expired."),
        50_173 => (400, "invalid_grant", "The provided grant has expired due to it being revoked."),
        54_005 => (400, "invalid_grant", "The authorization code was already redeemed."),
        70_000 => (400, "invalid_grant", "The provided '{}' is not valid."),
        70_008 => (400, "invalid_grant", "The refresh token or code has expired or is malformed."),
        70_016 => (400, "authorization_pending", "The authorization is pending. Continue polling."),
        70_018 => (400, "bad_verification_code", "The device code is not known."),
        70_020 => (400, "expired_token", "The device code has expired."),
        70_043 => (400, "invalid_grant", "The refresh token is older than the sign-in frequency."),
        500_112 => {
            (401, "invalid_client", "The reply address is not the one that the code was sent to.")
        }
        501_481 => (400, "invalid_grant", "The code_verifier does not match the code_challenge."),
        700_082 => (400, "invalid_grant", "The refresh token has expired due to inactivity."),
        700_084 => (400, "invalid_grant", "The refresh token of a single page app has expired."),
        _ => return None,
    })
}

/// The app and how it shows that it is itself.
fn client_errors(number: u32) -> Option<Known> {
    Some(match number {
        50_011 => (400, "invalid_client", "The redirect URI '{}' is not one of the application's."),
        50_027 => (401, "invalid_client", "The assertion is not valid: {}."),
        50_048 => (401, "invalid_client", "The subject of the client assertion is not its issuer."),
        700_016 => (400, "unauthorized_client", "Application '{}' was not found in the directory."),
        700_021 => (401, "invalid_client", "The client assertion is not the app's: '{}'."),
        700_023 => (401, "invalid_client", "The client assertion's audience is wrong: '{}'."),
        700_024 => (401, "invalid_client", "The client assertion is not within its time: {}."),
        700_025 => (401, "invalid_client", "The client is public and has no secret to present."),
        700_027 => (401, "invalid_client", "The certificate of the client assertion: {}."),
        700_211 => (401, "invalid_client", "No federated credential has the issuer '{}'."),
        700_212 => (401, "invalid_client", "No federated credential has the audience '{}'."),
        700_213 => (401, "invalid_client", "No federated credential has the subject '{}'."),
        7_000_112 => (400, "unauthorized_client", "The application is disabled."),
        7_000_215 => (401, "invalid_client", "Invalid client secret provided for app '{}'."),
        7_000_216 => (401, "invalid_client", "A client secret or assertion is needed."),
        7_000_218 => (401, "invalid_client", "Needs a 'client_assertion' or a 'client_secret'."),
        7_000_222 => (401, "invalid_client", "The provided client secret keys are expired."),
        7_000_229 => {
            (400, "unauthorized_client", "The application has no service principal in the tenant.")
        }
        _ => return None,
    })
}

/// What a client may do about an `invalid_grant`.
fn suberror(number: u32) -> Option<&'static str> {
    Some(match number {
        50_055 => "user_password_expired",
        50_076 | 50_079 | 50_158 => "basic_action",
        50_173 | 700_082 => "bad_token",
        53_000 | 53_003 | 530_003 => "message_only",
        65_001 => "consent_required",
        70_043 => "token_expired",
        _ => return None,
    })
}

/// What the next sign-in should ask for, so that the policy is met (conditional access).
fn claims(number: u32) -> Option<Value> {
    let asks = matches!(number, 50_076 | 50_079 | 50_158 | 53_000 | 53_003 | 530_003);
    let policy = || json!({ "essential": true, "values": [tokens::guid()] });
    asks.then(|| json!({ "access_token": { "capolids": policy() } }))
}
