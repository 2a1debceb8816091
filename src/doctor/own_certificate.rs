//! The certificates that the listeners show to clients: what is in the files, and what a running gatepost serves.

use std::time::Duration;

use super::listeners::look;
use super::{Case, Code, Finding, with_hint};
use crate::clock::Clock;
use crate::config::{Config, Listener};
use crate::net::{Certificate, CertificateSource, OwnNames, ServerTls};
use crate::store::SessionBoard;
use crate::vocabulary::TlsMode;

const CODE: Code = Code::ListenerCertificate;

/// `gatepost run` warns in its log at the same time.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// Each once, of the first listener that has it.
pub(super) async fn examine(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (listener, source) in sources(&case.config) {
        let name = listener.name();
        let in_file = match ServerTls::open(source.clone()) {
            Ok(tls) => {
                let certificate = tls.certificate();
                findings.push(judge(&case.config, &name, source.self_made, &certificate));
                Some(certificate)
            }
            Err(error) => {
                let (what, remedy) = with_hint(&error.to_string());
                let remedy = match remedy.is_empty() {
                    true => "give it back to the user that runs gatepost, in its place".to_owned(),
                    false => remedy,
                };
                findings.push(Finding::error(CODE, name, what, remedy));
                None
            }
        };
        if !case.live.is_empty() {
            findings.extend(compare(&case.config, listener, &source, in_file.as_deref()).await);
        }
    }
    findings
}

/// Listeners of a running gatepost that serve another certificate than the one in their files.
pub async fn served_otherwise(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if SessionBoard::read_all(&config.state_dir).is_ok_and(|live| !live.is_empty()) {
        for (listener, source) in sources(config) {
            let in_file = source.certificate().ok();
            findings.extend(compare(config, listener, &source, in_file.as_ref()).await);
        }
    }
    findings
}

/// One that gatepost has yet to make is none.
fn sources(config: &Config) -> Vec<(&Listener, CertificateSource)> {
    let mut sources: Vec<(&Listener, CertificateSource)> = Vec::new();
    for listener in config.listeners.iter().filter(|one| one.tls != TlsMode::None) {
        let source = CertificateSource::of(listener, &config.state_dir);
        let is_to_come = source.self_made && !source.files.certificate.exists();
        if !is_to_come && !sources.iter().any(|(_, known)| *known == source) {
            sources.push((listener.as_ref(), source));
        }
    }
    sources
}

/// What clients see, where that is not what is in the file; a listener that can't be reached has a finding of its own.
async fn compare(
    config: &Config,
    listener: &Listener,
    source: &CertificateSource,
    in_file: Option<&Certificate>,
) -> Option<Finding> {
    let at = listener.addresses.iter().find(|one| one.address.port() != 0)?;
    let served = look(listener, at.address).await.ok().flatten()?;
    if in_file.is_some_and(|in_file| in_file.der() == served.der()) {
        return None;
    }
    let file = source.files.certificate.display();
    let Finding { level, what, .. } = judge(config, &listener.name(), source.self_made, &served);
    let what =
        format!("the running gatepost serves another certificate than the one in {file}: {what}");
    let remedy = "wait some seconds: it reads its files anew by itself. If it does not, its log says why: `journalctl \
                  -u gatepost -g certificate`; and where it may not open what the file leads to: `systemctl restart \
                  gatepost`";
    Some(match level {
        super::Level::Error => Finding::error(CODE, listener.name(), what, remedy),
        _ => Finding::warning(CODE, listener.name(), what, remedy),
    })
}

/// What is wrong with a certificate by its dates and names.
fn judge(config: &Config, listener: &str, self_made: bool, certificate: &Certificate) -> Finding {
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
    let names = OwnNames::asked_by(&config.listeners);
    let missing = names.missing_in(certificate).join(", ");
    if self_made && !missing.is_empty() {
        let what = format!("the self-made certificate lacks {missing}, which listeners have now");
        let remedy = "`gatepost certificate --renew`, then let the clients trust the new one";
        return Finding::warning(CODE, listener, what, remedy);
    }
    let until = certificate.not_after.map(|end| end.text()).unwrap_or_default();
    let what = format!("its certificate is for {}, until {until}", certificate.names.join(", "));
    Finding::ok(CODE, listener, what)
}
