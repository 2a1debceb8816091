//! TLS of the upstream and of clients that log in directly, by the certificates of the tests.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::ground::certificate;

/// The upstream's. Sessions are resumed by tickets, without a store, as large servers do it.
pub(crate) fn acceptor() -> Result<TlsAcceptor> {
    let chain =
        CertificateDer::pem_file_iter(certificate("localhost.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(certificate("localhost.key"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.ticketer = ring::Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A client's.
pub(crate) fn connector() -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(certificate("ca.pem")).context("certs/ca.pem")? {
        roots.add(root?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
