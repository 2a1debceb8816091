//! The way to an upstream on a bad network: each phase has its deadline, a flood its end, a proxy its words; and a token
//! goes to nobody but the server that is meant.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{
    Authority, Cells, Fake, House, LIMIT, Leaf, Manner, Proxy, Settings, Wire, admit,
    admit_greeted, is_temporary, start_tls_command,
};
use gatepost::config::{Config, Endpoint};
use gatepost::net::{ClientTls, Deadline, Route, dial, http_client};
use gatepost::protocol::{Rejection, Xoauth2};
use gatepost::secret::Secret;
use gatepost::upstream::Server;
use gatepost::vocabulary::{Protocol, TlsMode};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// What stands in every XOAUTH2 message, in base64: `user=`.
const TOKEN: &str = "dXNlcj";

/// The name of the servers behind a proxy, which no name server knows; it is what [`Leaf::OtherName`] is for.
const FAR: &str = "other.example";

/// A server that fakes stand in for, and who trusts them.
struct Lab {
    authority: Authority,
    tls: ClientTls,
}

impl Lab {
    fn new() -> Self {
        let authority = Authority::new();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(authority.pem().as_bytes()).unwrap();
        let tls = ClientTls::new(Some(file.path())).unwrap();
        Self { authority, tls }
    }

    fn good(&self) -> TlsAcceptor {
        self.authority.acceptor(Leaf::Good)
    }

    fn server(&self, protocol: Protocol, endpoint: &str) -> Server {
        Server::new(protocol, endpoint.parse().unwrap(), self.tls.clone(), Route::direct())
    }

    fn by(&self, proxy: &str, protocol: Protocol, endpoint: &str) -> Server {
        Server::new(protocol, endpoint.parse().unwrap(), self.tls.clone(), route(proxy))
    }
}

/// As the configuration's `proxy` has it.
fn route(proxy: &str) -> Route {
    let text = format!("proxy = {proxy}\n");
    let config = Config::parse(std::path::Path::new("gatepost.toml"), &text).unwrap();
    Route::new(&config.proxy).unwrap()
}

async fn log_in(server: &Server) -> Result<(), Rejection> {
    let token = Secret::new("t".repeat(1500));
    let login = Xoauth2::new("jane@contoso.example", &token).unwrap();
    server.log_in(login).await.map(drop)
}

/// What is told of a server that is out of order.
async fn broken(server: &Server) -> String {
    match log_in(server).await {
        Err(Rejection::Broken { said }) => said,
        other => panic!("a server that is out of order, but: {other:?}"),
    }
}

/// A server that goes by the book up to `at`, and then says nothing more.
async fn stall(mut wire: Wire, protocol: Protocol, at: Stall, acceptor: TlsAcceptor) {
    let (greeting, ehlo) = match protocol {
        Protocol::Imap => ("* OK hi\r\n", ""),
        Protocol::Pop3 => ("+OK hi\r\n", ""),
        Protocol::Smtp => ("220 hi\r\n", "250-fake\r\n250 STARTTLS\r\n"),
    };
    if at == Stall::Greeting {
        return hold(wire).await;
    }
    if at == Stall::HalfAGreeting {
        wire.send(&greeting[..4]).await;
        return hold(wire).await;
    }
    wire.send(greeting).await;
    if !ehlo.is_empty() {
        wire.expect("EHLO").await;
        wire.send(ehlo).await;
    }
    wire.line().await;
    if at == Stall::StartTls {
        return hold(wire).await;
    }
    let accepted = match protocol {
        Protocol::Imap => "g1 OK\r\n".to_owned(),
        _ => format!("{}go\r\n", start_tls_command(protocol).1),
    };
    wire.send(accepted).await;
    if at == Stall::Handshake {
        return hold(wire).await;
    }
    let mut wire = wire.accept_tls(&acceptor).await.unwrap();
    if !ehlo.is_empty() {
        wire.expect("EHLO").await;
        wire.send("250 fake\r\n").await;
    }
    wire.line().await;
    if at == Stall::Challenge {
        return hold(wire).await;
    }
    if protocol != Protocol::Imap {
        wire.send(if protocol == Protocol::Pop3 { "+ \r\n" } else { "334 \r\n" }).await;
        wire.line().await;
    }
    wire.send(if protocol == Protocol::Imap { "* OK wait\r\n" } else { "" }).await;
    hold(wire).await;
}

