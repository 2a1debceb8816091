//! Where a browser comes back to after a sign-in: one listener on the loopback addresses for all of them.
//!
//! Invariant: it answers GET on one path, shows no more than what was signed in, and its pages hold nothing that
//! could run or be fetched.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
use url::{Host, Url};

use super::{SignIns, page};
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
    /// Listens where `redirect_uri` leads to; none: on a free port of `http://localhost`, which Entra takes for a
    /// registered `http://localhost`. `Ok(None)`: it leads elsewhere, so that its URL has to be pasted.
    pub fn open(redirect_uri: Option<&Url>, sign_ins: Arc<SignIns>) -> io::Result<Option<Self>> {
        let Some(url) = redirect_uri else {
            let (sockets, port) = on_free_port()?;
            let redirect_uri = format!("http://localhost:{port}");
            return Ok(Some(Self::serve(sockets, redirect_uri, "/", sign_ins)));
        };
        let addresses = loopbacks(url);
        if addresses.is_empty() {
            return Ok(None);
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let sockets = bind_all(&addresses, port)?;
        Ok(Some(Self::serve(sockets, as_registered(url), url.path(), sign_ins)))
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

/// As it is registered: `http://localhost` has no slash at its end, though a parser of URLs gives it one.
pub fn as_registered(url: &Url) -> String {
    let text = url.as_str();
    match url.path() {
        "/" if url.query().is_none() => text.strip_suffix('/').unwrap_or(text).to_owned(),
        _ => text.to_owned(),
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

/// Where a URL leads on this machine; nowhere if it leads to another one, or by TLS.
fn loopbacks(url: &Url) -> Vec<IpAddr> {
    let both = || vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    match (url.scheme(), url.host()) {
        ("http", Some(Host::Domain("localhost"))) => both(),
        ("http", Some(Host::Ipv4(ip))) if ip.is_loopback() => vec![ip.into()],
        ("http", Some(Host::Ipv6(ip))) if ip.is_loopback() => vec![ip.into()],
        _ => Vec::new(),
    }
}

fn on_free_port() -> io::Result<(Vec<TcpListener>, u16)> {
    let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut failure = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let first = bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))?;
        let port = first.local_addr()?.port();
        drop(first);
        match bind_all(&both, port) {
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
