//! The PROXY header: what is one, what is none, and who is believed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{
    Cells, House, LOCAL_TLS, Settings, Wire, is_welcome, start_tls_command, try_log_in,
};
use crc::{CRC_32_ISCSI, Crc};
use gatepost::protocol::{Announced, NoHeader, ProxyHeader};
use gatepost::vocabulary::{Protocol, TlsMode};

/// The listeners' load balancer, and somebody else.
const BALANCER: &str = "127.0.0.2";
const OTHER: &str = "127.0.0.3";

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Octets of version 2: command, family, what follows.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// From 192.0.2.7 to 198.51.100.1.
const IPV4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0xdb, 0xba, 0, 143];

fn ipv6() -> Vec<u8> {
    let source = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets();
    [&source[..], &[0; 16], &[0xdb, 0xba, 0, 143]].concat()
}

/// A field behind the addresses.
fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// With a checksum that is right, among other fields.
fn summed() -> Vec<u8> {
    let rest =
        [IPV4, &field(0x05, b"id"), &field(0x03, &[0; 4]), &field(0x02, b"mail.example")].concat();
    let mut header = v2(0x21, 0x11, &rest);
    let sum = Crc::<u32>::new(&CRC_32_ISCSI).checksum(&header).to_be_bytes();
    let at = 16 + 12 + 5 + 3;
    header[at..at + 4].copy_from_slice(&sum);
    header
}

/// Reads it in pieces of this size, with something of the client's behind it.
fn read(header: &[u8], pieces: usize) -> Result<Option<Announced>, NoHeader> {
    let behind = b"\x16\x03\x01 and more\r\n";
    let sent = [header, behind].concat();
    let (mut reader, mut taken) = (ProxyHeader::default(), 0);
    for piece in sent.chunks(pieces) {
        let (count, announced) = reader.push(piece)?;
        taken += count;
        if announced.is_some() {
            assert_eq!(taken, header.len(), "it takes what is the client's: {header:?}");
            return Ok(announced);
        }
        assert_eq!(count, piece.len());
    }
    Ok(None)
}

/// However it is cut.
fn read_all_ways(header: &[u8]) -> Result<Option<Announced>, NoHeader> {
    let whole = read(header, usize::MAX);
    for pieces in [1, 2, 3, 7, 12, 16, 17, 100] {
        assert_eq!(read(header, pieces), whole, "in pieces of {pieces}: {header:?}");
    }
    whole
}

#[test]
fn headers_that_announce() {
    let client = |address: &str| Announced::Client(address.parse().unwrap());
    let ipv6_with_fields = [&ipv6()[..], &field(0x20, &[0; 300])].concat();
    let cases: Vec<(Vec<u8>, Announced)> = vec![
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 56250 143\r\n".into(), client("192.0.2.7:56250")),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 0 65535\r\n".into(), client("192.0.2.7:0")),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n".into(), client("[2001:db8::7]:1")),
        (b"PROXY UNKNOWN\r\n".into(), Announced::Itself),
        (b"PROXY UNKNOWN ffff:f::ffff what \xff ever 1 2\r\n".into(), Announced::Itself),
        (v2(0x21, 0x11, IPV4), client("192.0.2.7:56250")),
        (v2(0x21, 0x21, &ipv6()), client("[2001:db8::7]:56250")),
        (v2(0x21, 0x21, &ipv6_with_fields), client("[2001:db8::7]:56250")),
        (v2(0x21, 0x11, &[IPV4, &field(0x04, &[0; 1000])].concat()), client("192.0.2.7:56250")),
        (summed(), client("192.0.2.7:56250")),
        (v2(0x20, 0x00, b""), Announced::Itself),
        (v2(0x20, 0x11, IPV4), Announced::Itself),
        (v2(0x20, 0x7f, b"what ever"), Announced::Itself),
        (v2(0x21, 0x00, b""), Announced::Itself),
    ];
    for (header, announced) in cases {
        assert_eq!(read_all_ways(&header), Ok(Some(announced)), "{header:?}");
    }
}

