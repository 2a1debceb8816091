//! How long a state counts, under paused time.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::future::BoxFuture;
use gatepost::config::{App, Config};
use gatepost::oauth::{Answer, Principal, Redirected, Request, TokenEndpoint, TokenError};
use gatepost::secret::Secret;
use gatepost::signin::{SignInError, SignIns};
use gatepost::store::Store;
use tokio::time::advance;
use url::Url;

use crate::JANE;
use crate::web::parameter;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// Grants each code, and counts them.
#[derive(Default)]
struct Generous(AtomicUsize);

impl TokenEndpoint for Generous {
    fn request<'a>(
        &'a self,
        _: &'a App,
        _: &'a [String],
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Answer, TokenError>> {
        let Request::Code { code, .. } = request else { panic!("{request:?}") };
        self.0.fetch_add(1, Ordering::SeqCst);
        let answer = Answer {
            access_token: Secret::new("access".into()),
            refresh_token: Some(Secret::new(format!("refresh of {}", code.expose()))),
            expires_in: 60 * MINUTE,
            refresh_in: None,
        };
        Box::pin(async move { Ok(answer) })
    }
}

/// Sign-ins of Jane's that are under way.
struct Bench {
    sign_ins: SignIns,
    store: Store,
    principal: Principal,
    endpoint: Arc<Generous>,
    _folder: tempfile::TempDir,
    /// tokio's time does not run by itself while a blocking task is busy: one waits for this to be dropped.
    _busy: mpsc::Sender<()>,
}

impl Bench {
    async fn new() -> Self {
        let (busy, idle) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || idle.recv());
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        let text = format!(
            "state_dir = \"state\"\n[app.a]\nclient_id = \"x\"\n\
             [[account]]\nmailbox = \"{JANE}\"\napp = \"a\"\n"
        );
        let config = Config::parse(Path::new("gatepost.toml"), &text).unwrap();
        Self {
            sign_ins: SignIns::new(store.clone()),
            store,
            principal: Principal::of(&config.accounts[0]),
            endpoint: Arc::default(),
            _folder: folder,
            _busy: busy,
        }
    }

    /// Begins one; the query with which its browser comes back.
    fn begin(&self, code: &str) -> (gatepost::signin::Begun, String) {
        let app = &self.principal.app;
        let (url, back) = (app.authorize_url.as_ref().unwrap(), "http://localhost:8400");
        let (principal, endpoint) = (self.principal.clone(), Arc::clone(&self.endpoint));
        let begun = self.sign_ins.begin(principal, vec![JANE.into()], endpoint, url, back);
        let begun = begun.unwrap();
        let state = parameter(&begun.url, "state").unwrap();
        (begun, format!("code={code}&state={state}"))
    }

    async fn answer(&self, query: &str) -> Result<String, SignInError> {
        let done = self.sign_ins.answer(Redirected::of_query(query)).await?;
        Ok(done.principal)
    }

    async fn refresh_token(&self) -> Option<String> {
        let (token, _) = self.store.token(&self.principal.key()).await.unwrap();
        Some(token?.refresh_token?.expose().clone())
    }
}

#[tokio::test(start_paused = true)]
async fn ten_minutes() {
    let bench = Bench::new().await;
    let (begun, in_time) = bench.begin("one");
    advance(10 * MINUTE - SECOND).await;
    let signed_in = bench.answer(&in_time).await.unwrap();
    assert!(signed_in.contains(JANE), "{signed_in}");
    assert_eq!(begun.done().await.unwrap().mailboxes, [JANE]);
    assert_eq!(bench.refresh_token().await.as_deref(), Some("refresh of one"));

    let (begun, too_late) = bench.begin("two");
    let waiting = tokio::spawn(begun.done());
    tokio::task::yield_now().await;
    advance(10 * MINUTE + SECOND).await;
    assert!(matches!(bench.answer(&too_late).await, Err(SignInError::UnknownState)));
    assert!(matches!(waiting.await.unwrap(), Err(SignInError::Expired)));
    assert_eq!(bench.refresh_token().await.as_deref(), Some("refresh of one"));
    assert_eq!(bench.endpoint.0.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn once_and_for_its_own_sign_in() {
    let bench = Bench::new().await;
    let (_first, one) = bench.begin("one");
    let (second, two) = bench.begin("two");
    bench.answer(&two).await.unwrap();
    assert_eq!(second.done().await.unwrap().principal, bench.principal.to_string());
    for used in [two.clone(), two.replace("code=two", "code=three")] {
        assert!(matches!(bench.answer(&used).await, Err(SignInError::UnknownState)));
    }
    for wrong in ["code=x", "code=x&state=", "code=x&state=guessed", "error=access_denied", ""] {
        assert!(matches!(bench.answer(wrong).await, Err(SignInError::UnknownState)), "{wrong}");
    }
    assert_eq!(bench.refresh_token().await.as_deref(), Some("refresh of two"));
    bench.answer(&one).await.unwrap();
    assert_eq!(bench.endpoint.0.load(Ordering::SeqCst), 2);
}

/// Random each time, and not to be guessed.
#[tokio::test]
async fn no_two_are_the_same() {
    let bench = Bench::new().await;
    let urls: Vec<Url> = (0..50).map(|_| bench.begin("x").0.url).collect();
    for name in ["state", "code_challenge"] {
        let mut all: Vec<_> = urls.iter().map(|url| parameter(url, name).unwrap()).collect();
        all.sort();
        all.dedup();
        assert_eq!((all.len(), all[0].len()), (50, 43), "{name}");
    }
}
