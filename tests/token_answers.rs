//! What a token endpoint's answer means: whether it passes, or a person must act.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support_tokens;

use std::sync::Arc;
use std::time::Duration;

use gatepost::net::{ClientTls, http_client};
use gatepost::oauth::{HttpEndpoint, Request, TokenEndpoint, TokenError};
use support_tokens::paused::{Kind, accounts};
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

#[tokio::test]
async fn what_passes_and_what_stays() {
    let client = http_client(&ClientTls::new(None).unwrap()).unwrap();
    let endpoint = HttpEndpoint::new(client);
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
