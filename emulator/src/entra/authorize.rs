//! The authorization endpoint, `/{tenant}/oauth2/v2.0/authorize`, and what its codes are good for
//! (RFC 6749 section 4.1, RFC 7636).
//!
//! Invariant: the browser is sent on only to a redirect URI that is registered; a code is good once, for
//! the client, the redirect URI and the verifier that it was asked for with.

use axum::{
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use tokio::time::Instant;
use url::Url;

use super::{
    Request,
    failure::{Failure, fail},
    field,
    pages::{self, SignIn},
    scopes::Scopes,
    user::{self, SignedIn},
};
use crate::{
    Registration, World, locked,
    tokens::{folded, guid, unique},
};

/// An authorization code that was handed out.
pub(super) struct Code {
    user: String,
    client_id: String,
    redirect_uri: String,
    scope: String,
    nonce: Option<String>,
    challenge: Option<String>,
    issued: Instant,
    redeemed: bool,
}

/// A request to sign in that is fit to be shown.
struct Asked {
    client_id: String,
    scopes: Vec<Scopes>,
    scope: String,
    challenge: Option<String>,
}

/// The way back to the app.
struct Way {
    redirect_uri: String,
    target: Url,
    state: Option<String>,
    /// RFC 9207.
    issuer: Option<String>,
}

/// Shows the page, or takes what was filled in.
pub(super) fn answer(world: &World, request: &Request, tenant: &str) -> Response {
    let way = match Way::new(world, request, tenant) {
        Ok(way) => way,
        Err(failure) => return pages::failure(world, request, &failure),
    };
    let asked = match Asked::new(world, request) {
        Ok(asked) => asked,
        Err(failure) => return way.refuse(world, request, &failure),
    };
    let hint = request.query.get("login_hint").map_or("", String::as_str);
    if request.method != Method::POST {
        return SignIn { user: hint, ..SignIn::default() }.page();
    }
    let user = request.form.get("user").map_or("", |user| user.trim());
    if request.form.get("answer").is_some_and(|answer| answer == "cancel") {
        return way.refuse(world, request, &fail(65_004, ""));
    }
    match user::refused(world, request, &asked.scopes) {
        Some(failure) => {
            let error = Some(failure.description(world, &request.correlation));
            SignIn { user, error, ..SignIn::default() }.page()
        }
        None => way.accept(world, request, asked, folded(user)),
    }
}

/// Trades a code for what it stands for.
pub(super) fn redeem(world: &World, request: &Request) -> Result<SignedIn, Failure> {
    let (form, presented) = (&request.form, field(&request.form, "code")?);
    let redirect_uri = field(form, "redirect_uri")?;
    let verifier = form.get("code_verifier").map(String::as_str);
    let mut codes = locked(&world.sign_ins.codes);
    let code = codes.get_mut(presented).ok_or_else(|| fail(70_000, "code"))?;
    if code.redeemed {
        return Err(fail(54_005, ""));
    }
    if code.issued.elapsed() >= world.options.registration.code_life {
        return Err(fail(70_008, ""));
    }
    if form.get("client_id") != Some(&code.client_id) {
        return Err(fail(70_000, "code"));
    }
    if redirect_uri != code.redirect_uri {
        return Err(fail(500_112, ""));
    }
    // also refused: a verifier without a challenge, which a downgrade would look like (RFC 9700
    // section 4.8.2)
    if verifier.map(challenge_of) != code.challenge {
        return Err(fail(501_481, ""));
    }
    code.redeemed = true;
    let (user, scope, nonce) = (code.user.clone(), code.scope.clone(), code.nonce.clone());
    Ok(SignedIn { user, scope, nonce })
}

/// S256 of RFC 7636 section 4.2.
fn challenge_of(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()))
}

impl Asked {
    fn new(world: &World, request: &Request) -> Result<Self, Failure> {
        let query = &request.query;
        match field(query, "response_type")? {
            "code" => {}
            other => return Err(fail(70_005, other)),
        }
        match query.get("response_mode").map_or("query", String::as_str) {
            "query" => {}
            other => return Err(fail(70_007, other)),
        }
        let (scope, challenge) = (field(query, "scope")?, challenge(world, request)?);
        let scopes = Scopes::asked(world, scope)?;
        if query.get("prompt").is_some_and(|prompt| prompt == "none") {
            return Err(fail(50_058, ""));
        }
        let client_id = field(query, "client_id")?.to_owned();
        Ok(Self { client_id, scopes, scope: scope.to_owned(), challenge })
    }
}

