//! What an access token says of itself, for people who look for a fault.
//!
//! Invariant: it is looked at, never relied on: nothing here checks a signature, and no login depends on it.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::json::Object;
use crate::secret::Secret;

/// The claims of a JWT that matter for mail (RFC 7519 section 4.1, and Entra's).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Claims {
    aud: Option<Audience>,
    /// Permissions of a person's token, separated by spaces.
    scp: Option<String>,
    scope: Option<String>,
    /// Permissions of an app's own token.
    #[serde(default)]
    roles: Vec<String>,
    exp: Option<i64>,
    /// The tenant.
    pub tid: Option<String>,
    appid: Option<String>,
    azp: Option<String>,
    upn: Option<String>,
    unique_name: Option<String>,
    preferred_username: Option<String>,
    email: Option<String>,
    /// The object id of the person, or of the service principal.
    pub oid: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Claims {
    /// Of a token that is a JWT; others, such as Google's, say nothing.
    pub fn of(token: &Secret<String>) -> Option<Self> {
        let mut parts = token.expose().split('.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        let claims = claims.trim_end_matches('=');
        let plain = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?);
        serde_json::from_slice(&plain).ok().map(|Object(claims)| claims)
    }

    /// For whom it is.
    pub fn audiences(&self) -> &[String] {
        match &self.aud {
            Some(Audience::One(one)) => std::slice::from_ref(one),
            Some(Audience::Many(many)) => many,
            None => &[],
        }
    }

    /// What it permits, whoever it is for.
    pub fn permissions(&self) -> Vec<&str> {
        let written = [&self.scp, &self.scope].into_iter().flatten();
        let scopes = written.flat_map(|scopes| scopes.split_whitespace());
        // Some servers write a scope with its resource before it.
        let short = |scope: &'_ str| scope.rsplit('/').next().unwrap_or_default().len();
        scopes
            .map(|scope| scope.get(scope.len() - short(scope)..).unwrap_or(scope))
            .chain(self.roles.iter().map(String::as_str))
            .collect()
    }

    /// When it ends.
    pub fn expires(&self) -> Option<Timestamp> {
        Timestamp::of_unix_seconds(self.exp?)
    }

    /// The app that it was issued to.
    pub fn app(&self) -> Option<&str> {
        self.appid.as_deref().or(self.azp.as_deref())
    }

    /// The person who signed in.
    pub fn person(&self) -> Option<&str> {
        let names = [&self.upn, &self.preferred_username, &self.unique_name, &self.email];
        names.into_iter().flatten().map(String::as_str).find(|name| name.contains('@'))
    }
}
