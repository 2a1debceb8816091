//! Any octets in front of a session behind a load balancer.

use std::net::SocketAddr;

use gatepost::protocol::{Announced, NoHeader, ProxyHeader};

use super::case::{Case, Pieces, Split};

/// Longest header: its signature and four octets, then what is waited for at most.
const LONGEST: usize = 16 + 4096;

/// A header is read to its last octet and not one further, however it is split; it announces the address that stands
/// in it, and another load balancer, that of a model, wrote the same.
pub fn check(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let read = case.agree(|split| read(case.wire, split));
    if let Ok((length, announced)) = read {
        assert!(length <= LONGEST && length <= case.wire.len());
        assert!(announced.is_some() || length == case.wire.len(), "octets were left");
        if let Some(Announced::Client(client)) = announced {
            let header = &case.wire[..length];
            assert!(names(header, client), "{client} of {:?}", String::from_utf8_lossy(header));
            check_written(client, case.flag(0));
        }
        if announced.is_some() {
            // What comes behind it is not looked at.
            assert_eq!(self::read(&case.wire[..length], Split::Octets), read);
        }
    }
}

fn read(wire: &[u8], split: Split) -> Result<(usize, Option<Announced>), NoHeader> {
    let (mut header, mut length) = (ProxyHeader::default(), 0);
    for piece in Pieces::new(wire, split) {
        let (taken, announced) = header.push(piece)?;
        length += taken;
        if announced.is_some() {
            return Ok((length, announced));
        }
        assert_eq!(taken, piece.len());
    }
    Ok((length, None))
}

/// Whether the address stands in the header, as text or as octets where version 2 has them.
fn names(header: &[u8], client: SocketAddr) -> bool {
    if header.starts_with(b"PROXY ") {
        let text = String::from_utf8_lossy(header);
        let words: Vec<_> = text.trim_end().split(' ').collect();
        return words.get(2).and_then(|word| word.parse().ok()) == Some(client.ip())
            && words.get(4).and_then(|word| word.parse().ok()) == Some(client.port());
    }
    let (address, port_at) = match client {
        SocketAddr::V4(client) => (client.ip().octets().to_vec(), 24),
        SocketAddr::V6(client) => (client.ip().octets().to_vec(), 48),
    };
    header.get(16..16 + address.len()) == Some(&address[..])
        && header.get(port_at..port_at + 2) == Some(&client.port().to_be_bytes()[..])
}

/// The same client as a load balancer writes it, in front of a session.
fn check_written(client: SocketAddr, second: bool) {
    let header = if second { version_2(client) } else { version_1(client) };
    let wire = [&header[..], b"EHLO x\r\n"].concat();
    let expected = Ok((header.len(), Some(Announced::Client(client))));
    assert_eq!(read(&wire, Split::Whole), expected, "{client}");
}

fn version_1(client: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (ip, port) = (client.ip(), client.port());
    format!("PROXY {family} {ip} {ip} {port} 143\r\n").into_bytes()
}

fn version_2(client: SocketAddr) -> Vec<u8> {
    let (family, ip) = match client {
        SocketAddr::V4(client) => (0x11, client.ip().octets().to_vec()),
        SocketAddr::V6(client) => (0x21, client.ip().octets().to_vec()),
    };
    let length = u8::try_from(2 * ip.len() + 4).expect("some octets");
    let ports = [client.port().to_be_bytes(), [0, 143]].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family, 0, length][..], &ip, &ip, &ports].concat()
}