async fn hold(wire: Wire) {
    sleep(Duration::from_secs(60)).await;
    drop(wire);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stall {
    Greeting,
    HalfAGreeting,
    StartTls,
    Handshake,
    Challenge,
    Answer,
}

/// Where it stands still, what is told, and after how many seconds.
const STALLS: &[(Stall, &str, u64)] = &[
    (Stall::Greeting, "has sent no greeting within 10 s", 10),
    (Stall::HalfAGreeting, "has sent no greeting within 10 s", 10),
    (Stall::StartTls, "has not begun TLS within 10 s", 10),
    (Stall::Handshake, "its handshake was not done within 10 s", 10),
    (Stall::Challenge, "has not answered within 10 s", 10),
    (Stall::Answer, "has not answered the login within 20 s", 20),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_phase_has_its_deadline_and_is_named() {
    let lab = Arc::new(Lab::new());
    let mut all = tokio::task::JoinSet::new();
    for (at, told, seconds) in STALLS {
        for protocol in Protocol::ALL {
            if *at == Stall::Challenge && protocol == Protocol::Imap {
                continue; // Its token stands behind the command.
            }
            let lab = Arc::clone(&lab);
            all.spawn(async move {
                let acceptor = lab.good();
                let talk = move |wire| stall(wire, protocol, *at, acceptor.clone());
                let fake = Fake::start(talk).await;
                let server = lab.server(protocol, &fake.endpoint(TlsMode::StartTls));
                let start = Instant::now();
                let said = broken(&server).await;
                let took = start.elapsed().as_secs();
                assert!(said.contains(told) && said.contains("127.0.0.1:"), "{protocol}: {said}");
                assert!((*seconds..*seconds + 5).contains(&took), "{protocol} {at:?}: {took} s");
                assert_eq!(fake.accepted(), 1, "{protocol} {at:?}");
                assert_eq!(fake.heard().contains(TOKEN), *at == Stall::Answer);
            });
        }
    }
    let mut ended = 0;
    while let Some(case) = all.join_next().await {
        case.unwrap();
        ended += 1;
    }
    assert_eq!(ended, 17);
}

/// What comes without end behind TLS, and before it anything that is no TLS.
const FLOODS: &[(Protocol, &str, &str, &str)] = &[
    (Protocol::Imap, "untagged responses", "* OK hi\r\n", "too many lines"),
    (Protocol::Imap, "capabilities", "* OK hi\r\n* CAPABILITY IMAP4rev1 X\r\n", "too many lines"),
    (Protocol::Imap, "continuations", "* OK hi\r\n+ e30=\r\n+ e30=\r\n", "too many lines"),
    (Protocol::Imap, "one line", "* OK hi", "endless line"),
    (Protocol::Imap, "NULs", "\0\0\0\0", "endless line"),
    (Protocol::Imap, "NULs in lines", "* OK \0\r\n", "too many lines"),
    (Protocol::Pop3, "empty lines", "+OK hi\r\n\r\n", "not a POP3 response"),
    (Protocol::Pop3, "greetings", "+OK hi\r\n", "without a token"),
    (Protocol::Smtp, "greetings", "220-hi\r\n", "too many lines"),
    (Protocol::Smtp, "replies", "220 hi\r\n", "out of turn"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_ends_at_once() {
    let lab = Arc::new(Lab::new());
    let mut cells = Cells::default();
    for (protocol, name, words, told) in FLOODS {
        let lab = Arc::clone(&lab);
        let case = async move {
            let acceptor = lab.good();
            let fake = Fake::start(move |wire: Wire| {
                let acceptor = acceptor.clone();
                async move {
                    let mut wire = wire.accept_tls(&acceptor).await.unwrap();
                    let words = words.repeat(200);
                    while wire.try_send(&words).await.is_ok() {}
                }
            });
            let server = lab.server(*protocol, &fake.await.endpoint(TlsMode::Implicit));
            let start = Instant::now();
            let said = broken(&server).await;
            assert!(said.contains(told), "{said}");
            assert!(said.bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{said:?}");
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        };
        cells.run(format!("{protocol} {name}"), case).await;
    }
    cells.finish(10);
}

/// Continuations that wait for each answer, of a server that has the token: it is spoken to for a while, then left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_after_the_other_has_an_end() {
    let lab = Lab::new();
    let acceptor = lab.good();
    let fake = Fake::start(move |wire: Wire| {
        let acceptor = acceptor.clone();
        async move {
            let mut wire = wire.accept_tls(&acceptor).await.unwrap();
            wire.send("* OK hi\r\n").await;
            while wire.try_line(LIMIT).await.is_some() {
                if wire.try_send("+ e30=\r\n").await.is_err() {
                    return;
                }
            }
        }
    });
    let fake = fake.await;
    let server = lab.server(Protocol::Imap, &fake.endpoint(TlsMode::Implicit));
    assert!(broken(&server).await.contains("too many lines"));
    assert_eq!(fake.heard().matches(TOKEN).count(), 1, "a token is shown once");
}

/// What a server does before its TLS is on, or instead of it.
#[derive(Clone, Copy, Debug)]
enum Trick {
    /// It says this in plain text, to a client that wants STARTTLS.
    Plain(&'static [&'static str]),
    /// It answers a ClientHello with this.
    InPlaceOfTls(&'static [u8]),
}

/// A ServerHello of TLS 1.0 (RFC 2246 section 7.4.1.3), with TLS_RSA_WITH_AES_128_CBC_SHA.
const TLS_1_0: &[u8] = &[
    0x16, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
    17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 0, 0, 0x2f, 0,
];

/// The trick, and what is told. Each answer of [`Trick::Plain`] follows a line of the client's, but the first.
const TRICKS: &[(Protocol, Trick, &str)] = &[
    (Protocol::Imap, Trick::Plain(&["* PREAUTH come in\r\n"]), "PREAUTH"),
    (
        Protocol::Imap,
        Trick::Plain(&["* OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2] hi\r\n", "g1 BAD what?\r\n"]),
        "refuses STARTTLS",
    ),
    (Protocol::Imap, Trick::Plain(&["* OK hi\r\n", "g1 NO not now\r\n"]), "refuses STARTTLS"),
    (
        Protocol::Imap,
        Trick::Plain(&["* OK hi\r\n", "g1 NO [REFERRAL imap://evil.example/] go\r\n"]),
        "refuses STARTTLS",
    ),
    (
        Protocol::Imap,
        Trick::Plain(&["* OK [REFERRAL imap://evil.example/] hi\r\n", "* OK\r\ng1 NO\r\n"]),
        "refuses STARTTLS",
    ),
    (
        Protocol::Imap,
        Trick::Plain(&["* OK hi\r\n", "g1 OK go\r\n* CAPABILITY EVIL\r\n"]),
        "plain text behind",
    ),
    (Protocol::Imap, Trick::Plain(&["* OK hi\r\ng1 OK go\r\ng2 OK in\r\n"]), "plain text behind"),
    (Protocol::Pop3, Trick::Plain(&["+OK hi\r\n", "-ERR what?\r\n"]), "refuses STLS"),
    (Protocol::Pop3, Trick::Plain(&["+OK hi\r\n", "+OK go\r\n+OK in\r\n"]), "plain text behind"),
    (
        Protocol::Smtp,
        Trick::Plain(&["220 hi\r\n", "250-x\r\n250 AUTH XOAUTH2\r\n", "502 5.5.1 what?\r\n"]),
        "refuses STARTTLS",
    ),
    (
        Protocol::Smtp,
        Trick::Plain(&["220 hi\r\n", "250 x\r\n", "454 4.7.0 not now\r\n"]),
        "refuses STARTTLS",
    ),
    (
        Protocol::Smtp,
        Trick::Plain(&["220 hi\r\n", "250 STARTTLS\r\n", "220 go\r\n250 EVIL\r\n"]),
        "plain text behind",
    ),
    (Protocol::Imap, Trick::InPlaceOfTls(b"* OK hi\r\n"), "no TLS with"),
    (Protocol::Pop3, Trick::InPlaceOfTls(b"\0\0\0\0\0\0\0\0"), "no TLS with"),
    (Protocol::Smtp, Trick::InPlaceOfTls(b"220 hi\r\n"), "no TLS with"),
    (Protocol::Imap, Trick::InPlaceOfTls(TLS_1_0), "no TLS with"),
    (Protocol::Pop3, Trick::InPlaceOfTls(TLS_1_0), "no TLS with"),
    (Protocol::Smtp, Trick::InPlaceOfTls(TLS_1_0), "no TLS with"),
    (Protocol::Imap, Trick::InPlaceOfTls(b""), "no TLS with"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tls_no_token_leaves() {
    let lab = Arc::new(Lab::new());
    let mut cells = Cells::default();
    for (protocol, trick, told) in TRICKS {
        let lab = Arc::clone(&lab);
        let case = async move {
            let fake = Fake::start(move |mut wire: Wire| async move {
                match trick {
                    Trick::Plain(says) => {
                        for (turn, words) in says.iter().enumerate() {
                            if turn > 0 {
                                wire.line().await;
                            }
                            wire.send(words).await;
                        }
                    }
                    Trick::InPlaceOfTls(octets) => {
                        wire.exact(5).await;
                        wire.send(octets).await;
                        wire.half_close().await;
                    }
                }
                // All that may still come is heard.
                wire.rest().await;
            });
            let fake = fake.await;
            let tls = match trick {
                Trick::Plain(_) => TlsMode::StartTls,
                Trick::InPlaceOfTls(_) => TlsMode::Implicit,
            };
            let said = broken(&lab.server(*protocol, &fake.endpoint(tls))).await;
            assert!(said.contains(told), "{said}");
            sleep(Duration::from_millis(50)).await;
            let heard = fake.heard();
            assert!(!heard.contains(TOKEN), "{heard:?}");
            assert_eq!(fake.accepted(), 1);
        };
        cells.run(format!("{protocol} {trick:?}"), case).await;
    }
    cells.finish(19);
}

/// TLS 1.0 is what its fake says: a client that takes the version goes on to its cipher, and complains of nothing else.
#[tokio::test]
async fn a_server_of_tls_1_0_is_refused_for_its_version() {
    let lab = Lab::new();
    let fake = Fake::start(|mut wire: Wire| async move {
        wire.exact(5).await;
        wire.send(TLS_1_0).await;
        wire.rest().await;
    });
    let server = lab.server(Protocol::Imap, &fake.await.endpoint(TlsMode::Implicit));
    let said = broken(&server).await;
    assert!(said.contains("peer is incompatible") || said.contains("protocol version"), "{said}");
}

/// RFC 2221: a server that sends the client elsewhere. gatepost goes nowhere, and renews no token for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_referral_is_not_followed() {
    let lab = Lab::new();
    let evil = Fake::start(|wire| async move { drop(wire) }).await;
    let (acceptor, to) = (lab.good(), evil.address());
    let fake = Fake::start(move |wire: Wire| {
        let acceptor = acceptor.clone();
        async move {
            let mut wire = wire.accept_tls(&acceptor).await.unwrap();
            wire.send("* OK hi\r\n").await;
            wire.line().await;
            wire.send(format!("g2 NO [REFERRAL imap://{to}/] elsewhere\r\n")).await;
            wire.rest().await;
        }
    });
    let server = lab.server(Protocol::Imap, &fake.await.endpoint(TlsMode::Implicit));
    let rejection = log_in(&server).await.unwrap_err();
    assert!(matches!(rejection, Rejection::NotPermitted { .. }), "{rejection:?}");
    assert_eq!(evil.accepted(), 0);
}

#[tokio::test]
async fn whichever_family_answers() {
    let lab = Lab::new();
    let reach = async |endpoint: &str| {
        let endpoint: Endpoint = endpoint.parse().unwrap();
        let deadline = Deadline::within(Duration::from_secs(5));
        let dialled = dial(&endpoint, &Route::direct(), &lab.tls, deadline).await;
        dialled.map(drop).map_err(|error| error.to_string())
    };
    let four = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = four.local_addr().unwrap().port();
    reach(&format!("localhost:{port}")).await.unwrap();
    drop(four);
    let told = reach(&format!("localhost:{port}")).await.unwrap_err();
    assert!(told.contains(&format!("connection refused (127.0.0.1:{port}")), "{told}");
    let told = reach("no-such-host.invalid:993").await.unwrap_err();
    let known = told.contains("the name no-such-host.invalid is not known");
    assert!(known || told.contains("name server"), "{told}");
}

/// A listener that accepts nothing and whose backlog is full: what comes on top gets no answer.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_does_not_answer_is_named_when_its_time_is_over() {
    let lab = Lab::new();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await,
        );
    }
    assert!(held.iter().any(Result::is_err), "the backlog is full");
    let deadline = Deadline::within(Duration::from_secs(2));
    let endpoint = address.to_string().parse().unwrap();
    let told = dial(&endpoint, &Route::direct(), &lab.tls, deadline).await.unwrap_err().to_string();
    assert!(told.contains(&format!("no answer within 2 s ({address})")), "{told}");
}

/// A server of `protocol` that is known by the name [`FAR`] alone, and lets anybody in.
async fn far_server(lab: &Lab, protocol: Protocol, tls: TlsMode) -> Fake {
    let acceptor = lab.authority.acceptor(Leaf::OtherName);
    Fake::start(move |mut wire: Wire| {
        let acceptor = acceptor.clone();
        async move {
            if tls == TlsMode::Implicit {
                let wire = wire.accept_tls(&acceptor).await.unwrap();
                admit(wire, protocol, "").await;
                return;
            }
            wire.send("220 ready\r\n").await;
            wire.expect("EHLO").await;
            wire.send("250 STARTTLS\r\n").await;
            wire.expect("STARTTLS").await;
            wire.send("220 go\r\n").await;
            let wire = wire.accept_tls(&acceptor).await.unwrap();
            admit_greeted(wire, protocol, "").await;
        }
    })
    .await
}

const FAR_SERVERS: [(Protocol, &str, TlsMode); 3] = [
    (Protocol::Imap, "other.example:993", TlsMode::Implicit),
    (Protocol::Pop3, "other.example:995", TlsMode::Implicit),
    (Protocol::Smtp, "other.example:587", TlsMode::StartTls),
];

fn written(endpoint: &str, tls: TlsMode) -> String {
    if tls == TlsMode::StartTls { format!("{endpoint} starttls") } else { endpoint.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_goes_through_the_tunnel_of_a_proxy() {
    let lab = Arc::new(Lab::new());
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    secret.write_all(b"s3cret\n").unwrap();
    let secret = secret.into_temp_path();
    let mut cells = Cells::default();
    for manner in [Manner::Tunnel, Manner::Split, Manner::Together, Manner::Password] {
        for (protocol, endpoint, tls) in FAR_SERVERS {
            if matches!(manner, Manner::Together) && tls == TlsMode::Implicit {
                continue; // In TLS the client speaks first.
            }
            for proxy_tls in [false, true] {
                let (lab, password) = (Arc::clone(&lab), secret.to_path_buf());
                let case = async move {
                    let fake = far_server(&lab, protocol, tls).await;
                    let acceptor = proxy_tls.then(|| lab.good());
                    let proxy =
                        Proxy::start(manner, vec![(endpoint, fake.address())], acceptor).await;
                    let scheme = if proxy_tls { "https" } else { "http" };
                    let url = format!("{scheme}://{}", proxy.address());
                    let written_proxy = match manner {
                        Manner::Password => format!(
                            "{{ url = \"{url}\", user = \"jane\", password = {{ file = \"{}\" }} }}",
                            password.display()
                        ),
                        _ => format!("\"{url}\""),
                    };
                    let server = lab.by(&written_proxy, protocol, &written(endpoint, tls));
                    log_in(&server).await.unwrap();
                    assert!(fake.heard().contains(TOKEN));
                    assert_eq!(proxy.asked(), [format!("CONNECT {endpoint} HTTP/1.1")]);
                };
                cells.run(format!("{protocol} {manner:?}, proxy TLS {proxy_tls}"), case).await;
            }
        }
    }
    cells.finish(20);
}

/// What a proxy does instead, and what is told.
const NO_TUNNEL: &[(Manner, &str)] = &[
    (Manner::Password, "it wants a user name and password: HTTP/1.1 407"),
    (Manner::Says("HTTP/1.1 403 Forbidden\r\n\r\n"), "it says: HTTP/1.1 403 Forbidden"),
    (
        Manner::Says("HTTP/1.1 503 Service\x1b Unavailable\r\n\r\n"),
        "it says: HTTP/1.1 503 Service? ",
    ),
    (Manner::Tunnel, "it says: HTTP/1.1 502 Bad Gateway"),
    (Manner::Says("* OK IMAP4 ready\r\n"), "it does not speak HTTP"),
    (Manner::Says("HTTP/1.1 200 OK\r\nVia:"), "it has closed the connection"),
    (Manner::Floods("HTTP/1.1 200 OK\r\n"), "its answer has no end"),
    (Manner::Hangs(""), "it has not answered CONNECT within 15 s"),
    (Manner::Hangs("HTTP/1.1 200 OK\r\nVia: x\r\n"), "it has not answered CONNECT within 15 s"),
    // A tunnel to nowhere.
    (Manner::Hangs("HTTP/1.1 200 OK\r\n\r\n"), "its handshake was not done within 10 s"),
    // Octets that nobody sends before a ClientHello.
    (Manner::Says("HTTP/1.1 200 OK\r\n\r\n* OK hi\r\n"), "no TLS with other.example:993"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_makes_no_tunnel_is_named_with_its_words() {
    let lab = Arc::new(Lab::new());
    let mut all = tokio::task::JoinSet::new();
    for (manner, told) in NO_TUNNEL {
        let lab = Arc::clone(&lab);
        all.spawn(async move {
            let proxy = Proxy::start(*manner, Vec::new(), None).await;
            let url = format!("\"http://{}\"", proxy.address());
            let said = broken(&lab.by(&url, Protocol::Imap, "other.example:993")).await;
            assert!(said.contains(told), "{manner:?}: {said}");
            assert!(said.contains("other.example:993"), "{said}");
            assert!(said.bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{said:?}");
        });
    }
    while let Some(case) = all.join_next().await {
        case.unwrap();
    }
    // One that is not there, and one that another is taken for.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("\"http://{nobody}\"");
    let said = broken(&lab.by(&url, Protocol::Pop3, "other.example:995")).await;
    assert_eq!(said, format!("no connection to the proxy {nobody}: connection refused ({nobody})"));
    let impostor =
        Proxy::start(Manner::Tunnel, Vec::new(), Some(lab.authority.acceptor(Leaf::OtherName)));
    let url = format!("\"https://{}\"", impostor.await.address());
    let said = broken(&lab.by(&url, Protocol::Imap, "other.example:993")).await;
    assert!(said.contains("no TLS with the proxy 127.0.0.1:"), "{said}");
}

/// The name that a certificate must be for is the server's, not the proxy's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_leads_elsewhere_gets_no_token() {
    let lab = Lab::new();
    let acceptor = lab.good();
    let other = Fake::start(move |wire: Wire| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(wire) = wire.accept_tls(&acceptor).await {
                admit(wire, Protocol::Imap, "").await;
            }
        }
    });
    let other = other.await;
    let names = vec![("other.example:993", other.address())];
    let proxy = Proxy::start(Manner::Tunnel, names, None).await;
    let url = format!("\"http://{}\"", proxy.address());
    let said = broken(&lab.by(&url, Protocol::Imap, "other.example:993")).await;
    assert!(said.contains("no TLS with other.example:993"), "{said}");
    assert!(!other.heard().contains(TOKEN));
}

/// Loopback is reached directly; `none` and what is elsewhere are as they are written.
#[tokio::test]
async fn who_is_reached_by_which_proxy() {
    let given = route("\"http://proxy.contoso.example:3128\"");
    let to = |route: &Route, endpoint: &str| route.proxy_to(&endpoint.parse().unwrap());
    let proxy = Some("proxy.contoso.example:3128".to_owned());
    assert_eq!(to(&given, "outlook.office365.com:993"), proxy);
    assert_eq!(to(&given, "[2001:db8::1]:993"), proxy);
    for local in ["localhost:993", "127.0.0.1:993", "127.8.8.8:993", "[::1]:993"] {
        assert_eq!(to(&given, local), None, "{local}");
    }
    let url = |text: &str| given.proxy_for(&text.parse().unwrap());
    assert_eq!(url("https://login.microsoftonline.com/x/oauth2/v2.0/token"), proxy);
    assert_eq!(url("http://169.254.169.254/metadata/identity/oauth2/token"), None);
    assert_eq!(to(&route("\"none\""), "outlook.office365.com:993"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_requests_go_through_the_same_proxy() {
    let lab = Lab::new();
    let acceptor = lab.authority.acceptor(Leaf::OtherName);
    let web = Fake::start(move |wire: Wire| {
        let acceptor = acceptor.clone();
        async move {
            let mut wire = wire.accept_tls(&acceptor).await.unwrap();
            wire.until("").await;
            wire.send("HTTP/1.1 418 Tea\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let web = web.await;
    let names = vec![("other.example:443", web.address())];
    let proxy = Proxy::start(Manner::Tunnel, names, None).await;
    let client = http_client(&lab.tls, &route(&format!("\"http://{}\"", proxy.address()))).unwrap();
    let url: url::Url = format!("https://{FAR}/token").parse().unwrap();
    let answer = client.of(&url).get(url.clone()).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 418);
    assert_eq!(proxy.asked(), ["CONNECT other.example:443 HTTP/1.1"]);
}

/// All of it together: a client, the configuration's key, a proxy, and a server behind it; then the proxy refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_logs_in_through_a_proxy_and_hears_its_refusal() {
    let lab = Lab::new();
    let mut names = Vec::new();
    let mut instead = Vec::new();
    let mut fakes = Vec::new();
    for (protocol, endpoint, tls) in FAR_SERVERS {
        let fake = far_server(&lab, protocol, tls).await;
        if protocol != Protocol::Pop3 {
            names.push((endpoint, fake.address()));
        }
        fakes.push(fake);
        instead.push((protocol, written(endpoint, tls)));
    }
    let proxy = Proxy::start(Manner::Tunnel, names, None).await;
    let top = format!("proxy = \"http://{}\"", proxy.address());
    let trusted = vec![lab.authority.pem()];
    let house = House::start(Settings { top, instead, trusted, ..Settings::default() }).await;
    house.log_in(Protocol::Imap).await;
    house.log_in(Protocol::Smtp).await;
    let mut client = house.open(Protocol::Pop3, TlsMode::None).await;
    let answer = house.try_log_in(&mut client, Protocol::Pop3).await;
    assert!(is_temporary(Protocol::Pop3, &answer), "{answer}");
    let told = format!("other.example:995 by the proxy {}: it says: HTTP/1.1 502", proxy.address());
    assert!(answer.contains(&told), "{answer}");
    assert!(house.control().token_requests() > 0, "the token endpoint is on loopback");
}
