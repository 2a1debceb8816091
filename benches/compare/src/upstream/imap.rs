//! IMAP: the answers of Exchange's, to what the clients here and the proxies ask.

use std::io;
use std::sync::LazyLock;

use crate::wire::Wire;

/// Octets of the one message: Exchange Online's usual limit of what is sent.
pub(crate) const MESSAGE: usize = 25 * 1024 * 1024;

const GREETING: &[u8] =
    b"* OK The Microsoft Exchange IMAP4 service is ready. [TABOAFAAUAAxADIAMwBDAEEA]\r\n";

const CAPABILITIES: &str = "* CAPABILITY IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CHILDREN IDLE NAMESPACE LITERAL+\r\n";

/// Octets written at a time.
const CHUNK: usize = 64 * 1024;

/// An attachment's lines, as they are in a message.
static LINES: LazyLock<Vec<u8>> = LazyLock::new(|| lines(CHUNK));

pub(super) async fn serve(mut wire: Wire) -> io::Result<()> {
    wire.send(GREETING).await?;
    while let Some(line) = wire.line().await? {
        let mut words = line.split(' ');
        let tag = words.next().unwrap_or_default();
        let command = words.next().unwrap_or_default().to_ascii_uppercase();
        match command.as_str() {
            "AUTHENTICATE" => {
                if words.nth(1).is_none() {
                    wire.send(b"+ \r\n").await?;
                    wire.must().await?;
                }
                wire.send(done(tag, "AUTHENTICATE").as_bytes()).await?;
            }
            "CAPABILITY" => {
                wire.send((CAPABILITIES.to_owned() + &done(tag, "CAPABILITY")).as_bytes()).await?;
            }
            "ID" => wire.send(format!("* ID NIL\r\n{}", done(tag, "ID")).as_bytes()).await?,
            "LOGOUT" => {
                let goodbye = "* BYE Microsoft Exchange Server IMAP4 server signing off.\r\n";
                wire.send((goodbye.to_owned() + &done(tag, "LOGOUT")).as_bytes()).await?;
                return wire.close().await;
            }
            "IDLE" => {
                wire.send(b"+ IDLE accepted, awaiting DONE command.\r\n").await?;
                // None: it has left.
                if wire.line().await?.is_none() {
                    return Ok(());
                }
                wire.send(done(tag, "IDLE").as_bytes()).await?;
            }
            "FETCH" => send_message(&mut wire, tag).await?,
            "APPEND" => take_message(&mut wire, tag, &line).await?,
            command => wire.send(done(tag, command).as_bytes()).await?,
        }
    }
    Ok(())
}

fn done(tag: &str, command: &str) -> String {
    format!("{tag} OK {command} completed.\r\n")
}

async fn send_message(wire: &mut Wire, tag: &str) -> io::Result<()> {
    wire.send(format!("* 1 FETCH (BODY[] {{{MESSAGE}}}\r\n").as_bytes()).await?;
    send_lines(wire, MESSAGE).await?;
    wire.send(format!(")\r\n{}", done(tag, "FETCH")).as_bytes()).await
}

async fn take_message(wire: &mut Wire, tag: &str, line: &str) -> io::Result<()> {
    let (_, literal) = line.rsplit_once('{').unwrap_or_default();
    let octets = literal.trim_end_matches('}').parse().map_err(io::Error::other)?;
    wire.send(b"+ Ready for additional command text.\r\n").await?;
    wire.skip(octets).await?;
    wire.must().await?;
    wire.send(done(tag, "APPEND").as_bytes()).await
}

/// So many octets of a message.
pub(crate) async fn send_lines(wire: &mut Wire, octets: usize) -> io::Result<()> {
    let mut left = octets;
    while left > 0 {
        let chunk = LINES.get(..left.min(CHUNK)).unwrap_or_default();
        wire.send(chunk).await?;
        left -= chunk.len();
    }
    Ok(())
}

/// Lines of 76 characters of base64 that differ, so that nothing compresses or repeats at once.
fn lines(octets: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = 0x2545_f491_u32;
    let mut made = Vec::with_capacity(octets + 78);
    while made.len() < octets {
        for _ in 0..76 {
            // xorshift32
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            made.push(ALPHABET.get(state as usize % 64).copied().unwrap_or(b'A'));
        }
        made.extend_from_slice(b"\r\n");
    }
    made.truncate(octets);
    made
}
