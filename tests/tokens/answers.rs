//! What a token endpoint's answer means: whether it passes, or a person must act.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support_tokens::paused::{Kind, accounts};
use gatepost::net::{ClientTls, Route, http_client};
use gatepost::oauth::{HttpEndpoint, Request, TokenEndpoint, TokenError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// One answer over HTTP; `None`: nobody listens.
async fn ask(endpoint: &HttpEndpoint, answer: Option<&str>) -> Result<(), TokenError> {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut accounts = accounts(Kind::Robot, "one", "mail");
    accounts.truncate(1);
    let account = Arc::into_inner(accounts.remove(0)).unwrap();
    let mut app = Arc::into_inner(account.app).unwrap();
    app.token_url.set_port(Some(socket.local_addr().unwrap().port())).unwrap();
    let Some(answer) = answer else {
        drop(socket);
        return endpoint.request(&app, &app.scopes, Request::ClientCredentials).await.map(drop);
    };
    let serve = async {
        let (mut stream, _) = socket.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
    };
    tokio::join!(endpoint.request(&app, &app.scopes, Request::ClientCredentials), serve).0.map(drop)
}

fn endpoint() -> HttpEndpoint {
    HttpEndpoint::new(http_client(&ClientTls::new(None).unwrap(), &Route::direct()).unwrap())
}

#[tokio::test]
async fn what_passes_and_what_stays() {
    let endpoint = endpoint();
    let revoked = r#"{"error":"invalid_grant","error_description":"AADSTS50173: revoked."}"#;
    let html = "<html><body>Sign in to this network</body></html>";
    let table = [
        ("408 Request Timeout", "", "", Some(None)),
        ("429 Too Many Requests\r\nRetry-After: 17", "", "", Some(Some(17))),
        ("429 Too Many Requests\r\nRetry-After: 17", "", revoked, Some(Some(17))),
        ("500 Internal Server Error", "", revoked, Some(None)),
        ("503 Service Unavailable\r\nRetry-After: 0", "", html, Some(Some(0))),
        ("400 Bad Request", "", html, Some(None)),
        ("200 OK", "", html, Some(None)),
        ("200 OK", "", "{}", Some(None)),
        ("302 Found\r\nLocation: http://localhost:1/", "", "", Some(None)),
        ("200 OK", "cut off", "{\"access", Some(None)),
        ("400 Bad Request", "", revoked, None),
        ("401 Unauthorized", "", r#"{"error":"invalid_client"}"#, None),
    ];
    for (head, cut, body, wanted) in table {
        let length = body.len() + cut.len();
        let answer = format!(
            "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        let pause = match ask(&endpoint, Some(&answer)).await.unwrap_err() {
            TokenError::Transient { retry_after, .. } => Some(retry_after),
            TokenError::Permanent { .. } => None,
        };
        assert_eq!(pause, wanted.map(|wait| wait.map(Duration::from_secs)), "{answer}");
    }
    assert!(matches!(ask(&endpoint, None).await, Err(TokenError::Transient { .. })));
}

/// Serves each request with `head`, then `more` over and over with this pause; how long and with what it ended.
async fn ask_without_end(head: &str, more: &[u8], pause: Duration) -> (String, Duration, usize) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut account = Arc::into_inner(accounts(Kind::Robot, "one", "mail").remove(0)).unwrap();
    let app = Arc::get_mut(&mut account.app).unwrap();
    app.token_url.set_port(Some(socket.local_addr().unwrap().port())).unwrap();
    let serve = async {
        let (mut stream, _) = socket.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut sent = 0;
        while stream.write_all(more).await.is_ok() {
            sent += more.len();
            tokio::time::sleep(pause).await;
        }
        sent
    };
    let (begun, endpoint, app) = (Instant::now(), endpoint(), account.app);
    let asked = async {
        let answer = endpoint.request(&app, &app.scopes, Request::ClientCredentials).await;
        (answer.unwrap_err().to_string(), begun.elapsed())
    };
    let ((error, took), sent) = tokio::join!(asked, serve);
    (error, took, sent)
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (more, none) = ([b"400\r\n", &[b'x'; 1024][..], b"\r\n"].concat(), Duration::ZERO);
    // What the kernel's buffers hold comes on top of what is read.
    let most = 16 * 1024 * 1024;
    let (error, took, sent) = ask_without_end(chunked, &more, none).await;
    assert!(error.contains("has no end") && sent < most, "{error} {sent}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let fields = b"A: b\r\n".repeat(1000);
    let (error, took, sent) = ask_without_end("HTTP/1.1 200 OK\r\n", &fields, none).await;
    assert!(error.contains("can't be reached") && sent < most, "{error} {sent}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn an_answer_that_trickles_ends_with_the_request() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (error, took, _) =
        ask_without_end(chunked, b"1\r\nx\r\n", Duration::from_millis(300)).await;
    assert!(error.contains("timed out") || error.contains("can't be reached"), "{error}");
    assert!((14..20).contains(&took.as_secs()), "{took:?}");
}

/// Nothing is unpacked: a compressed answer was not asked for, and is no JSON.
#[tokio::test]
async fn a_compressed_answer_stays_packed() {
    // {"access_token":"a"}, by gzip.
    let packed = [
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab, 0x56, 0x4a, 0x4c, 0x4e, 0x4e, 0x2d, 0x2e, 0x8e,
        0x2f, 0xc9, 0xcf, 0x4e, 0xcd, 0x53, 0xb2, 0x52, 0x4a, 0x54, 0xaa, 0x05, 0x00, 0x2c, 0xa9,
        0x22, 0xae, 0x14, 0, 0, 0,
    ];
    let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\nContent-Length: 40\r\n\r\n";
    let (error, ..) = ask_without_end(head, &packed, Duration::from_millis(50)).await;
    assert!(error.contains("not JSON"), "{error}");
}
