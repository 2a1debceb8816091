//! A certificate authority made at start, and the one server certificate that it issues.
//!
//! Invariant: the authority's key never leaves [`make`]; nothing else can be signed with it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use super::calendar::Moment;

/// Long enough for a demo left running, and below the 398 days that some verifiers insist on.
const LIFE: Duration = Duration::from_secs(90 * 86_400);

/// Clocks of containers and their hosts differ; a day is more than any sane difference.
const BACKDATED: Duration = Duration::from_secs(86_400);

/// What [`make`] makes.
pub(super) struct Certificate {
    pub(super) acceptor: TlsAcceptor,
    pub(super) ca_pem: String,
}

/// Makes an authority, a leaf for the loopback names, and a TLS acceptor that shows the leaf.
pub(super) fn make() -> Result<Certificate, Box<dyn std::error::Error + Send + Sync>> {
    let mut params = dated(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "gatepost emulator CA");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let mut params = dated(vec!["localhost".into(), "127.0.0.1".into(), "::1".into()])?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.distinguished_name.push(DnType::CommonName, "localhost");
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &authority)?;

    // a provider of its own: whether the process has a default one is not the emulator's business
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )?;
    Ok(Certificate { acceptor: TlsAcceptor::from(Arc::new(config)), ca_pem: authority.pem() })
}

fn dated(names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    let now = SystemTime::now();
    let (from, until) = (Moment::from(now - BACKDATED), Moment::from(now + LIFE));
    params.not_before = date_time_ymd(from.year, from.month, from.day);
    params.not_after = date_time_ymd(until.year, until.month, until.day);
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}
