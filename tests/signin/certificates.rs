//! Client certificates in each form in which people have them.

use std::time::Duration;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use gatepost::emulator::Registration;
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::JANE;
use crate::site::{Settings, Site, eventually};
use crate::tap::Seen;

/// See `keys/make.sh`.
const FILES: [(&str, &[u8]); 14] = [
    ("app.key", include_bytes!("keys/app.key")),
    ("app.pem", include_bytes!("keys/app.pem")),
    ("app-both.pem", include_bytes!("keys/app-both.pem")),
    ("app-pkcs1.key", include_bytes!("keys/app-pkcs1.key")),
    ("app-encrypted.key", include_bytes!("keys/app-encrypted.key")),
    ("app-scrypt.key", include_bytes!("keys/app-scrypt.key")),
    ("app-old.key", include_bytes!("keys/app-old.key")),
    ("app.p12", include_bytes!("keys/app.p12")),
    ("app-open.p12", include_bytes!("keys/app-open.p12")),
    ("app-old.p12", include_bytes!("keys/app-old.p12")),
    ("other.key", include_bytes!("keys/other.key")),
    ("other.pem", include_bytes!("keys/other.pem")),
    ("curve.key", include_bytes!("keys/curve.key")),
    ("curve.pem", include_bytes!("keys/curve.pem")),
];

const PASSPHRASE: &str = "opens-it";
const WRONG: &str = "opens-nothing";

fn file(name: &str) -> &'static [u8] {
    FILES.iter().find(|(own, _)| *own == name).unwrap().1
}

fn text(name: &str) -> String {
    String::from_utf8(file(name).to_vec()).unwrap()
}

/// The app's certificate and another one are registered; nothing else lets it in.
async fn site(certificate: &str) -> Site {
    let mut settings = Settings::new(&app(certificate), &[JANE]);
    settings.options.token_life = Some(Duration::from_secs(2));
    settings.options.registration = Registration {
        certificates: ["app.pem", "other.pem"].map(text).to_vec(),
        public_client: false,
        ..Registration::default()
    };
    let site = Site::new(settings).await;
    for (name, bytes) in FILES {
        site.write(name, bytes);
    }
    site.write("passphrase", format!("{PASSPHRASE}\n"));
    site.write("wrong", WRONG);
    site.write("garbage", "\0garbage");
    site
}

fn app(certificate: &str) -> String {
    format!("grant = \"client_credentials\"\nclient_certificate = {{ {certificate} }}")
}

fn use_certificate(site: &Site, certificate: &str) {
    site.configure("", &Settings::new(&app(certificate), &[JANE]).body, "");
}

/// The header and the claims of the assertion that a request had.
fn assertion(seen: &Seen) -> (Value, Value) {
    let mut parts = seen.field("client_assertion").split('.');
    let mut part = || {
        let part = BASE64_URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap();
        serde_json::from_slice(&part).unwrap()
    };
    (part(), part())
}

fn thumbprint(name: &str) -> String {
    let der = CertificateDer::from_pem_slice(file(name)).unwrap();
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, &der))
}

const PEM: &str = "certificate = \"app.pem\", private_key = ";
const OPENED: &str = "passphrase = { file = \"passphrase\" }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_every_form() {
    let site = site("certificate = \"app-both.pem\"").await;
    let forms = [
        (format!("{PEM} \"app.key\""), "PS256"),
        (format!("{PEM} \"app.key\", algorithm = \"PS256\""), "PS256"),
        (format!("{PEM} \"app.key\", algorithm = \"RS256\""), "RS256"),
        (format!("{PEM} \"app-pkcs1.key\""), "PS256"),
        (format!("{PEM} \"app-encrypted.key\", {OPENED}"), "PS256"),
        (format!("{PEM} \"app-scrypt.key\", {OPENED}"), "PS256"),
        ("certificate = \"app-both.pem\"".into(), "PS256"),
        (format!("pkcs12 = \"app.p12\", {OPENED}"), "PS256"),
        (format!("pkcs12 = \"app.p12\", {OPENED}, algorithm = \"RS256\""), "RS256"),
        ("pkcs12 = \"app-open.p12\"".into(), "PS256"),
        (format!("pkcs12 = \"app-old.p12\", {OPENED}"), "PS256"),
    ];
    for (form, algorithm) in forms {
        use_certificate(&site, &form);
        let done = site.run(&["login", JANE]).await;
        assert_eq!((done.code, done.out.as_str()), (Some(0), ""), "{form}: {}", done.err);
        let seen = site.tap.token_requests().pop().unwrap();
        let (header, claims) = assertion(&seen);
        assert_eq!((seen.status, header["alg"].as_str()), (200, Some(algorithm)), "{form}");
        assert_eq!(header["x5t#S256"], thumbprint("app.pem"), "{form}");
        assert_eq!(claims["aud"], site.endpoint("token"), "{form}");
        assert!(!seen.fields.contains_key("client_secret"), "{form}");
    }
    // RFC 7523 section 3: each has an id of its own, and ends soon.
    let assertions: Vec<_> = site.tap.token_requests().iter().map(assertion).collect();
    for (index, (_, claims)) in assertions.iter().enumerate() {
        let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
        assert!((60..=600).contains(&life), "{claims}");
        let same = |(_, other): &&(Value, Value)| other["jti"] == claims["jti"];
        assert_eq!(assertions[index..].iter().filter(same).count(), 1, "{claims}");
    }
}

