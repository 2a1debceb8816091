//! SMTP: the answers of Exchange's, up to a login and a goodbye.

use std::io;

use tokio_rustls::TlsAcceptor;

use crate::wire::Wire;

const GREETING: &[u8] =
    b"220 AB1PR0101CA0001.outlook.office365.com Microsoft ESMTP MAIL Service ready\r\n";

const KEYWORDS: [&str; 7] = [
    "SIZE 157286400",
    "PIPELINING",
    "DSN",
    "ENHANCEDSTATUSCODES",
    "8BITMIME",
    "BINARYMIME",
    "CHUNKING",
];

pub(super) async fn serve(mut wire: Wire, tls: &TlsAcceptor) -> io::Result<()> {
    wire.send(GREETING).await?;
    let mut encrypted = false;
    while let Some(line) = wire.line().await? {
        let mut words = line.split(' ');
        match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "EHLO" => wire.send(ehlo(encrypted).as_bytes()).await?,
            "STARTTLS" => {
                wire.send(b"220 2.0.0 SMTP server ready\r\n").await?;
                wire = Wire::new(tls.accept(wire.into_stream()?).await?);
                encrypted = true;
            }
            "AUTH" => {
                if words.nth(1).is_none() {
                    wire.send(b"334 \r\n").await?;
                    wire.must().await?;
                }
                wire.send(b"235 2.7.0 Authentication successful\r\n").await?;
            }
            "QUIT" => {
                wire.send(b"221 2.0.0 Service closing transmission channel\r\n").await?;
                return wire.close().await;
            }
            _ => wire.send(b"250 2.0.0 OK\r\n").await?,
        }
    }
    Ok(())
}

fn ehlo(encrypted: bool) -> String {
    let last = if encrypted { "AUTH LOGIN XOAUTH2" } else { "STARTTLS" };
    let mut answer = String::from("250-outlook.office365.com Hello [127.0.0.1]\r\n");
    for keyword in KEYWORDS {
        answer += &format!("250-{keyword}\r\n");
    }
    answer + "250 " + last + "\r\n"
}