fn challenge(world: &World, request: &Request) -> Result<Option<String>, Failure> {
    let Some(challenge) = request.query.get("code_challenge") else {
        let required = world.options.registration.require_pkce;
        return if required { Err(fail(900_144, "code_challenge")) } else { Ok(None) };
    };
    // RFC 7636 section 4.3: plain is what it is if nothing is said
    let method = request.query.get("code_challenge_method").map_or("plain", String::as_str);
    if method != "S256" {
        return Err(fail(50_149, method));
    }
    let decoded = URL_SAFE_NO_PAD.decode(challenge).is_ok_and(|digest| digest.len() == 32);
    if decoded { Ok(Some(challenge.clone())) } else { Err(fail(501_491, "")) }
}

impl Way {
    /// The client and where it wants the browser sent. Errors up to here are nobody's but the user's.
    fn new(world: &World, request: &Request, tenant: &str) -> Result<Self, Failure> {
        request.check_client(world, tenant, &request.query)?;
        let given = request.query.get("redirect_uri").ok_or_else(|| fail(900_971, ""))?;
        let target = Url::parse(given).ok();
        let target = target.filter(|_| is_registered(&world.options.registration, given));
        let issuer = world.options.registration.issuer_parameter;
        Ok(Self {
            redirect_uri: given.clone(),
            target: target.ok_or_else(|| fail(50_011, given))?,
            state: request.query.get("state").cloned(),
            issuer: issuer.then(|| super::issuer(world, &request.base())),
        })
    }

    fn accept(self, world: &World, request: &Request, asked: Asked, user: String) -> Response {
        // about as long as Entra's, which a client's buffer has to hold
        let code = format!("1.{}.AgABBAIA{}", unique(24), unique(480));
        let answers = [("code", code.clone()), ("session_state", guid())];
        let response = self.send_back(answers);
        let Asked { client_id, scope, challenge, .. } = asked;
        let (nonce, issued) = (request.query.get("nonce").cloned(), Instant::now());
        let (redirect_uri, redeemed) = (self.redirect_uri, false);
        let kept =
            Code { user, client_id, redirect_uri, scope, nonce, challenge, issued, redeemed };
        locked(&world.sign_ins.codes).insert(code, kept);
        response
    }

    fn refuse(&self, world: &World, request: &Request, failure: &Failure) -> Response {
        let error = ("error", failure.error().to_owned());
        let description = failure.description(world, &request.correlation);
        let answers = [error, ("error_description", description), ("error_uri", failure.uri())];
        // what Entra adds for a person who turned back
        let cancelled = (failure.number == 65_004).then(|| ("error_subcode", "cancel".to_owned()));
        self.send_back(answers.into_iter().chain(cancelled))
    }

    fn send_back(&self, answers: impl IntoIterator<Item = (&'static str, String)>) -> Response {
        let mut target = self.target.clone();
        let mut pairs = target.query_pairs_mut();
        for (name, value) in answers {
            pairs.append_pair(name, &value);
        }
        for (name, value) in [("state", &self.state), ("iss", &self.issuer)] {
            if let Some(value) = value {
                pairs.append_pair(name, value);
            }
        }
        drop(pairs);
        let headers = [
            (header::LOCATION, target.as_str()),
            (header::CACHE_CONTROL, "no-store, no-cache"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        (StatusCode::FOUND, headers).into_response()
    }
}

/// Whether a redirect URI is one of the app's.
fn is_registered(registration: &Registration, given: &str) -> bool {
    let given = portless(given);
    registration.redirect_uris.iter().any(|own| portless(own) == given)
}

/// A URI without its port if that does not matter, the URI itself otherwise.
fn portless(uri: &str) -> String {
    for host in ["http://localhost", "http://127.0.0.1"] {
        let Some(rest) = uri.strip_prefix(host) else { continue };
        let Some(port) = rest.strip_prefix(':') else { continue };
        let digits = port.len() - port.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let behind = port.get(digits..).unwrap_or_default();
        if digits > 0 && (behind.is_empty() || behind.starts_with(['/', '?'])) {
            return format!("{host}{behind}");
        }
    }
    uri.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_port_is_free() {
        let registration = Registration {
            redirect_uris: vec!["http://localhost".into(), "https://app.example/back".into()],
            ..Registration::default()
        };
        for (uri, registered) in [
            ("http://localhost", true),
            ("http://localhost:1", true),
            ("http://localhost:8400", true),
            ("https://app.example/back", true),
            ("http://localhost:8400/", false),
            ("http://localhost:8400/back", false),
            ("http://localhost:", false),
            ("http://localhost:1@evil.example", false),
            ("http://localhost.evil.example", false),
            ("https://localhost:8400", false),
            ("http://127.0.0.1:8400", false),
            ("https://app.example:443/back", false),
            ("https://app.example/back?x=1", false),
        ] {
            assert_eq!(is_registered(&registration, uri), registered, "{uri}");
        }
    }
}
