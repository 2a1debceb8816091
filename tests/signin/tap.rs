//! A server before the emulated Entra, which keeps each request and its answer.
//!
//! Invariant: what goes through is not changed, so that the emulator judges the request that was sent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::net::TcpListener;

/// See the module.
#[derive(Clone)]
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    emulator: SocketAddr,
    client: reqwest::Client,
    seen: Mutex<Vec<Seen>>,
    down: AtomicBool,
}

/// One request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// Of the query and the body.
    pub(crate) fields: HashMap<String, String>,
    /// 0: the connection was closed without an answer.
    pub(crate) status: u16,
    pub(crate) answer: Value,
}

impl Tap {
    pub(crate) async fn before(emulator: SocketAddr, client: reqwest::Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, down) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { emulator, client, seen, down });
        let router = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shared }
    }

    /// Whether connections are closed without an answer, and nothing is kept.
    pub(crate) fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    /// What an endpoint of this name has answered so far.
    pub(crate) fn answers(&self, name: &str) -> Vec<Value> {
        let seen = self.shared.seen.lock().unwrap();
        let own = seen.iter().filter(|seen| seen.path.rsplit('/').next() == Some(name));
        own.map(|seen| seen.answer.clone()).collect()
    }

    /// Token requests so far, with those to the endpoint of managed identities.
    pub(crate) fn token_requests(&self) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.path.ends_with("/token")).cloned().collect()
    }
}

impl Seen {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn pass(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if shared.down.load(Ordering::SeqCst) {
        return hang_up();
    }
    let encoded = [uri.query().unwrap_or_default().as_bytes(), &body].join(&b'&');
    let mut seen = Seen {
        at: Instant::now(),
        path: uri.path().to_owned(),
        headers: headers.clone(),
        fields: url::form_urlencoded::parse(&encoded).into_owned().collect(),
        status: 0,
        answer: Value::Null,
    };
    let url = format!("http://{}{uri}", shared.emulator);
    let sent = shared.client.request(method, url).headers(headers).body(body).send().await;
    let answered = async {
        let answer = sent.ok()?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        Some((status, headers, answer.bytes().await.ok()?))
    };
    let answered = answered.await;
    if let Some((status, _, body)) = &answered {
        seen.status = status.as_u16();
        seen.answer = serde_json::from_slice(body).unwrap_or_default();
    }
    shared.seen.lock().unwrap().push(seen);
    answered.map_or_else(hang_up, IntoResponse::into_response)
}

/// A body that fails at once takes its unsent head with it.
fn hang_up() -> Response {
    let failed = Err::<Bytes, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
    Body::from_stream(futures_util::stream::iter([failed])).into_response()
}
