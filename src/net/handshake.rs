//! Why there is no TLS with a client, in words that say what to do.
//!
//! Invariant: nothing that the client sent is in them.

use std::io;

use rustls::AlertDescription as Alert;
use rustls::{Error, InvalidMessage, PeerIncompatible};

/// The likeliest reason for a handshake with a client that failed.
pub fn why_no_tls(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => why(error),
        None if error.kind() == io::ErrorKind::TimedOut => {
            "the client waits for a greeting in plain text; set it to the encryption of this listener"
        }
        None => {
            "the client broke off; it is set to plain, or does not trust the certificate: \
             see gatepost certificate"
        }
    }
}

fn why(error: &Error) -> &'static str {
    use PeerIncompatible as Lacks;
    match error {
        // Older versions have no such extension, and in TLS 1.2 its absence means SHA-1 (RFC 5246 section 7.4.1.4.1).
        Error::PeerIncompatible(
            Lacks::Tls12NotOffered
            | Lacks::Tls12NotOfferedOrEnabled
            | Lacks::SignatureAlgorithmsExtensionRequired,
        )
        | Error::AlertReceived(Alert::ProtocolVersion) => {
            "the client offers no TLS 1.2, or one with SHA-1 alone; update it, or give it a listener of its own \
             without TLS"
        }
        Error::AlertReceived(Alert::InappropriateFallback) => {
            "the client fell back to TLS 1.2 behind a failure with 1.3: something on the way breaks TLS"
        }
        Error::PeerIncompatible(_)
        | Error::AlertReceived(Alert::HandshakeFailure | Alert::InsufficientSecurity) => {
            "the client has no cipher of this listener (ECDHE with AES-GCM or ChaCha20), or none for its kind of \
             key: try a certificate with an RSA key"
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the client speaks plain text, or SSL 2.0; set it to the encryption of this listener"
        }
        Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::AccessDenied,
        ) => {
            "the client does not trust the certificate; let it trust the one that gatepost certificate \
             prints, and use a name that stands in it"
        }
        _ => "the client's TLS is broken, or it is set otherwise than this listener",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_words() {
        let words = |error: Error| why_no_tls(&io::Error::other(error));
        for (error, word) in [
            (Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered), "no TLS 1.2"),
            (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), "RSA key"),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "plain text"),
            (Error::AlertReceived(Alert::UnknownCA), "does not trust"),
            (Error::General("odd".into()), "broken"),
        ] {
            assert!(words(error.clone()).contains(word), "{error}");
        }
        assert!(why_no_tls(&io::ErrorKind::TimedOut.into()).contains("greeting"));
        assert!(why_no_tls(&io::ErrorKind::UnexpectedEof.into()).contains("broke off"));
    }
}