#[test]
fn what_is_no_header() {
    let mut wrong_sum = summed();
    *wrong_sum.last_mut().unwrap() ^= 1;
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    let cases: Vec<Vec<u8>> = vec![
        b"EHLO scanner\r\n".into(),
        b"\x16\x03\x01\x02\x00\x01".into(),
        b"GET / HTTP/1.1\r\n".into(),
        b"\r\n\r\n\r\n".into(),
        b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n".into(),
        b"PROXY\r\n".into(),
        b"PROXY \r\n".into(),
        b"PROXY TCP5 192.0.2.7 198.51.100.1 1 2\r\n".into(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n".into(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n".into(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n".into(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r3\r\n".into(),
        b"PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n".into(),
        b"PROXY TCP4\t192.0.2.7 198.51.100.1 1 2\r\n".into(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n".into(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n".into(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n".into(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n".into(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n".into(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 2\r\n".into(),
        b"PROXY TCP4 192.0.2.007 198.51.100.1 1 2\r\n".into(),
        b"PROXY TCP4 2001:db8::7 ::1 1 2\r\n".into(),
        b"PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n".into(),
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n".into(),
        b"PROXY TCP4 scanner.local 198.51.100.1 1 2\r\n".into(),
        b"PROXY TCP4 192.0.2.7 nowhere 1 2\r\n".into(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\0\r\n".into(),
        b"PROXY UNKNOWNS\r\n".into(),
        long.into(),
        [SIGNATURE, &[0x11, 0x11, 0, 12], IPV4].concat(),
        v2(0x31, 0x11, IPV4),
        v2(0x22, 0x11, IPV4),
        v2(0x21, 0x12, IPV4),
        v2(0x21, 0x31, &[0; 216]),
        v2(0x21, 0x41, IPV4),
        v2(0x21, 0x11, &IPV4[..11]),
        v2(0x21, 0x21, IPV4),
        v2(0x21, 0x11, &[IPV4, &[0x04]].concat()),
        v2(0x21, 0x11, &[IPV4, &[0x04, 0, 9, 1]].concat()),
        v2(0x21, 0x11, &[IPV4, &field(0x03, &[0; 4])].concat()),
        v2(0x21, 0x11, &[IPV4, &field(0x03, &[0; 5])].concat()),
        v2(0x21, 0x11, &[IPV4, &field(0x04, &[0; 4090])].concat()),
        wrong_sum,
    ];
    for header in cases {
        assert_eq!(read_all_ways(&header), Err(NoHeader), "{:?}", String::from_utf8_lossy(&header));
    }
    assert_eq!(read(b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r", 1), Err(NoHeader));
    assert_eq!(ProxyHeader::default().push(&SIGNATURE[..9]), Ok((9, None)));
}

async fn house() -> House {
    let listener = "proxy_protocol = [\"127.0.0.2\", \"10.0.0.0/8\"]";
    let account = "[[device]]\nname = \"scanner\"\nnetworks = [\"192.0.2.50\"]\nmailbox = \"jane@contoso.example\"";
    House::start(Settings { listener, account, ..Settings::default() }).await
}

fn v1(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 198.51.100.1 56250 143\r\n").into()
}

/// A connection of the load balancer's on which a login is possible; header and first octets in one segment.
async fn announced(house: &House, protocol: Protocol, tls: TlsMode, header: &[u8]) -> Wire {
    let mut client = Wire::connect_from(BALANCER, house.address(protocol, tls)).await;
    if tls == TlsMode::Implicit {
        client = client.start_tls_behind(header, house.trust()).await.unwrap();
    } else {
        client.send(header).await;
    }
    client.answer(protocol).await;
    if tls == TlsMode::StartTls {
        let (command, answer) = start_tls_command(protocol);
        client.send(command).await;
        client.expect(answer).await;
        client = client.start_tls(house.trust()).await.unwrap();
    }
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_announced_client_is_the_peer_on_every_listener() {
    let house = Arc::new(house().await);
    let near = house.add_password("near", &[], &["192.0.2.0/24"]).await;
    let mut cells = Cells::default();
    for protocol in Protocol::ALL {
        for tls in LOCAL_TLS {
            let v2 = v2(0x21, 0x11, IPV4);
            for (header, let_in) in [(v1("192.0.2.7"), true), (v2, true), (v1("192.0.3.7"), false)]
            {
                let (house, near) = (Arc::clone(&house), near.clone());
                let name = format!("{protocol} {tls} {:?}", String::from_utf8_lossy(&header));
                let case = async move {
                    let mut client = announced(&house, protocol, tls, &header).await;
                    let answer =
                        try_log_in(&mut client, protocol, crate::support::MAILBOX, &near).await;
                    assert_eq!(is_welcome(protocol, &answer), let_in, "{answer}");
                    assert!(let_in || answer.contains("not for this protocol or network"));
                };
                cells.run(name, case).await;
            }
        }
    }
    cells.finish(27);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_comes_in_pieces_and_a_health_check() {
    let house = house().await;
    let mut client =
        Wire::connect_from(BALANCER, house.address(Protocol::Imap, TlsMode::None)).await;
    client.send_bytewise(v1("192.0.2.7")).await;
    client.answer(Protocol::Imap).await;
    let answer = house.try_log_in(&mut client, Protocol::Imap).await;
    assert!(is_welcome(Protocol::Imap, &answer), "{answer}");
    // What is pipelined behind the header is the client's.
    let mut client =
        Wire::connect_from(BALANCER, house.address(Protocol::Imap, TlsMode::None)).await;
    client.send([&summed()[..], b"7 NOOP\r\n8 LOGOUT\r\n"].concat()).await;
    client.answer(Protocol::Imap).await;
    client.expect("7 OK").await;
    client.until("8 OK").await;
    for header in [v2(0x20, 0, b""), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut client =
            Wire::connect_from(BALANCER, house.address(Protocol::Smtp, TlsMode::None)).await;
        client.send(header).await;
        client.expect("220 ").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_known_behind_a_load_balancer() {
    let house = house().await;
    for (source, code) in [("192.0.2.50", "250"), ("192.0.2.51", "530")] {
        let mut device = announced(&house, Protocol::Smtp, TlsMode::None, &v1(source)).await;
        device.send("EHLO scanner\r\nMAIL FROM:<jane@contoso.example>\r\n").await;
        device.answer(Protocol::Smtp).await;
        let answer = device.answer(Protocol::Smtp).await;
        assert!(answer.starts_with(code), "{source}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_is_believed_and_the_load_balancer_must_announce() {
    let house = Arc::new(house().await);
    let near = house.add_password("near", &[], &["192.0.2.0/24"]).await;
    for protocol in Protocol::ALL {
        let address = house.address(protocol, TlsMode::None);
        // From elsewhere a header ends the session.
        for header in [v1("192.0.2.7"), v2(0x21, 0x11, IPV4)] {
            let mut client = Wire::connect_from(OTHER, address).await;
            client.answer(protocol).await;
            client.try_send(header).await.unwrap();
            // The two empty lines of version 2 are answered before it is known.
            let said = client.rest().await;
            assert!(said.iter().filter(|octet| **octet == b'\n').count() <= 2, "{protocol}");
        }
        // Where TLS must begin, it is known too: no alert for somebody who speaks no TLS.
        for header in [v1("192.0.2.7"), v2(0x21, 0x11, IPV4)] {
            let tls = house.address(protocol, TlsMode::Implicit);
            let mut client = Wire::connect_from(OTHER, tls).await;
            client.send(header).await;
            assert_eq!(client.rest().await, b"", "{protocol}");
        }
        // Without one the client is served as what it is.
        let mut client = Wire::connect_from(OTHER, address).await;
        client.answer(protocol).await;
        let answer = try_log_in(&mut client, protocol, crate::support::MAILBOX, &near).await;
        assert!(answer.contains("not for this protocol or network"), "{answer}");
        let answer = house.try_log_in(&mut client, protocol).await;
        assert!(is_welcome(protocol, &answer), "{answer}");
        // The load balancer's connection without one ends without a word.
        for start in ["1 NOOP\r\n", "\x16\x03\x01\x02\x00\x01", "PROXY TCP4 x y 1 2\r\n"] {
            let mut client = Wire::connect_from(BALANCER, address).await;
            client.send(start).await;
            client.expect_end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_is_not_waited_for_long() {
    let house = house().await;
    let start = Instant::now();
    let mut silent =
        Wire::connect_from(BALANCER, house.address(Protocol::Imap, TlsMode::Implicit)).await;
    let mut slow = Wire::connect_from(BALANCER, house.address(Protocol::Smtp, TlsMode::None)).await;
    slow.send("PROXY TCP4 192").await;
    silent.expect_end().await;
    slow.expect_end().await;
    let took = start.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "{took:?}");
}
