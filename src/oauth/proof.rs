//! What an app proves itself with: whether it was replaced since the last request, and what people are told to do when
//! it is refused.
//!
//! Invariant: of a secret no more than a digest is kept, in memory alone; and there is one remedy for a refusal, whoever
//! tells it.

use std::path::Path;
use std::time::Duration;

use ring::digest::{SHA256, digest};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::{App, Credential, KeyFiles, SecretSource};
use crate::explain::{self, A_CREDENTIAL};
use crate::private_file::{self, Limit};
use crate::vocabulary::Cause;

/// Least pause between two looks at the files, however many logins want a token.
const PAUSE: Duration = Duration::from_secs(3);

/// What was proved with last.
#[derive(Default)]
pub(super) struct Proof {
    digest: Option<Vec<u8>>,
    looked_at: Option<Instant>,
}

impl Proof {
    /// Keeps that of a request which is about to be made: before the request reads it, so that what is replaced in
    /// between is tried once too often, and never missed.
    pub(super) fn note(&mut self, app: &App) {
        self.digest = digest_of(app);
    }

    /// Whether another one is there since. What can't be read counts as unchanged: somebody is replacing it.
    pub(super) fn is_replaced(&mut self, app: &App) -> bool {
        if self.looked_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return false;
        }
        self.looked_at = Some(Instant::now());
        let now = digest_of(app);
        now.is_some() && now != self.digest
    }
}

/// Of the content of its files. The environment does not change while a process runs.
fn digest_of(app: &App) -> Option<Vec<u8>> {
    let files = app.credential.as_ref()?.files();
    let mut digests = Vec::new();
    for file in &files {
        let octets = Zeroizing::new(private_file::read_regular(file, Limit::CERTIFICATES).ok()?);
        digests.extend_from_slice(digest(&SHA256, &octets).as_ref());
    }
    (!files.is_empty()).then_some(digests)
}

/// What a person does about a refusal of the token endpoint's in these words: what is known of them, with the place of
/// the app's own secret or key. What is to be typed stands between backticks.
pub fn remedy(app: &App, mailbox: &str, said: &str, cause: Cause) -> String {
    let place = place(app);
    match (explain::best(said), &app.credential) {
        // RFC 7523 section 3.1: that is said of the assertion, which nobody has signed in for.
        (Some(entry), Some(Credential::ServiceAccount(_))) if entry.code == "invalid_grant" => {
            format!(
                "see that the service account may act for {mailbox}, or put a new key of it into {place}"
            )
        }
        (Some(entry), _) => entry.marked_remedy(mailbox, &place),
        (None, _) if cause == Cause::SignIn => format!("`gatepost login {mailbox}`"),
        (None, _) => {
            let App { name, provider, .. } = app;
            let portal = provider.portal.as_deref().unwrap_or("the provider's portal");
            format!(
                "compare [app.{name}] in gatepost.toml with the app's registration at {portal}; gatepost tries again by \
                 itself"
            )
        }
    }
}

/// Where a new secret, key or token of the app's is put, and what follows.
pub(super) fn place(app: &App) -> String {
    let noticed = |files: &[&Path]| {
        let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        format!("{}; gatepost notices by itself", files.join(" and "))
    };
    match &app.credential {
        None => A_CREDENTIAL.into(),
        Some(Credential::Secret(SecretSource::Env(name))) => {
            format!("the environment variable {name}, then restart gatepost")
        }
        // systemd copies it at the start.
        Some(Credential::Secret(SecretSource::Credential(name))) => {
            format!("the file of LoadCredential={name}, then restart gatepost")
        }
        Some(
            Credential::Secret(SecretSource::File(file))
            | Credential::FederatedToken(file)
            | Credential::ServiceAccount(file),
        ) => noticed(&[file]),
        Some(Credential::Certificate(written)) => match &written.files {
            KeyFiles::Pem { certificate, private_key } if certificate != private_key => {
                noticed(&[certificate, private_key])
            }
            KeyFiles::Pem { certificate: file, .. } | KeyFiles::Pkcs12(file) => noticed(&[file]),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;

    const SAID: &str = "invalid_client: AADSTS7000215: Invalid client secret provided.";

    fn app(credential: &str) -> Arc<App> {
        let text = format!(
            "state_dir = \"state\"\n[app.a]\ntenant = \"t\"\nclient_id = \"c\"\n{credential}\n[[account]]\nmailbox = \"jane@contoso.example\"\napp = \"a\"\n"
        );
        let config = Config::parse_without_secrets(Path::new("/etc/gatepost.toml"), &text).unwrap();
        Arc::clone(&config.accounts[0].app)
    }

    #[test]
    fn the_remedy_names_the_place() {
        for (credential, end) in [
            (
                "client_secret = { file = \"/x/secret\" }",
                "Secret ID) into /x/secret; gatepost notices by itself.",
            ),
            (
                "client_secret = { env = \"NAME\" }",
                "the environment variable NAME, then restart gatepost.",
            ),
            (
                "client_secret = { credential = \"s\" }",
                "the file of LoadCredential=s, then restart gatepost.",
            ),
        ] {
            let remedy =
                remedy(&app(credential), "jane@contoso.example", SAID, Cause::Registration);
            assert!(remedy.ends_with(end), "{remedy}");
        }
        let keys =
            "client_certificate = { certificate = \"/x/a.pem\", private_key = \"/x/a.key\" }";
        let remedy =
            remedy(&app(keys), "x", "invalid_client: AADSTS700027: x", Cause::Registration);
        assert!(
            remedy.ends_with("into /x/a.pem and /x/a.key; gatepost notices by itself."),
            "{remedy}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn another_content_is_noticed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "one").unwrap();
        let app = app(&format!("client_secret = {{ file = {file:?} }}"));
        let mut proof = Proof::default();
        proof.note(&app);
        let mut is_replaced = async || {
            tokio::time::advance(PAUSE).await;
            proof.is_replaced(&app)
        };
        assert!(!is_replaced().await);
        std::fs::write(&file, "one").unwrap();
        assert!(!is_replaced().await);
        std::fs::remove_file(&file).unwrap();
        assert!(!is_replaced().await);
        std::fs::write(&file, "two").unwrap();
        assert!(is_replaced().await);
        assert!(!proof.is_replaced(&app), "it is looked at now and then");
        proof.note(&app);
        tokio::time::advance(PAUSE).await;
        assert!(!proof.is_replaced(&app));
    }

    #[test]
    fn what_is_in_no_file_never_changes() {
        for credential in ["", "client_secret = { env = \"PATH\" }"] {
            assert!(digest_of(&app(credential)).is_none());
        }
    }
}
