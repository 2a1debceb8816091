//! A tunnel through an HTTP proxy: CONNECT (RFC 9110 section 9.3.6).
//!
//! Invariant: not one octet behind the proxy's answer is read here, since it is the server's; and the proxy's words are
//! shown as one short line.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::route::Hop;
use crate::config::Endpoint;
use crate::secret::Secret;

/// Longest answer of a proxy, which has a few hundred octets: what hyper reads of one.
const LONGEST: usize = 8192;

/// Longest part of an answer that is shown.
const SHOWN: usize = 100;

/// Asks the proxy at the other end of `stream` for a tunnel to `endpoint`; the error is what a person is told.
pub(super) async fn open<S>(stream: &mut S, endpoint: &Endpoint, hop: &Hop) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error: io::Error| format!("it breaks the connection off: {error}");
    stream.write_all(request(endpoint, hop).expose()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut answer = Vec::new();
    // Octet by octet, as curl does: the server's greeting may come in the same segment.
    while !answer.ends_with(b"\r\n\r\n") && !answer.ends_with(b"\n\n") {
        let mut octet = [0];
        match stream.read(&mut octet).await.map_err(broken)? {
            0 => return Err("it has closed the connection".into()),
            _ if answer.len() == LONGEST => return Err("its answer has no end".into()),
            _ => answer.extend(octet),
        }
        if answer.len() == HTTP.len() && answer != HTTP {
            return Err("it does not speak HTTP".into());
        }
    }
    judge(&answer, hop)
}

const HTTP: &[u8] = b"HTTP/1.";

fn request(endpoint: &Endpoint, hop: &Hop) -> Secret<Vec<u8>> {
    let mut request = format!("CONNECT {endpoint} HTTP/1.1\r\nHost: {endpoint}\r\n").into_bytes();
    if let Some(authorization) = &hop.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.expose());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    Secret::new(request)
}

/// Its status line is `HTTP/1.1 200 Connection established`; any 2xx is a tunnel.
fn judge(answer: &[u8], hop: &Hop) -> Result<(), String> {
    let line = answer.split(|octet| *octet == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let code = line.split(' ').nth(1).filter(|code| code.len() == 3);
    match code.and_then(|code| code.parse::<u16>().ok()) {
        Some(200..300) => Ok(()),
        Some(407) if hop.authorization.is_some() => {
            let line = shown(&line);
            Err(format!(
                "it refuses the user name and password of proxy: {line}; mend them in gatepost.toml"
            ))
        }
        Some(407) => {
            let line = shown(&line);
            Err(format!(
                "it wants a user name and password: {line}; set user and password of proxy in gatepost.toml"
            ))
        }
        Some(_) => Err(format!("it says: {}", shown(&line))),
        None => Err("it does not speak HTTP".into()),
    }
}

fn shown(line: &str) -> String {
    let clean = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    line.trim_end().chars().map(clean).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(
        answer: &[u8],
        authorization: Option<&str>,
    ) -> (Result<(), String>, String, Vec<u8>) {
        let endpoint = "[::1]:993".parse().unwrap();
        let authorization = authorization.map(|value| Secret::new(value.as_bytes().to_vec()));
        let hop = Hop { scheme: "http".into(), host: "p".into(), port: 1, authorization };
        let (mut near, mut far) = tokio::io::duplex(64 * 1024);
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        let outcome = open(&mut near, &endpoint, &hop).await;
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        drop(near);
        let mut asked = String::new();
        far.read_to_string(&mut asked).await.unwrap();
        (outcome, asked, rest)
    }

    #[tokio::test]
    async fn a_tunnel_and_not_one_octet_more() {
        let answer = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n220 hi\r\n";
        let (outcome, asked, rest) = ask(answer, Some("Basic eA==")).await;
        assert_eq!((outcome, rest.as_slice()), (Ok(()), &b"220 hi\r\n"[..]));
        let lines = "CONNECT [::1]:993 HTTP/1.1\r\nHost: [::1]:993\r\nProxy-Authorization: Basic eA==\r\n\r\n";
        assert_eq!(asked, lines);
        assert_eq!(ask(b"HTTP/1.0 201\n\n* OK", None).await.2, b"* OK");
    }

    #[tokio::test]
    async fn what_a_proxy_says_instead() {
        let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &b"A: b\r\n".repeat(2000)].concat();
        for (answer, told) in [
            (
                &b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..],
                "wants a user name and password: HTTP/1.1 407 Proxy Authentication Required; set user and password",
            ),
            (b"HTTP/1.1 403 For\x1bbidden\r\n\r\n", "it says: HTTP/1.1 403 For?bidden"),
            (b"HTTP/1.1 2000 OK\r\n\r\n", "does not speak HTTP"),
            (b"HTTP/1.1\r\n\r\n", "does not speak HTTP"),
            (b"* OK IMAP4 ready\r\n", "does not speak HTTP"),
            (b"HTTP/1.1 200 OK\r\n", "has closed"),
            (b"", "has closed"),
            (&endless, "has no end"),
        ] {
            let error = ask(answer, None).await.0.unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        let error = ask(b"HTTP/1.1 407 No\r\n\r\n", Some("Basic eA==")).await.0.unwrap_err();
        assert!(error.starts_with("it refuses the user name"), "{error}");
    }
}
