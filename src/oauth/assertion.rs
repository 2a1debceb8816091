//! Signed assertions: a JWT (RFC 7519) by which an app or a service account proves that it is itself.
//!
//! Invariant: an assertion is made for one request and lives ten minutes.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroize;

use super::client_key::{ClientKey, KeyError, rsa_key};
use crate::clock::Timestamp;
use crate::config::{
    App, ClientCertificate, Credential, SecretError, SigningAlgorithm, read_secret_file,
};
use crate::json::Object;
use crate::secret::Secret;

/// Long enough for a clock that is a little off, short enough for a copy to be of little use: what Entra
/// recommends.
const LIFE: Duration = Duration::from_secs(600);

/// What an app should authenticate with can't be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A secret, or a file with one.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A certificate's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The file of a service account.
    #[error("{0} is no service account's key: it must be the JSON file from the console")]
    ServiceAccount(String),
    /// The key does not sign.
    #[error("the key does not sign")]
    Signature,
}

/// `private_key_jwt` (OpenID Connect Core section 9, RFC 7523 section 3), with the certificate's thumbprint
/// (RFC 7515 section 4.1.8) by which Entra finds it.
pub(super) fn client_assertion(
    certificate: &ClientCertificate,
    app: &App,
    now: Timestamp,
) -> Result<Secret<String>, CredentialError> {
    let key = ClientKey::load(certificate)?;
    let thumbprint = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, &key.certificate));
    let header = json!({ "typ": "JWT", "x5t#S256": thumbprint });
    let claims =
        json!({ "aud": app.token_url.as_str(), "iss": app.client_id, "sub": app.client_id });
    sign(&key.pair, certificate.algorithm, header, claims, now)
}

/// A key file of Google's console. Other keys in it are of no use here.
#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
}

impl Drop for ServiceAccount {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

/// RFC 7523 section 3 as an authorization grant: the service account asks on behalf of `user`.
pub(super) fn service_account_assertion(
    app: &App,
    user: &str,
    now: Timestamp,
) -> Result<Secret<String>, CredentialError> {
    let Some(Credential::ServiceAccount(file)) = &app.credential else {
        return Err(CredentialError::ServiceAccount("nothing".into()));
    };
    let not_one = || CredentialError::ServiceAccount(file.display().to_string());
    let text = read_secret_file(file)?;
    let Object(account): Object<ServiceAccount> =
        serde_json::from_str(text.expose()).map_err(|_| not_one())?;
    let pair = rsa_key(account.private_key.as_bytes(), None, file)?;
    let header = json!({ "typ": "JWT", "kid": account.private_key_id });
    let claims = json!({
        "aud": app.token_url.as_str(),
        "iss": account.client_email,
        "sub": user,
        "scope": app.scopes.join(" "),
    });
    sign(&pair, SigningAlgorithm::RS256, header, claims, now)
}

fn sign(
    pair: &RsaKeyPair,
    algorithm: SigningAlgorithm,
    mut header: Value,
    mut claims: Value,
    now: Timestamp,
) -> Result<Secret<String>, CredentialError> {
    let (name, padding): (_, &'static dyn ring::signature::RsaEncoding) = match algorithm {
        SigningAlgorithm::PS256 => ("PS256", &RSA_PSS_SHA256),
        SigningAlgorithm::RS256 => ("RS256", &RSA_PKCS1_SHA256),
    };
    let seconds = |time: Timestamp| time.as_millis() / 1000;
    header["alg"] = json!(name);
    claims["jti"] = json!(Uuid::new_v4().to_string());
    claims["iat"] = json!(seconds(now));
    claims["nbf"] = json!(seconds(now));
    claims["exp"] = json!(seconds(now.plus(LIFE)));
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(padding, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .map_err(|_| CredentialError::Signature)?;
    Ok(Secret::new(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))))
}
