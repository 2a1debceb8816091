//! A sign-in by browser: the authorization request (RFC 6749 section 4.1.1) and what the browser brings back.
//!
//! Invariant: each sign-in has a state and a verifier of its own, of 256 random bits; what comes back counts once,
//! for a while, and only with that state.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use url::Url;

use super::{Principal, Request, TokenError};
use crate::config::App;
use crate::secret::Secret;
use crate::vocabulary::Cause;

/// Octets of a state and of a verifier (RFC 7636 section 7.1: at least 256 bits).
const RANDOM: usize = 32;

/// Longest error of a redirect that is shown.
const LONGEST: usize = 300;

/// One sign-in that was begun.
#[derive(Debug)]
pub struct Authorization {
    /// Who is to sign in.
    pub principal: Principal,
    /// What the browser opens.
    pub url: Url,
    /// What the answer is known by.
    pub state: Secret<String>,
    redirect_uri: String,
    verifier: Secret<String>,
}

/// What the browser brought back (RFC 6749 sections 4.1.2 and 4.1.2.1).
#[derive(Debug, Default)]
pub struct Redirected {
    /// Which sign-in it belongs to.
    pub state: Option<Secret<String>>,
    code: Option<Secret<String>>,
    error: Option<String>,
    error_description: Option<String>,
    iss: Option<String>,
}

impl Authorization {
    /// Begins a sign-in that ends at `redirect_uri`. `None`: the system gives no random numbers.
    pub fn begin(principal: Principal, authorize_url: &Url, redirect_uri: &str) -> Option<Self> {
        let (state, verifier) = (random()?, random()?);
        // RFC 7636 section 4.2
        let challenge = digest(&SHA256, verifier.expose().as_bytes());
        let mut url = authorize_url.clone();
        {
            let App { client_id, provider, .. } = &*principal.app;
            let scopes = principal.consents();
            let mut query = url.query_pairs_mut();
            query.append_pair("client_id", client_id);
            query.append_pair("response_type", "code");
            query.append_pair("redirect_uri", redirect_uri);
            if !scopes.is_empty() {
                query.append_pair("scope", &scopes.join(" "));
            }
            query.append_pair("state", state.expose());
            query.append_pair("code_challenge", &BASE64_URL_SAFE_NO_PAD.encode(challenge));
            query.append_pair("code_challenge_method", "S256");
            if let Some(user) = &principal.user {
                query.append_pair("login_hint", user);
            }
            query.extend_pairs(&provider.authorize_parameters);
        }
        Some(Self { principal, url, state, redirect_uri: redirect_uri.to_owned(), verifier })
    }

    /// The code, if the answer is one to this sign-in.
    pub fn code(&self, redirected: Redirected) -> Result<Secret<String>, TokenError> {
        if let Some(iss) = redirected.iss.filter(|iss| !self.is_issuer(iss)) {
            let reason = format!("the answer is of another server: {}", shown(&iss));
            return Err(TokenError::permanent(reason, Cause::SignIn));
        }
        match (redirected.code, redirected.error) {
            (_, Some(error)) => {
                let description = redirected.error_description.unwrap_or_default();
                let description = description.split("Trace ID").next().unwrap_or_default().trim();
                let text =
                    if description.is_empty() { error } else { format!("{error}: {description}") };
                Err(TokenError::permanent(shown(&text), Cause::SignIn))
            }
            (Some(code), None) => Ok(code),
            (None, None) => Err(TokenError::permanent("the answer has no code", Cause::SignIn)),
        }
    }

    /// What the code is exchanged with.
    pub fn request<'a>(&'a self, code: &'a Secret<String>) -> Request<'a> {
        Request::Code { code, redirect_uri: &self.redirect_uri, verifier: &self.verifier }
    }

    /// RFC 9207 section 2.4. Without a known issuer, at least one at the server that was asked.
    fn is_issuer(&self, iss: &str) -> bool {
        match &self.principal.app.provider.issuer {
            Some(issuer) => issuer == iss,
            None => Url::parse(iss).is_ok_and(|iss| iss.origin() == self.url.origin()),
        }
    }
}

impl Redirected {
    /// Of the query of the redirected URL. A parameter that stands twice counts as none (RFC 6749 section 3.1).
    pub fn of_query(query: &str) -> Self {
        let mut found = Self::default();
        let pairs: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).collect();
        for (name, value) in &pairs {
            if pairs.iter().filter(|(other, _)| other == name).count() > 1 {
                continue;
            }
            let value = value.clone().into_owned();
            match name.as_ref() {
                "state" => found.state = Some(Secret::new(value)),
                "code" => found.code = Some(Secret::new(value)),
                "error" => found.error = Some(value),
                "error_description" => found.error_description = Some(value),
                "iss" => found.iss = Some(value),
                _ => {}
            }
        }
        found
    }

    /// Of a URL that a person copied from the browser, or of its query alone.
    pub fn of_pasted(text: &str) -> Self {
        let text = text.trim();
        let query = text.split_once('?').map_or(text, |(_, query)| query);
        Self::of_query(query.split('#').next().unwrap_or_default())
    }

    /// Whether it is an answer to any sign-in.
    pub fn is_answer(&self) -> bool {
        self.code.is_some() || self.error.is_some()
    }
}

fn random() -> Option<Secret<String>> {
    let mut octets = zeroize::Zeroizing::new([0; RANDOM]);
    SystemRandom::new().fill(octets.as_mut_slice()).ok()?;
    Some(Secret::new(BASE64_URL_SAFE_NO_PAD.encode(octets)))
}

fn shown(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}
