//! The certificates that the listeners show to clients.

use std::time::Duration;

use super::{Case, Code, Finding, with_hint};
use crate::clock::Clock;
use crate::net::{CertificateSource, OwnNames, ServerTls};
use crate::vocabulary::TlsMode;

/// `gatepost run` warns in its log at the same time.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// Each once, of the first listener that has it. One that gatepost has yet to make is none.
pub(super) fn examine(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen: Vec<CertificateSource> = Vec::new();
    for listener in case.config.listeners.iter().filter(|one| one.tls != TlsMode::None) {
        let source = CertificateSource::of(listener, &case.config.state_dir);
        let is_to_come = source.self_made && !source.files.certificate.exists();
        if is_to_come || seen.contains(&source) {
            continue;
        }
        findings.push(judge(case, &listener.name(), source.clone()));
        seen.push(source);
    }
    findings
}

fn judge(case: &Case, listener: &str, source: CertificateSource) -> Finding {
    const CODE: Code = Code::ListenerCertificate;
    let self_made = source.self_made;
    let tls = match ServerTls::open(source) {
        Ok(tls) => tls,
        Err(error) => {
            let (what, remedy) = with_hint(&error.to_string());
            let remedy = match remedy.is_empty() {
                true => "give it back to the user that runs gatepost, in its place".to_owned(),
                false => remedy,
            };
            return Finding::error(CODE, listener, what, remedy);
        }
    };
    let certificate = tls.certificate();
    let now = Clock::system().now();
    let remedy = "put a new one, with its key, in its place; gatepost serves it within seconds";
    if let Some(begin) = certificate.not_before.filter(|begin| *begin > now) {
        let what = format!("its certificate begins on {}: clients refuse it", begin.text());
        return Finding::error(CODE, listener, what, format!("wait, set the clock, or {remedy}"));
    }
    if let Some(end) = certificate.not_after.filter(|end| end.saturating_since(now) < SOON) {
        let what = |verb| format!("its certificate {verb} on {}", end.text());
        return match end <= now {
            true => Finding::error(CODE, listener, what("has ended"), remedy),
            false => Finding::warning(CODE, listener, what("ends"), remedy),
        };
    }
    let names = OwnNames::asked_by(&case.config.listeners);
    let missing = names.missing_in(&certificate).join(", ");
    if self_made && !missing.is_empty() {
        let what = format!("the self-made certificate lacks {missing}, which listeners have now");
        let remedy = "`gatepost certificate --renew`, then let the clients trust the new one";
        return Finding::warning(CODE, listener, what, remedy);
    }
    let until = certificate.not_after.map(|end| end.text()).unwrap_or_default();
    let what = format!("its certificate is for {}, until {until}", certificate.names.join(", "));
    Finding::ok(CODE, listener, what)
}
