//! The token endpoint: the same token to everybody, of Entra's usual size.

use std::io;

use crate::wire::Wire;

/// Characters of a token. Entra's have 1,500 to 2,500.
const SIZE: usize = 1800;

/// What everybody gets.
pub(crate) fn token() -> String {
    let mut token = String::from("eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.");
    let alphabet = "abcdefghijklmnopqrstuvwxyz0123456789";
    token.extend(alphabet.chars().cycle().take(SIZE - token.len()));
    token
}

pub(super) async fn serve(mut wire: Wire) -> io::Result<()> {
    while wire.line().await?.is_some() {
        let mut body = 0;
        loop {
            let line = wire.must().await?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(octets) = line.strip_prefix("content-length:") {
                body = octets.trim().parse().map_err(io::Error::other)?;
            }
        }
        wire.skip(body).await?;
        let answer = format!(
            r#"{{"token_type":"Bearer","expires_in":3599,"refresh_token":"refresh","access_token":"{}"}}"#,
            token()
        );
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        let length = answer.len();
        wire.send(format!("{head}Content-Length: {length}\r\n\r\n{answer}").as_bytes()).await?;
    }
    Ok(())
}