/// Each names the file and the remedy, and tells nothing of a key or passphrase.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_can_not_be_used() {
    let site = site("certificate = \"app-both.pem\"").await;
    let wrong = "passphrase = { file = \"wrong\" }";
    let cases: [(String, i32, [&str; 3]); 14] = [
        (
            format!("{PEM} \"app-encrypted.key\", {wrong}"),
            1,
            ["app-encrypted.key", "does not open the key", "check passphrase"],
        ),
        (
            format!("{PEM} \"app-scrypt.key\", {wrong}"),
            1,
            ["app-scrypt.key", "does not open the key", "check passphrase"],
        ),
        (
            format!("{PEM} \"app-encrypted.key\""),
            1,
            ["app-encrypted.key", "is encrypted", "add passphrase ="],
        ),
        (
            format!("{PEM} \"app-old.key\", {OPENED}"),
            1,
            ["app-old.key", "OpenSSL's old form", "openssl pkcs8 -topk8"],
        ),
        (format!("{PEM} \"other.key\""), 1, ["app.pem", "not for this key", "made with"]),
        (
            "certificate = \"curve.pem\", private_key = \"curve.key\"".into(),
            1,
            ["curve.key", "no RSA key", "openssl req"],
        ),
        (format!("{PEM} \"app.pem\""), 1, ["app.pem", "no private key", "BEGIN PRIVATE KEY"]),
        ("certificate = \"app.key\"".into(), 1, ["app.key", "no certificate", "BEGIN CERTIFICATE"]),
        (format!("{PEM} \"garbage\""), 1, ["garbage", "no private key", "hint:"]),
        (format!("pkcs12 = \"app.p12\", {wrong}"), 1, ["app.p12", "passphrase", "openssl pkcs12"]),
        ("pkcs12 = \"app.p12\"".into(), 1, ["app.p12", "passphrase", "openssl pkcs12"]),
        ("pkcs12 = \"garbage\"".into(), 1, ["garbage", "no PKCS#12 file", "openssl pkcs12"]),
        (format!("{PEM} \"gone.key\""), 2, ["gone.key", "client_certificate", "hint: name a file"]),
        (
            format!("{PEM} \"app-encrypted.key\", passphrase = {{ env = \"NOWHERE\" }}"),
            2,
            ["client_certificate.passphrase", "no variable NOWHERE", "hint:"],
        ),
    ];
    for (form, code, wanted) in cases {
        use_certificate(&site, &form);
        let done = site.run(&["login", JANE]).await;
        assert_eq!((done.code, done.out.as_str()), (Some(code), ""), "{form}: {}", done.err);
        for words in wanted {
            assert!(done.err.contains(words), "{form}: no {words:?} in: {}", done.err);
        }
        assert_eq!(done.err.matches("hint:").count(), 1, "{form}: {}", done.err);
        assert_tells_nothing(&done.err);
    }
    assert!(site.tap.token_requests().is_empty() && site.token(JANE).await.is_none());
}

/// No part of a key, in base64 or as octets in Rust's manner, and no passphrase.
fn assert_tells_nothing(text: &str) {
    assert!(!text.contains(PASSPHRASE) && !text.contains(WRONG), "{text}");
    for (name, bytes) in FILES.iter().filter(|(name, _)| !name.ends_with(".p12")) {
        let lines = std::str::from_utf8(bytes).unwrap().lines();
        for line in lines.filter(|line| line.len() >= 24 && !line.starts_with('-')) {
            assert!(!text.contains(&line[..24]), "a line of {name} is in: {text}");
            let octets = BASE64_STANDARD.decode(&line[..16]).unwrap_or_default();
            assert!(octets.is_empty() || !text.contains(&format!("{octets:?}")), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_replaced_counts_at_once() {
    let site = site("certificate = \"now.pem\", private_key = \"now.key\"").await;
    site.write("now.pem", file("app.pem"));
    site.write("now.key", file("app.key"));
    let password = site.password(JANE).await;
    let proxy = site.start().await;
    proxy.admits(JANE, &password).await;
    let thumbprint_of = |seen: Seen| assertion(&seen).0["x5t#S256"].as_str().unwrap().to_owned();
    let last = || site.tap.token_requests().pop().map(thumbprint_of);
    assert_eq!(last(), Some(thumbprint("app.pem")));
    // Half replaced: it does not fit, which passes.
    site.write("now.pem", file("other.pem"));
    let said = proxy.running.said("the certificate is not for this key").await;
    assert_tells_nothing(&said);
    site.write("now.key", file("other.key"));
    eventually("the other key", async || (last() == Some(thumbprint("other.pem"))).then_some(()))
        .await;
    proxy.admits(JANE, &password).await;
    let log = proxy.stop().await;
    assert_tells_nothing(&log);
    assert!(site.tap.token_requests().iter().all(|seen| seen.status == 200));
}
