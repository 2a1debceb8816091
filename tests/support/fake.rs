//! An upstream that says what a test wants, and certificates that are as wrong as a test wants.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gatepost::vocabulary::{Protocol, TlsMode};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Wire;

/// A certificate authority of a test's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What is wrong with a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// Nothing.
    Good,
    /// It is for another name.
    OtherName,
    /// It was good until last year.
    Expired,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        Self::named("test CA")
    }

    /// A new one of this name.
    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For a server that shows this certificate.
    pub fn acceptor(&self, leaf: Leaf) -> TlsAcceptor {
        self.acceptor_of(leaf, rustls::DEFAULT_VERSIONS)
    }

    /// The same for these versions of TLS.
    pub fn acceptor_of(
        &self,
        leaf: Leaf,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> TlsAcceptor {
        let name = if leaf == Leaf::OtherName { "other.example" } else { "127.0.0.1" };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        // Verifiers of some platforms want less than 398 days.
        let now = std::time::SystemTime::now();
        let day = std::time::Duration::from_secs(86_400);
        params.not_before = (now - 30 * day).into();
        params.not_after = (now + 60 * day).into();
        if leaf == Leaf::Expired {
            params.not_before = date_time_ymd(2024, 1, 1);
            params.not_after = date_time_ymd(2024, 12, 31);
        }
        let key = KeyPair::generate().unwrap();
        let chain = vec![params.signed_by(&key, &self.0).unwrap().der().clone()];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A server that talks as a test says.
pub struct Fake {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    accepted: Arc<AtomicU64>,
}

impl Fake {
    /// Listens; each connection is given to `talk`, without TLS as yet.
    pub async fn start<T, F>(talk: T) -> Self
    where
        T: Fn(Wire) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, accepted) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (ear, count) = (Arc::clone(&heard), Arc::clone(&accepted));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(talk(Wire::new(stream).overheard_by(&ear)));
            }
        });
        Self { address, heard, accepted }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As the configuration writes it.
    pub fn endpoint(&self, tls: TlsMode) -> String {
        match tls {
            TlsMode::StartTls => format!("{} starttls", self.address),
            _ => self.address.to_string(),
        }
    }

    /// Connections so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// All that all connections have read, decrypted.
    pub fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }
}

/// Greets and takes any token: up to the answer to the login, with `behind_it` in the same write. `None` for
/// the connection that only learns SMTP's keywords.
pub async fn admit(mut wire: Wire, protocol: Protocol, behind_it: &str) -> Option<Wire> {
    let greeting = match protocol {
        Protocol::Imap => "* OK ready\r\n",
        Protocol::Pop3 => "+OK ready\r\n",
        Protocol::Smtp => "220 ready\r\n",
    };
    wire.send(greeting).await;
    admit_greeted(wire, protocol, behind_it).await
}

/// The same without the greeting, of which there is none behind STARTTLS.
pub async fn admit_greeted(mut wire: Wire, protocol: Protocol, behind_it: &str) -> Option<Wire> {
    match protocol {
        Protocol::Imap => {
            let line = wire.line().await;
            let (tag, _) = line.split_once(' ').unwrap();
            wire.send(format!("{tag} OK [CAPABILITY IMAP4rev1 IDLE] done\r\n{behind_it}")).await;
        }
        Protocol::Pop3 => {
            wire.expect("AUTH XOAUTH2").await;
            wire.send("+ \r\n").await;
            wire.line().await;
            wire.send(format!("+OK done\r\n{behind_it}")).await;
        }
        Protocol::Smtp => {
            wire.expect("EHLO ").await;
            wire.send("250-fake\r\n250-SIZE 1000\r\n250 AUTH XOAUTH2\r\n").await;
            if wire.line().await == "QUIT" {
                wire.send("221 bye\r\n").await;
                return None;
            }
            wire.send("334 \r\n").await;
            wire.line().await;
            wire.send(format!("235 done\r\n{behind_it}")).await;
        }
    }
    Some(wire)
}
