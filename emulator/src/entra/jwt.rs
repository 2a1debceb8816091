//! JSON web tokens as others sign them (RFC 7515, RFC 7519).
//!
//! Invariant: nothing is verified under an algorithm other than PS256 and RS256, whatever the header
//! says.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaParameters, UnparsedPublicKey,
};
use serde_json::Value;

/// Clocks differ; Entra allows five minutes.
const SKEW: i64 = 300;

/// A JWT, taken apart.
pub(super) struct Jwt<'a> {
    header: Value,
    claims: Value,
    /// What the signature is over.
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    /// Takes the compact form apart; `None` if it is none.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let object = |part| serde_json::from_slice(&decoded(part)?).ok().filter(Value::is_object);
        Some(Self {
            header: object(header)?,
            claims: object(claims)?,
            signed,
            signature: decoded(signature)?,
        })
    }

    /// A header parameter that is a string; empty if it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.header.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A claim that is a string; empty if it is not there.
    pub(super) fn claim(&self, name: &str) -> &str {
        self.claims.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A claim that is a date, in seconds since 1970.
    pub(super) fn date(&self, name: &str) -> Option<i64> {
        self.claims.get(name).and_then(Value::as_i64)
    }

    /// Whether it is meant for this audience; `aud` may be one or a list (RFC 7519 section 4.1.3).
    pub(super) fn is_for(&self, audience: &str) -> bool {
        match self.claims.get("aud") {
            Some(Value::String(own)) => own == audience,
            Some(Value::Array(all)) => all.iter().any(|own| own.as_str() == Some(audience)),
            _ => false,
        }
    }

    /// `aud` as it stands there, for an error.
    pub(super) fn audience(&self) -> String {
        self.claims.get("aud").map(Value::to_string).unwrap_or_default()
    }

    /// Whether it is not yet valid, or no longer, or does not say until when.
    pub(super) fn is_out_of_date(&self, now: i64) -> bool {
        let begun = self.date("nbf").is_none_or(|from| from <= now + SKEW);
        let open = self.date("exp").is_some_and(|until| now - SKEW < until);
        !begun || !open
    }

    /// Whether the signature is this RSA key's, a PKCS #1 `RSAPublicKey`.
    pub(super) fn is_signed_by(&self, key: &[u8]) -> bool {
        let parameters = self.parameters();
        let verified = |parameters: &'static RsaParameters| {
            let key = UnparsedPublicKey::new(parameters, key);
            key.verify(self.signed.as_bytes(), &self.signature).is_ok()
        };
        parameters.is_some_and(verified)
    }

    /// Whether it has an algorithm that is taken here.
    pub(super) fn has_known_algorithm(&self) -> bool {
        self.parameters().is_some()
    }

    fn parameters(&self) -> Option<&'static RsaParameters> {
        match self.header("alg") {
            "PS256" => Some(&RSA_PSS_2048_8192_SHA256),
            "RS256" => Some(&RSA_PKCS1_2048_8192_SHA256),
            _ => None,
        }
    }
}
