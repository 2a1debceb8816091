//! The listeners' certificates while they are served: each once, read anew when its files change, and people told
//! before one ends.
//!
//! Invariant: whatever happens to the files, the certificate that was served last goes on being served.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Listener};
use crate::explain::split_hint;
use crate::net::{Certificate, CertificateSource, OwnNames, ServerTls, TlsError};
use crate::private_file::{self, Owners};
use crate::vocabulary::TlsMode;

/// How often the files are looked at: four calls of the system for each certificate. A look needs nothing of the
/// system's that differs from one to the other, and sees through symbolic links and network file systems.
const LOOK: Duration = Duration::from_secs(2);

const DAY: Duration = Duration::from_secs(86_400);

/// People are told so long before a certificate ends. Whatever renews certificates by itself does so earlier: with
/// certbot there are thirty days left.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// The certificates that listeners have.
#[derive(Default)]
pub(super) struct Certificates(Mutex<Vec<Watched>>);

/// One of them.
struct Watched {
    tls: ServerTls,
    /// Failures to read it anew, one after the other.
    failures: u32,
    /// What people were told last of such a failure.
    said: Option<String>,
    /// When they were told last that it ends.
    warned: Option<Timestamp>,
}

impl Certificates {
    /// The one of a listener, if it has TLS: made the first time if it has none of its own. A configuration that is
    /// read anew gets what is in the files now.
    pub(super) fn of(&self, config: &Config, listener: &Listener) -> Result<Option<ServerTls>> {
        if listener.tls == TlsMode::None {
            return Ok(None);
        }
        let source = CertificateSource::of(listener, &config.state_dir);
        let mut all = self.all();
        if let Some(known) = all.iter_mut().find(|known| *known.tls.source() == source) {
            known.reload_if_outdated();
            return Ok(Some(known.tls.clone()));
        }
        let tls = open(config, source).map_err(|error| of_listener(config, listener, error))?;
        all.push(Watched { tls: tls.clone(), failures: 0, said: None, warned: None });
        Ok(Some(tls))
    }

    /// Reads each anew whose files have changed, and tells of those that end, without end.
    pub(super) async fn watch(self: Arc<Self>, clock: Clock) {
        loop {
            let (certificates, now) = (Arc::clone(&self), clock.now());
            // Files may be on a disk that takes its time. A look that panics is made again.
            let _ = spawn_blocking(move || certificates.look(now)).await;
            sleep(LOOK).await;
        }
    }

    fn look(&self, now: Timestamp) {
        let mut all = self.all();
        // Those of listeners that are gone.
        all.retain(|watched| watched.tls.is_in_use());
        for watched in all.iter_mut() {
            watched.reload_if_outdated();
            watched.warn_of_end(now);
        }
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn reload_if_outdated(&mut self) {
        let file = self.tls.source().files.certificate.display().to_string();
        // A link that was turned back is what it was before.
        let read = match self.tls.is_outdated() {
            true => self.tls.reload(),
            false => Ok(false),
        };
        match read {
            Ok(true) => {
                let Certificate { names, not_after, .. } = &*self.tls.certificate();
                let (names, until) = (names.join(", "), not_after.map(Timestamp::text));
                info!(file, names, until, "another certificate is served now");
                warn_of_exposed(self.tls.source());
                self.warned = None;
            }
            Ok(false) if self.said.is_some() => {
                info!(file, "the certificate can be read again, and is the same as before");
            }
            Ok(false) => {}
            Err(reason) => return self.failed(&file, &reason),
        }
        (self.failures, self.said) = (0, None);
    }

    /// Certificate and key are replaced one after the other: what is gone at the next look was that.
    fn failed(&mut self, file: &str, reason: &TlsError) {
        let text = reason.to_string();
        self.failures = self.failures.saturating_add(1);
        if self.failures > 1 && self.said.as_ref() != Some(&text) {
            let (reason, hint) = split_hint(&text);
            warn!(
                file,
                reason,
                hint,
                "the certificate can't be read anew; the former one is served, and it is tried again"
            );
            self.said = Some(text);
        }
    }

    fn warn_of_end(&mut self, now: Timestamp) {
        let certificate = self.tls.certificate();
        let Some(end) = certificate.not_after.filter(|end| end.saturating_since(now) < SOON) else {
            return;
        };
        // A clock that was set back counts as a day.
        let lately = |then: Timestamp| then <= now && now.saturating_since(then) < DAY;
        if self.warned.is_some_and(lately) {
            return;
        }
        self.warned = Some(now);
        let (file, until) = (self.tls.source().files.certificate.display(), end.text());
        let what = if end <= now { "has ended" } else { "ends soon" };
        let remedy = "put a new one, with its key, in its place; it is served within seconds";
        warn!(%file, until, remedy, "a listener's certificate {what}: clients will refuse it");
    }
}

/// Names the place in the configuration.
pub(super) fn of_listener(config: &Config, listener: &Listener, error: TlsError) -> anyhow::Error {
    let (file, line) = (config.file.display(), listener.line);
    let key = listener.certificate.as_ref().and_then(|files| match error.path() {
        Some(path) if *path == files.certificate => Some("certificate"),
        Some(path) if *path == files.private_key => Some("private_key"),
        _ => None,
    });
    let place = match key {
        Some(key) => format!("{file}, line {line}, {key}"),
        None => format!("{file}, line {line}"),
    };
    anyhow::Error::new(error).context(place)
}

fn open(config: &Config, source: CertificateSource) -> Result<ServerTls, TlsError> {
    if source.self_made {
        source.make_once(|| {
            let names = OwnNames::of(&config.listeners);
            if let Some((reason, hint)) = names.unknown.as_deref().map(split_hint) {
                warn!(reason, hint, "the self-made certificate lacks names");
            }
            names
        })?;
    }
    let tls = ServerTls::open(source)?;
    warn_of_exposed(tls.source());
    if tls.source().self_made {
        let names = OwnNames::asked_by(&config.listeners);
        let missing = names.missing_in(&tls.certificate()).join(", ");
        if !missing.is_empty() {
            let remedy = "gatepost certificate --renew, then let the clients trust the new one";
            warn!(missing, remedy, "the self-made certificate lacks names that listeners have now");
        }
    }
    Ok(tls)
}

/// Said and not refused: what renews certificates, or mounts them, sets their modes.
fn warn_of_exposed(source: &CertificateSource) {
    let path = &source.files.private_key;
    if !source.self_made && private_file::is_open_to_all(path) {
        let remedy = Owners::of(path).map(|owners| owners.to_hide(path));
        let path = path.display();
        warn!(%path, remedy, "everybody on this machine can read this private key");
    }
}
