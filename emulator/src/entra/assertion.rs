//! Client assertions: a JWT instead of a secret (RFC 7523 section 2.2).
//!
//! With a thumbprint in its header it is the app's own, signed with a certificate; without one it is
//! another issuer's (workload identity federation), of which only the claims are checked.
//!
//! Invariant: an assertion of the app's own is good for this endpoint, once, and within its time.

use super::{
    Request,
    failure::{Failure, fail},
    field,
    jwt::Jwt,
};
use crate::{World, locked};

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Checks the assertion that a request presents for this client.
pub(super) fn check(world: &World, request: &Request, client_id: &str) -> Result<(), Failure> {
    let kind = field(&request.form, "client_assertion_type")?;
    if kind != TYPE {
        return Err(fail(50_027, format!("the type '{kind}' is not supported")));
    }
    let text = field(&request.form, "client_assertion")?;
    let jwt = Jwt::parse(text).ok_or_else(|| fail(50_027, "it is no JWT"))?;
    let own = !jwt.header("x5t#S256").is_empty() || !jwt.header("x5t").is_empty();
    match own {
        true => certificate(world, request, client_id, &jwt),
        false if jwt.claim("iss") == client_id => {
            Err(fail(50_027, "its header has no thumbprint of a certificate"))
        }
        false => federated(world, &jwt),
    }
}

fn certificate(
    world: &World,
    request: &Request,
    client_id: &str,
    jwt: &Jwt<'_>,
) -> Result<(), Failure> {
    if !jwt.has_known_algorithm() {
        let reason = format!("'{}' is no signature algorithm supported here", jwt.header("alg"));
        return Err(fail(50_027, reason));
    }
    let found = world.sign_ins.keys.certificate(jwt.header("x5t#S256"), jwt.header("x5t"));
    let certificate = found.ok_or_else(|| fail(700_027, "it is not registered on the app"))?;
    if !jwt.is_signed_by(&certificate.key) {
        return Err(fail(700_027, "the signature was not made with its key"));
    }
    let now = world.unix_seconds();
    if certificate.not_after < now {
        return Err(fail(700_027, "it has expired"));
    }
    if jwt.claim("iss") != jwt.claim("sub") {
        return Err(fail(50_048, ""));
    }
    if jwt.claim("iss") != client_id {
        return Err(fail(700_021, jwt.claim("iss")));
    }
    if !jwt.is_for(&request.url()) {
        return Err(fail(700_023, jwt.audience()));
    }
    in_time(jwt, now)?;
    let id = jwt.claim("jti");
    if id.is_empty() {
        return Err(fail(50_027, "it has no jti"));
    }
    match locked(&world.sign_ins.seen).insert(id.to_owned()) {
        true => Ok(()),
        false => Err(fail(50_027, "its jti was used before")),
    }
}

/// A token of another issuer is used again until it expires: Kubernetes renews its own once an hour.
fn federated(world: &World, jwt: &Jwt<'_>) -> Result<(), Failure> {
    let (issuer, subject) = (jwt.claim("iss"), jwt.claim("sub"));
    let credentials = || world.options.registration.federated.iter();
    if !credentials().any(|known| known.issuer == issuer) {
        return Err(fail(700_211, issuer));
    }
    let same = || credentials().filter(|known| known.issuer == issuer && known.subject == subject);
    if same().next().is_none() {
        return Err(fail(700_213, subject));
    }
    if !same().any(|known| jwt.is_for(&known.audience)) {
        return Err(fail(700_212, jwt.audience()));
    }
    in_time(jwt, world.unix_seconds())
}

fn in_time(jwt: &Jwt<'_>, now: i64) -> Result<(), Failure> {
    let date = |name| jwt.date(name).unwrap_or(0);
    let dates = || format!("it is {now}, valid from {} to {}", date("nbf"), date("exp"));
    if jwt.is_out_of_date(now) { Err(fail(700_024, dates())) } else { Ok(()) }
}
