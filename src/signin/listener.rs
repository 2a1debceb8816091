//! Where a browser comes back to after a sign-in: one listener on the loopback addresses for all of them.
//!
//! Invariant: it answers GET on one path, shows no more than what was signed in, and its pages hold nothing that
//! could run or be fetched.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{SignIns, page};
use crate::config::RedirectUri;
use crate::net::bind;
use crate::oauth::Redirected;

/// How long the browser may take to read its last page when all is done.
const GRACE: Duration = Duration::from_secs(2);

/// Tries to find a port that is free on both loopbacks.
const TRIES: usize = 10;

/// A listener for browsers that come back.
pub struct Callback {
    redirect_uri: String,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Shared {
    sign_ins: Arc<SignIns>,
    path: String,
}

impl Callback {
    /// Listens where `redirect_uri` leads to, on a free port if it names none. `Ok(None)`: it leads elsewhere, so
    /// that the browser's address has to be pasted.
    pub fn open(redirect_uri: &RedirectUri, sign_ins: Arc<SignIns>) -> io::Result<Option<Self>> {
        let addresses = redirect_uri.loopbacks();
        let (sockets, redirect_uri, path) = match (addresses.is_empty(), redirect_uri.port()) {
            (true, _) => return Ok(None),
            (false, Some(port)) => {
                (bind_all(&addresses, port)?, redirect_uri.as_str().to_owned(), redirect_uri.path())
            }
            (false, None) => {
                let (sockets, port) = on_free_port(&addresses)?;
                (sockets, redirect_uri.with_port(port), redirect_uri.path())
            }
        };
        Ok(Some(Self::serve(sockets, redirect_uri, path, sign_ins)))
    }

    fn serve(
        sockets: Vec<TcpListener>,
        redirect_uri: String,
        path: &str,
        sign_ins: Arc<SignIns>,
    ) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let shared = Arc::new(Shared { sign_ins, path: path.to_owned() });
        let router = Router::new().fallback(answer).with_state(shared);
        for socket in sockets {
            let serving = axum::serve(socket, router.clone());
            let serving = serving.with_graceful_shutdown(stop.clone().cancelled_owned());
            tasks.spawn(async move { serving.await });
        }
        tasks.close();
        Self { redirect_uri, tasks, stop }
    }

    /// What the authorization request names.
    pub fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    /// Stops listening, when the last page has gone out.
    pub async fn close(self) {
        self.stop.cancel();
        // A browser that keeps its connection open is not waited for any longer.
        let _ = timeout(GRACE, self.tasks.wait()).await;
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    RawQuery(query): RawQuery,
) -> Response {
    let redirected = Redirected::of_query(query.as_deref().unwrap_or_default());
    // Browsers ask for icons, and HEAD must not use a code up.
    if method != Method::GET || uri.path() != shared.path || !redirected.is_answer() {
        return shown(StatusCode::NOT_FOUND, page::nothing_here());
    }
    match shared.sign_ins.answer(redirected).await {
        Ok(signed_in) => shown(StatusCode::OK, page::signed_in(&signed_in)),
        Err(error) => shown(StatusCode::BAD_REQUEST, page::failed(&error)),
    }
}

fn shown(status: StatusCode, page: String) -> Response {
    let mut response = (status, page).into_response();
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'",
        ),
        (header::CONNECTION, "close"),
    ];
    response
        .headers_mut()
        .extend(headers.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

fn on_free_port(addresses: &[IpAddr]) -> io::Result<(Vec<TcpListener>, u16)> {
    let mut failure = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let first = bind_all(addresses.get(..1).unwrap_or_default(), 0)?;
        let port = first.first().map(TcpListener::local_addr).transpose()?;
        let port = port.map_or(0, |address| address.port());
        drop(first);
        match bind_all(addresses, port) {
            Ok(sockets) => return Ok((sockets, port)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The first address must be there; the second one, of `localhost`, where this machine has IPv6.
fn bind_all(addresses: &[IpAddr], port: u16) -> io::Result<Vec<TcpListener>> {
    let mut sockets = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        match bind(SocketAddr::new(*address, port)) {
            Ok(socket) => sockets.push(socket),
            Err(error) if index > 0 && error.kind() != io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}
