//! TLS towards clients: certificates that are replaced under live sessions, names, versions, and clients that do it
//! wrongly. The program itself runs, and its log is read.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{LIMIT, MAILBOX, Wire, free_address, is_welcome, login_command, within};
use gatepost::emulator::{Emulator, Options, Tls};
use gatepost::vocabulary::Protocol;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A certificate in `own.pem`, its key in `own.key`.
const OWN: &str = "certificate = \"own.pem\"\nprivate_key = \"own.key\"";

/// gatepost looks at the files every two seconds, and speaks of a failure at the second look.
const TWO_LOOKS: Duration = Duration::from_secs(5);

/// An emulated Exchange, a configuration for it, and the program.
struct Bench {
    folder: tempfile::TempDir,
    emulator: Emulator,
}

impl Bench {
    async fn new() -> Self {
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let bench = Self { folder: tempfile::tempdir().unwrap(), emulator };
        bench.put("ca.pem", bench.emulator.ca_pem());
        bench.put("secret", &Options::default().app.client_secret);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        set_mode(&self.path(name), 0o600);
    }

    /// As `own.pem` and `own.key`.
    fn put_own(&self, made: &Made) {
        self.put("own.key", &made.key);
        self.put("own.pem", &made.certificate);
    }

    /// A listener for each: its TLS, and more of its keys.
    fn configure(&self, listeners: &[(&str, &str)]) {
        let Options { app, .. } = Options::default();
        let mut text = String::from("state_dir = \"state\"\n");
        for (tls, more) in listeners {
            text += &format!(
                "[[listener]]\nprotocol = \"imap\"\nlisten = \"127.0.0.1:0\"\ntls = \"{tls}\"\n\
                 provider = \"lab\"\n{more}\n"
            );
        }
        text += &format!(
            "[app.lab]\nprovider = \"lab\"\nclient_id = \"{}\"\nclient_secret = {{ file = \"secret\" }}\n\
             grant = \"client_credentials\"\n[[account]]\nmailbox = \"{MAILBOX}\"\napp = \"lab\"\n\
             [provider.lab]\ntoken_url = \"{}\"\nimap = \"{}\"\nca_file = \"ca.pem\"\n\
             app_scopes = [\"https://outlook.office365.com/.default\"]\n",
            app.client_id,
            self.emulator.token_url(),
            self.emulator.imap(Tls::Implicit),
        );
        self.put("gatepost.toml", &text);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.arg("--config").arg(self.path("gatepost.toml")).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs, wants success, gives standard output.
    fn good(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        output.stdout
    }

    async fn start(&self) -> Proxy {
        Proxy::start(self.command(&["run", "--log-format", "json"])).await
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `gatepost run`, which ends with this.
struct Proxy {
    child: Child,
    log: Arc<Mutex<String>>,
    addresses: Vec<SocketAddr>,
}

impl Proxy {
    async fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let (log, mut stderr) = (Arc::new(Mutex::new(String::new())), child.stderr.take().unwrap());
        let into = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        let mut proxy = Self { child, log, addresses: Vec::new() };
        let ready = proxy.logs("gatepost is ready: ", 3 * LIMIT).await;
        let listening = ready.split_once(": ").unwrap().1.split(", ");
        proxy.addresses =
            listening.map(|one| one.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        proxy
    }

    fn lines(&self, part: &str) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    /// Waits for a line of the log.
    async fn logs(&self, part: &str, limit: Duration) -> String {
        let end = Instant::now() + limit;
        loop {
            if let Some(line) = self.lines(part).pop() {
                return line;
            }
            assert!(Instant::now() < end, "no {part:?} in {}", self.log.lock().unwrap());
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn connect(&self, trust: &TlsConnector) -> std::io::Result<Wire> {
        Wire::connect(self.addresses[0]).await.start_tls(trust).await
    }

    /// Waits until this certificate is served.
    async fn serves(&self, made: &Made) {
        let (trust, end) = (made.trust(), Instant::now() + 2 * TWO_LOOKS);
        while self.connect(&trust).await.is_err() {
            assert!(Instant::now() < end, "not served: {}", self.log.lock().unwrap());
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// A certificate for `localhost`.
struct Made {
    certificate: String,
    key: String,
}

impl Made {
    fn new(name: &str) -> Self {
        Self::until(name, 300)
    }

    fn until(name: &str, days: u64) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), name.to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let (now, day) = (std::time::SystemTime::now(), Duration::from_secs(86_400));
        params.not_before = (now - day).into();
        params.not_after = (now + Duration::from_secs(days * 86_400 + 3600)).into();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, key: key.serialize_pem() }
    }

    fn trust(&self) -> TlsConnector {
        trust(self.certificate.as_bytes(), rustls::ALL_VERSIONS, &[])
    }
}

/// A client that trusts this certificate alone.
fn trust(
    pem: &[u8],
    versions: &[&'static SupportedProtocolVersion],
    application_protocols: &[&str],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols =
        application_protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

fn names_in(pem: &[u8]) -> Vec<String> {
    let der = CertificateDer::from_pem_slice(pem).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(octets) if octets.len() == 4 => {
            octets.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
        }
        other => format!("{other:?}"),
    };
    names.value.general_names.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_certificate_is_served_and_no_session_is_dropped() {
    let bench = Bench::new().await;
    let (first, second) = (Made::new("first.example"), Made::new("second.example"));
    bench.put_own(&first);
    bench.configure(&[("implicit", OWN)]);
    let password = bench.good(&["password", "add", MAILBOX]);
    let password = String::from_utf8(password).unwrap().trim().to_owned();
    let proxy = bench.start().await;

    let mut session = proxy.connect(&first.trust()).await.unwrap();
    session.answer(Protocol::Imap).await;
    session.send(login_command(Protocol::Imap, MAILBOX, &password)).await;
    assert!(is_welcome(Protocol::Imap, &session.answer(Protocol::Imap).await));
    // Accepted, and the handshake is yet to come.
    let in_handshake = Wire::connect(proxy.addresses[0]).await;
    proxy.connect(&first.trust()).await.unwrap();

    // As programs do that write the one and then the other.
    bench.put("own.pem", &second.certificate);
    bench.put("own.key", &second.key);
    proxy.serves(&second).await;
    assert!(proxy.connect(&first.trust()).await.is_err(), "the former one is still served");

    session.send("2 NOOP\r\n").await;
    assert!(session.answer(Protocol::Imap).await.starts_with("2 OK"));
    let mut late = in_handshake.start_tls(&first.trust()).await.unwrap();
    late.answer(Protocol::Imap).await;
    late.send(login_command(Protocol::Imap, MAILBOX, &password)).await;
    assert!(is_welcome(Protocol::Imap, &late.answer(Protocol::Imap).await));

    let said = proxy.logs("another certificate is served now", LIMIT).await;
    assert!(said.contains("\"INFO\"") && said.contains("second.example"), "{said}");
    sleep(TWO_LOOKS).await;
    assert_eq!(proxy.lines("another certificate is served now").len(), 1);
    assert_eq!(proxy.lines("\"WARN\""), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_half_written_or_does_not_fit_changes_nothing() {
    let bench = Bench::new().await;
    let (first, second) = (Made::new("first.example"), Made::new("second.example"));
    bench.put_own(&first);
    bench.configure(&[("implicit", OWN)]);
    let proxy = bench.start().await;
    let failure = "the certificate can't be read anew";

    bench.put("own.pem", &second.certificate[..200]);
    let said = proxy.logs(failure, 2 * TWO_LOOKS).await;
    assert!(said.contains("\"WARN\"") && said.contains("own.pem"), "{said}");
    assert!(said.contains("it is cut off: -----END CERTIFICATE----- is missing"), "{said}");
    proxy.connect(&first.trust()).await.unwrap();
    // It is tried again and again, and said once.
    sleep(TWO_LOOKS).await;
    assert_eq!(proxy.lines(failure).len(), 1);

    bench.put("own.pem", &second.certificate);
    let said = proxy.logs("is not the key of", 2 * TWO_LOOKS).await;
    assert!(said.contains("own.key") && said.contains("own.pem"), "{said}");
    proxy.connect(&first.trust()).await.unwrap();

    fs::remove_file(bench.path("own.key")).unwrap();
    sleep(TWO_LOOKS).await;
    proxy.connect(&first.trust()).await.unwrap();

    bench.put("own.key", &second.key);
    proxy.serves(&second).await;
    assert_eq!(proxy.lines("another certificate is served now").len(), 1);

    // The same certificate in another file is no other one, and a wrong one is no start.
    bench.put_own(&second);
    bench.put("own.key", &first.key);
    let output = bench.run(&["check"]);
    assert!(
        !output.status.success() && words(&output).contains("is not the key of"),
        "{}",
        words(&output)
    );
}

/// As Kubernetes replaces a mounted secret: the folder's link is renamed, the files' own links stay.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_lead_elsewhere_are_followed() {
    use std::os::unix::fs::symlink;

    let bench = Bench::new().await;
    let made = [Made::new("first.example"), Made::new("second.example")];
    for (made, version) in made.iter().zip(["v1", "v2"]) {
        fs::create_dir(bench.path(version)).unwrap();
        bench.put(&format!("{version}/tls.crt"), &made.certificate);
        bench.put(&format!("{version}/tls.key"), &made.key);
    }
    symlink("v1", bench.path("data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("data").join(name), bench.path(name)).unwrap();
    }
    bench.configure(&[("implicit", "certificate = \"tls.crt\"\nprivate_key = \"tls.key\"")]);
    let proxy = bench.start().await;
    proxy.connect(&made[0].trust()).await.unwrap();
    symlink("v2", bench.path("next")).unwrap();
    fs::rename(bench.path("next"), bench.path("data")).unwrap();
    proxy.serves(&made[1]).await;
    assert_eq!(proxy.lines("\"WARN\""), Vec::<String>::new());
}

/// A confined process serves what it has read; who has turned the link hears of it wherever he looks.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_leads_out_of_the_confinement_is_told() {
    use std::os::unix::fs::symlink;

    let bench = Bench::new().await;
    let outside = tempfile::tempdir().unwrap();
    let (first, second) = (Made::new("first.example"), Made::new("second.example"));
    for (folder, made) in [(bench.folder.path(), &first), (outside.path(), &second)] {
        for (name, text) in [("real.pem", &made.certificate), ("real.key", &made.key)] {
            fs::write(folder.join(name), text).unwrap();
            set_mode(&folder.join(name), 0o600);
        }
    }
    let turn = |folder: &Path| {
        for (name, to) in [("own.pem", "real.pem"), ("own.key", "real.key")] {
            symlink(folder.join(to), bench.path("link")).unwrap();
            fs::rename(bench.path("link"), bench.path(name)).unwrap();
        }
    };
    turn(bench.folder.path());
    bench.configure(&[("implicit", OWN), ("starttls", OWN)]);
    let mut text = fs::read_to_string(bench.path("gatepost.toml")).unwrap();
    for _ in 0..2 {
        text = text.replacen("127.0.0.1:0", &free_address().to_string(), 1);
    }
    bench.put("gatepost.toml", &text);
    let proxy = bench.start().await;
    let doctor = || {
        let said = bench.run(&["doctor", "--json"]).stdout;
        let findings: Vec<serde_json::Value> = serde_json::from_slice(&said).unwrap();
        let lines =
            findings.iter().map(|one| format!("{} {} {}", one["code"], one["level"], one["what"]));
        lines.collect::<Vec<_>>().join("\n")
    };
    let other = "serves another certificate than the one in";
    let found = doctor();
    assert!(!found.contains(other), "{found}");
    // Both kinds of TLS are gone through.
    assert_eq!(found.matches("gatepost answers").count(), 2, "{found}");

    turn(outside.path());
    let said = proxy.logs("outside of what the running gatepost may open", 2 * TWO_LOOKS).await;
    let real = outside.path().join("real.pem").display().to_string();
    assert!(said.contains(&real) && said.contains("systemctl restart gatepost"), "{said}");
    proxy.connect(&first.trust()).await.unwrap();
    let found = doctor();
    let line = found.lines().find(|line| line.contains(other)).expect(&found);
    assert!(line.contains("listener-certificate") && line.contains("first.example"), "{line}");
    assert!(found.contains("its certificate is for localhost, second.example"), "{found}");
    assert!(!found.contains("client-plain"), "its own looks are no fault of a client's: {found}");
    let checked = bench.run(&["check"]);
    let told = words(&checked);
    assert!(checked.status.success() && told.contains(other), "{told}");
    assert!(told.contains("hint: ") && told.contains("systemctl restart gatepost"), "{told}");

    turn(bench.folder.path());
    proxy.logs("can be read again", 2 * TWO_LOOKS).await;
    assert!(!doctor().contains(other));
}

/// Opening a pipe would wait for its writer without end.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_is_no_certificate() {
    let bench = Bench::new().await;
    bench.put_own(&Made::new("first.example"));
    fs::remove_file(bench.path("own.pem")).unwrap();
    let made = Command::new("mkfifo").arg(bench.path("own.pem")).status().unwrap();
    assert!(made.success());
    bench.configure(&[("implicit", OWN)]);
    let checked = tokio::process::Command::from(bench.command(&["check"])).output();
    let output = within(LIMIT, "check", checked).await.unwrap();
    assert!(words(&output).contains("own.pem is a pipe"), "{}", words(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_self_made_certificate_has_the_names_that_clients_need() {
    let bench = Bench::new().await;
    bench.configure(&[("implicit", "names = [\"mail.contoso.example\"]"), ("starttls", "")]);
    let first = bench.good(&["certificate"]);
    let names = names_in(&first);
    for name in ["localhost", "127.0.0.1", "mail.contoso.example"] {
        assert!(names.iter().any(|it| it == name), "{name} is missing in {names:?}");
    }
    let key = fs::read(bench.path("state/listener.key")).unwrap();
    let proxy = bench.start().await;
    let trusting = trust(&first, rustls::ALL_VERSIONS, &[]);
    proxy.connect(&trusting).await.unwrap();
    drop(proxy);

    // Clients trust this very certificate: it stays, and people hear what it lacks.
    bench.configure(&[("implicit", "names = [\"other.contoso.example\"]")]);
    let proxy = bench.start().await;
    let said = proxy.logs("lacks names", LIMIT).await;
    assert!(said.contains("other.contoso.example") && said.contains("--renew"), "{said}");
    proxy.connect(&trusting).await.unwrap();

    let second = bench.good(&["certificate", "--renew"]);
    assert!(names_in(&second).contains(&"other.contoso.example".to_owned()));
    assert_eq!(fs::read(bench.path("state/listener.key")).unwrap(), key, "the key stays");
    proxy.logs("another certificate is served now", 2 * TWO_LOOKS).await;
    let trusting = trust(&second, rustls::ALL_VERSIONS, &[]);
    let name = ServerName::try_from("other.contoso.example").unwrap();
    let stream = TcpStream::connect(proxy.addresses[0]).await.unwrap();
    trusting.connect(name, stream).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_what_clients_must_trust() {
    let bench = Bench::new().await;
    bench.configure(&[("none", "")]);
    let output = bench.run(&["certificate"]);
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    bench.configure(&[("implicit", ""), ("starttls", "")]);
    let pem = bench.good(&["certificate"]);
    let text = String::from_utf8(pem.clone()).unwrap();
    assert!(
        text.starts_with("-----BEGIN CERTIFICATE-----\n")
            && text.ends_with("-----END CERTIFICATE-----\n")
    );
    assert_eq!(pem, bench.good(&["certificate"]), "it is made once");
    let der = bench.good(&["certificate", "--der"]);
    assert_eq!(der, CertificateDer::from_pem_slice(&pem).unwrap().as_ref());
    let out = bench.path("out.pem");
    assert!(bench.good(&["certificate", "--out", out.to_str().unwrap()]).is_empty());
    assert_eq!(fs::read(out).unwrap(), pem);
    let digest = ring::digest::digest(&ring::digest::SHA256, &der);
    let hex: Vec<String> = digest.as_ref().iter().map(|octet| format!("{octet:02X}")).collect();
    let printed = String::from_utf8(bench.good(&["certificate", "--fingerprint"])).unwrap();
    let [sha256, sha1] = printed.lines().collect::<Vec<_>>()[..] else { panic!("{printed}") };
    assert_eq!(sha256, format!("SHA-256 {}", hex.join(":")));
    assert!(sha1.starts_with("SHA-1 ") && sha1.len() == 6 + 59, "{sha1}");

    // An administrator's own: never with its key, though it stands in the same file.
    let own = Made::new("own.example");
    bench.put("both.pem", &format!("{}{}", own.key, own.certificate));
    bench.configure(&[
        ("implicit", "certificate = \"both.pem\"\nprivate_key = \"both.pem\""),
        ("implicit", ""),
    ]);
    let output = bench.run(&["certificate"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(words(&output).contains("--listener"), "{}", words(&output));
    let text = fs::read_to_string(bench.path("gatepost.toml")).unwrap();
    bench.put("gatepost.toml", &text.replacen("127.0.0.1:0", "127.0.0.1:10993", 1));
    let printed = bench.good(&["certificate", "--listener", "127.0.0.1:10993"]);
    assert_eq!(String::from_utf8(printed).unwrap(), own.certificate.replace("\r\n", "\n"));
    let output = bench.run(&["certificate", "--listener", "127.0.0.1:10993", "--renew"]);
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    let output = bench.run(&["certificate", "--listener", "127.0.0.1:10994"]);
    assert!(words(&output).contains("no listener with TLS is on"), "{}", words(&output));
}

/// A ClientHello with one cipher, ECDHE-RSA-AES256-SHA, and what says that the client has fallen back from a newer
/// version. Without that it has no extensions, as older versions have none.
fn client_hello(version: [u8; 2], has_fallen_back: bool) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    let fallback: &[u8] = if has_fallen_back { &[0x56, 0] } else { &[] };
    let length = u8::try_from(2 + fallback.len()).unwrap();
    body.extend([&[0, 0, length, 0xc0, 0x14], fallback, &[1, 0]].concat());
    if has_fallen_back {
        // signature_algorithms: RSA with SHA-256.
        body.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 1]);
    }
    let length = u8::try_from(body.len()).unwrap();
    let mut hello = vec![0x16, 3, version[1].min(1), 0, length + 4, 1, 0, 0, length];
    hello.extend(body);
    hello
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_versions_and_nonsense_end_cleanly_and_are_named() {
    let bench = Bench::new().await;
    bench.configure(&[("implicit", "")]);
    let proxy = bench.start().await;
    let pem = fs::read(bench.path("state/listener.pem")).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = proxy.connect(&trust(&pem, &[version], &["imap", "h2"])).await.unwrap();
        client.answer(Protocol::Imap).await;
    }
    let mut huge = vec![0x16, 3, 1, 0xff, 0xff];
    huge.extend([0; 4096]);
    let cases: [(&str, Vec<u8>, &str, Option<u8>); 8] = [
        ("SSL 3.0", client_hello([3, 0], false), "offers no TLS 1.2", None),
        ("TLS 1.0", client_hello([3, 1], false), "offers no TLS 1.2", None),
        ("TLS 1.1", client_hello([3, 2], false), "offers no TLS 1.2", None),
        ("TLS 1.2 with SHA-1", client_hello([3, 3], false), "offers no TLS 1.2", None),
        ("a fallback to TLS 1.2", client_hello([3, 3], true), "fell back to TLS 1.2", Some(86)),
        ("SSL 2.0", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10".to_vec(), "SSL 2.0", None),
        ("plain text", b"1 LOGIN jane secret\r\n".to_vec(), "speaks plain text", None),
        ("an oversized record", huge, "no TLS with the client", None),
    ];
    for (what, sent, word, alert) in cases {
        let before = proxy.lines(word).len();
        let mut client = Wire::connect(proxy.addresses[0]).await;
        client.send(sent).await;
        let said = client.rest().await;
        // One fatal alert at most (RFC 8446 section 6).
        assert!(
            said.is_empty() || (said.len() == 7 && said[0] == 0x15 && said[5] == 2),
            "{what}: {said:?}"
        );
        assert!(alert.is_none() || said.last() == alert.as_ref(), "{what}: {said:?}");
        let end = Instant::now() + LIMIT;
        while proxy.lines(word).len() == before {
            assert!(Instant::now() < end, "{what}: {}", proxy.log.lock().unwrap());
            sleep(Duration::from_millis(20)).await;
        }
    }
    // A client that does not trust it, and one without SNI, of another name, and with it.
    let stranger = Made::new("stranger.example").trust();
    assert!(proxy.connect(&stranger).await.is_err());
    proxy.logs("does not trust the certificate", LIMIT).await;
    let trusting = trust(&pem, rustls::ALL_VERSIONS, &[]);
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TcpStream::connect(proxy.addresses[0]).await.unwrap();
    trusting.connect(name, stream).await.unwrap();
    let log = proxy.log.lock().unwrap();
    assert!(!log.contains("jane secret") && !log.contains("LOGIN"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_hear_of_an_end_and_of_an_open_key() {
    let bench = Bench::new().await;
    bench.put_own(&Made::until("soon.example", 5));
    bench.configure(&[("implicit", OWN)]);
    set_mode(&bench.path("own.key"), 0o644);
    let proxy = bench.start().await;
    let said = proxy.logs("certificate ends soon", LIMIT).await;
    assert!(said.contains("\"WARN\"") && said.contains("own.pem"), "{said}");
    if cfg!(unix) {
        proxy.logs("everybody on this machine can read this private key", LIMIT).await;
    }
    sleep(TWO_LOOKS).await;
    assert_eq!(proxy.lines("certificate ends soon").len(), 1);
    drop(proxy);
    let findings = |bench: &Bench| {
        let output = bench.run(&["doctor", "--json"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json.to_string()
    };
    let found = findings(&bench);
    assert!(
        found.contains("listener-certificate") && found.contains("its certificate ends on"),
        "{found}"
    );
    if cfg!(unix) {
        assert!(found.contains("permissions") && found.contains("own.key"), "{found}");
    }
    set_mode(&bench.path("own.key"), 0o640);
    bench.put("own.pem", &Made::new("other.example").certificate);
    let found = findings(&bench);
    assert!(found.contains("is not the key of") && !found.contains("\"permissions\""), "{found}");
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(not(unix))]
fn set_mode(_: &Path, _: u32) {}
