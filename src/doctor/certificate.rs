//! What a server's certificate tells: the wrong one, an old one, or one of somebody who opens TLS on the way.

use std::net::IpAddr;

use super::{Code, Finding};
use crate::clock::Clock;
use crate::net::{CertificateFault, Presented};

/// Words in the issuer's name by which products that open TLS on the way are known, in lower case, one a line.
const INSPECTORS: &str = include_str!("inspectors.txt");

/// What is wrong with the certificate that `host` showed; none: nothing.
pub(super) fn judge(
    subject: &str,
    host: &str,
    provider: &str,
    shown: &Presented,
) -> Option<Finding> {
    let issuer = &shown.issuer;
    let inspector = is_inspector(issuer);
    let Some(fault) = &shown.fault else {
        return inspector.then(|| {
            let what = format!(
                "something on the way opens TLS and shows a certificate of its own, which this machine trusts \
                 ({issuer}): it can read the tokens"
            );
            let remedy = format!("have {host} exempted from the inspection of TLS");
            Finding::warning(Code::TlsIntercepted, subject, what, remedy)
        });
    };
    let for_host = shown.names.iter().any(|name| covers(name, host));
    Some(match fault {
        CertificateFault::UnknownIssuer if inspector || (for_host && is_public(host)) => {
            let what = format!(
                "something on the way (a firewall, a virus scanner) opens TLS and shows a certificate of its own, \
                 signed by {issuer}"
            );
            let remedy = format!(
                "have {host} exempted from the inspection of TLS; or let gatepost trust the inspector: its root \
                 certificate as ca_file in [provider.{provider}], or among the system's"
            );
            Finding::error(Code::TlsIntercepted, subject, what, remedy)
        }
        CertificateFault::Expired | CertificateFault::NotYet => expired(subject, shown, fault),
        CertificateFault::OtherName => {
            let names = shown.names.join(", ");
            let what =
                format!("the certificate is for {names}, not for {host}: another server answers");
            let remedy = format!(
                "check the server's name in [provider.{provider}], and what {host} resolves to"
            );
            Finding::error(Code::TlsName, subject, what, remedy)
        }
        CertificateFault::UnknownIssuer => {
            let what =
                format!("the certificate is signed by {issuer}, whom this machine does not trust");
            let remedy = format!(
                "name that issuer's certificate as ca_file in [provider.{provider}]; for a public server install \
                 the system's roots (package ca-certificates)"
            );
            Finding::error(Code::Tls, subject, what, remedy)
        }
        CertificateFault::Other(error) => {
            let remedy = "have the server's administrator mend its certificate";
            Finding::error(
                Code::Tls,
                subject,
                format!("the certificate is refused: {error}"),
                remedy,
            )
        }
    })
}

fn expired(subject: &str, shown: &Presented, fault: &CertificateFault) -> Finding {
    let now = Clock::system().now().text();
    let date =
        |time: Option<crate::clock::Timestamp>| time.map(|time| time.text()).unwrap_or_default();
    let what = match fault {
        CertificateFault::NotYet => format!(
            "the certificate begins on {}; this machine's clock says {now}",
            date(shown.not_before)
        ),
        _ => {
            format!(
                "the certificate has ended on {}; this machine's clock says {now}",
                date(shown.not_after)
            )
        }
    };
    let remedy = "if the clock is wrong, set it: `timedatectl set-ntp true`; \
                  else the server's administrator must renew the certificate";
    Finding::error(Code::TlsExpired, subject, what, remedy)
}

fn is_inspector(issuer: &str) -> bool {
    let issuer = issuer.to_lowercase();
    INSPECTORS.lines().any(|name| issuer.contains(name))
}

/// RFC 9525 section 6.3: a wildcard stands for one label.
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(domain) => {
            host.split_once('.').is_some_and(|(_, behind)| behind.eq_ignore_ascii_case(domain))
        }
        None => name.eq_ignore_ascii_case(host),
    }
}

/// A name of the public DNS, whose servers have certificates that every system trusts.
fn is_public(host: &str) -> bool {
    const PRIVATE: [&str; 8] =
        [".local", ".lan", ".internal", ".intranet", ".corp", ".home", ".test", ".example"];
    let host = host.to_lowercase();
    host.contains('.')
        && host.parse::<IpAddr>().is_err()
        && !PRIVATE.iter().any(|suffix| host.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(issuer: &str, name: &str, fault: Option<CertificateFault>) -> Presented {
        Presented {
            subject: "CN=mail".into(),
            issuer: issuer.into(),
            names: vec![name.into()],
            not_before: None,
            not_after: None,
            fault,
        }
    }

    fn code(host: &str, shown: &Presented) -> Option<Code> {
        judge("imap", host, "lab", shown).map(|finding| finding.code)
    }

    #[test]
    fn an_inspector_is_told_from_an_unknown_issuer() {
        let unknown = || Some(CertificateFault::UnknownIssuer);
        let public = "outlook.office365.com";
        assert_eq!(
            code(public, &shown("CN=Corp Root", public, unknown())),
            Some(Code::TlsIntercepted)
        );
        let inspected = shown("CN=Contoso TLS Inspection CA", "localhost", unknown());
        assert_eq!(code("localhost", &inspected), Some(Code::TlsIntercepted));
        let lab = shown("CN=Lab CA", "localhost", unknown());
        assert_eq!(code("localhost", &lab), Some(Code::Tls));
        assert_eq!(code(public, &shown("CN=DigiCert Cloud", public, None)), None);
        assert_eq!(
            code(public, &shown("O=Zscaler Inc.", public, None)),
            Some(Code::TlsIntercepted)
        );
        let other = shown("CN=Corp Root", "portal.hotel.test", Some(CertificateFault::OtherName));
        assert_eq!(code(public, &other), Some(Code::TlsName));
        let wildcard = shown("CN=Corp Root", "*.office365.com", unknown());
        assert_eq!(code(public, &wildcard), Some(Code::TlsIntercepted));
    }
}
