//! What a token request says: the form of each grant, with the app's proof of itself.
//!
//! Invariant: a secret is read when it is needed, so that one that was replaced counts at once.

use url::form_urlencoded;
use zeroize::Zeroizing;

use super::assertion::{CredentialError, client_assertion, service_account_assertion};
use super::{ClientKey, Principal, TokenError};
use crate::clock::{Clock, Timestamp};
use crate::config::{App, Credential, Grant, read_secret_file};
use crate::secret::Secret;
use crate::vocabulary::{Cause, Resource};

/// RFC 7523 section 2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// RFC 7523 section 2.1.
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// RFC 8628 section 3.4.
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// What to ask for.
#[derive(Debug)]
pub enum Request<'a> {
    /// A token for the app itself (RFC 6749 section 4.4).
    ClientCredentials,
    /// A token for the person of this refresh token (section 6).
    Refresh(&'a Secret<String>),
    /// A token for the person whose browser brought this code (section 4.1.3, RFC 7636 section 4.5).
    Code {
        /// The authorization code.
        code: &'a Secret<String>,
        /// As in the authorization request.
        redirect_uri: &'a str,
        /// What the authorization request's challenge was made from.
        verifier: &'a Secret<String>,
    },
    /// A token for the person who typed the code of this device (RFC 8628 section 3.4).
    Device(&'a Secret<String>),
    /// A token for a mailbox, on a service account's word (RFC 7523 section 2.1).
    JwtBearer {
        /// The mailbox.
        user: &'a str,
    },
    /// A token for the machine's own identity. It is asked for by GET, not by a form.
    ManagedIdentity,
}

impl<'a> Request<'a> {
    /// What renews the token of `principal` for `resource`.
    pub fn renewal(
        principal: &'a Principal,
        resource: Resource,
        refresh_token: Option<&'a Secret<String>>,
    ) -> Result<Self, TokenError> {
        if resource == Resource::Graph && principal.scopes(resource).is_empty() {
            let App { name, provider, .. } = &*principal.app;
            let reason =
                format!("app {name} of provider {} has no scopes for {resource}", provider.name);
            return Err(TokenError::permanent(reason, Cause::Registration));
        }
        Ok(match (principal.app.grant, &principal.user, refresh_token) {
            (Grant::ManagedIdentity, ..) => Self::ManagedIdentity,
            (Grant::JwtBearer, Some(user), _) => Self::JwtBearer { user },
            (Grant::ClientCredentials | Grant::JwtBearer, ..) => Self::ClientCredentials,
            (_, _, Some(token)) => Self::Refresh(token),
            (_, _, None) => {
                let reason = "the sign-in brought no refresh token; is offline_access in scopes?";
                return Err(TokenError::permanent(reason, Cause::SignIn));
            }
        })
    }

    /// The fields of its form.
    pub(super) fn form(&self, app: &App, scopes: &[String]) -> Result<Form, CredentialError> {
        let mut form = Form::default();
        match self {
            Self::ClientCredentials => form.add("grant_type", "client_credentials"),
            Self::Refresh(token) => {
                form.add("grant_type", "refresh_token").add("refresh_token", token.expose())
            }
            Self::Code { code, redirect_uri, verifier } => form
                .add("grant_type", "authorization_code")
                .add("code", code.expose())
                .add("redirect_uri", redirect_uri)
                .add("code_verifier", verifier.expose()),
            Self::Device(code) => {
                form.add("grant_type", DEVICE_CODE).add("device_code", code.expose())
            }
            Self::JwtBearer { user } => {
                let assertion = service_account_assertion(app, user, Clock::system().now())?;
                // The assertion says all the rest, and the scope is in it.
                form.add("grant_type", JWT_BEARER).add("assertion", assertion.expose());
                return Ok(form);
            }
            // Its URL says everything.
            Self::ManagedIdentity => return Ok(form),
        };
        form.add("client_id", &app.client_id);
        // A device code has its scopes already.
        if !scopes.is_empty() {
            form.add("scope", &scopes.join(" "));
        }
        form.authenticate(app)?;
        Ok(form)
    }
}

/// Whether what the app authenticates with can be read and used.
pub fn try_credential(app: &App) -> Result<(), CredentialError> {
    match &app.credential {
        Some(Credential::ServiceAccount(_)) => {
            service_account_assertion(app, "nobody", Clock::system().now()).map(drop)
        }
        _ => Form::default().authenticate(app),
    }
}

/// When what the app authenticates with ends, if that is known.
pub fn credential_end(app: &App) -> Option<Timestamp> {
    match &app.credential {
        Some(Credential::Certificate(certificate)) => ClientKey::load(certificate).ok()?.expires(),
        _ => app.secret_expires,
    }
}

/// The fields of a form, which may be secret.
#[derive(Default)]
pub(super) struct Form(Vec<(&'static str, Zeroizing<String>)>);

impl Form {
    pub(super) fn add(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.0.push((name, Zeroizing::new(value.to_owned())));
        self
    }

    /// Adds what shows that the app is itself.
    pub(super) fn authenticate(&mut self, app: &App) -> Result<(), CredentialError> {
        let assertion = match &app.credential {
            None | Some(Credential::ServiceAccount(_)) => return Ok(()),
            Some(Credential::Secret(source)) => {
                self.add("client_secret", source.read()?.expose());
                return Ok(());
            }
            Some(Credential::FederatedToken(file)) => {
                let token = read_secret_file(file)?;
                Secret::new(token.expose().trim().to_owned())
            }
            Some(Credential::Certificate(certificate)) => {
                client_assertion(certificate, app, Clock::system().now())?
            }
        };
        self.add("client_assertion_type", ASSERTION_TYPE);
        self.add("client_assertion", assertion.expose());
        Ok(())
    }

    /// `application/x-www-form-urlencoded`.
    pub(super) fn encode(&self) -> String {
        let fields = self.0.iter().map(|(name, value)| (*name, value.as_str()));
        form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
    }
}
