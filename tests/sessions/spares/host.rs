//! A mail server that keeps account of its connections, and gatepost's side of it, under paused time.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Authority, Fake, Leaf, MAILBOX, Wire};
use gatepost::net::{ClientTls, Route};
use gatepost::protocol::{Rejection, Xoauth2};
use gatepost::secret::Secret;
use gatepost::upstream::{Server, Session};
use gatepost::vocabulary::{Protocol, TlsMode};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::advance;

/// Longer than any test lets pass.
const DAY: Duration = Duration::from_secs(86_400);

/// What a server makes of one of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Admits,
    /// Hears the token and closes.
    Closes,
    /// Hears the token, and has said goodbye at the same time.
    Leaves,
    Refuses,
    Silent,
    /// Is not there: it closes at once.
    Absent,
}

/// A mail server that keeps account of its connections, by their numbers.
#[derive(Clone)]
pub(super) struct Host {
    protocol: Protocol,
    book: Arc<Mutex<Book>>,
    /// Makes those that wait say more than they were asked.
    pub(super) shout: Arc<Notify>,
    /// Makes them close.
    pub(super) kick: Arc<Notify>,
}

#[derive(Default)]
struct Book {
    opened: u64,
    /// Those that wait for a token.
    waiting: BTreeSet<u64>,
    /// Those that got one.
    tokens: Vec<u64>,
    /// From this number on.
    manners: Vec<(u64, Option<Manner>)>,
}

impl Host {
    pub(super) fn new(protocol: Protocol) -> Self {
        let (shout, kick) = (Arc::default(), Arc::default());
        Self { protocol, book: Arc::default(), shout, kick }
    }

    pub(super) async fn start(&self, authority: &Authority) -> Fake {
        let (host, acceptor) = (self.clone(), authority.acceptor(Leaf::Good));
        Fake::start(move |wire| {
            let (host, acceptor) = (host.clone(), acceptor.clone());
            let number = {
                let mut book = host.book.lock().unwrap();
                book.opened += 1;
                book.opened
            };
            async move {
                if host.manner(number) != Manner::Absent
                    && let Ok(wire) = wire.accept_tls(&acceptor).await
                {
                    host.serve(wire, number).await;
                }
                host.book.lock().unwrap().waiting.remove(&number);
            }
        })
        .await
    }

    fn manner(&self, number: u64) -> Manner {
        let book = self.book.lock().unwrap();
        let manner = book.manners.iter().rev().find(|(from, _)| *from <= number);
        manner.and_then(|(_, manner)| *manner).unwrap_or(Manner::Admits)
    }

    /// From this connection on, up to another one of which something else was said.
    pub(super) fn set(&self, from: u64, manner: Manner) {
        self.book.lock().unwrap().manners.push((from, Some(manner)));
    }

    /// This one alone.
    pub(super) fn set_one(&self, number: u64, manner: Manner) {
        self.book.lock().unwrap().manners.extend([(number, Some(manner)), (number + 1, None)]);
    }

    async fn serve(&self, mut wire: Wire, number: u64) {
        if !self.greet(&mut wire).await {
            return;
        }
        self.book.lock().unwrap().waiting.insert(number);
        let shout = ["* OK hi\r\n", "+OK hi\r\n", "250 hi\r\n"];
        let token = tokio::select! {
            token = wire.try_line(DAY) => token,
            () = self.kick.notified() => return,
            () = self.shout.notified() => {
                wire.send(self.of(shout)).await;
                wire.try_line(DAY).await
            }
        };
        if token.is_none() {
            return;
        }
        {
            let mut book = self.book.lock().unwrap();
            book.waiting.remove(&number);
            book.tokens.push(number);
        }
        let words = match self.manner(number) {
            Manner::Admits => self.of(["g2 OK in\r\n", "+OK in\r\n", "235 in\r\n"]),
            Manner::Leaves => self.of(["* BYE idle\r\n", "-ERR idle\r\n", "421 4.4.2 idle\r\n"]),
            Manner::Refuses => self.of(["g2 NO no\r\n", "-ERR no\r\n", "535 5.7.3 no\r\n"]),
            Manner::Silent => "",
            Manner::Closes | Manner::Absent => return,
        };
        wire.send(words).await;
        if self.manner(number) != Manner::Leaves {
            // Of IMAP the capabilities are asked for once.
            while let Some(line) = wire.try_line(DAY).await {
                if line == "g3 CAPABILITY" {
                    wire.send("* CAPABILITY IMAP4rev1\r\ng3 OK\r\n").await;
                }
            }
        }
    }

    /// Up to where only the token is wanting.
    async fn greet(&self, wire: &mut Wire) -> bool {
        wire.send(self.of(["* OK hi\r\n", "+OK hi\r\n", "220 hi\r\n"])).await;
        if self.protocol == Protocol::Smtp {
            wire.expect("EHLO ").await;
            wire.send("250-fake\r\n250 AUTH XOAUTH2\r\n").await;
        }
        if self.protocol != Protocol::Imap {
            match wire.line().await.as_str() {
                "AUTH XOAUTH2" => wire.send(self.of(["", "+ \r\n", "334 \r\n"])).await,
                _ => {
                    wire.send("221 bye\r\n").await;
                    return false;
                }
            }
        }
        true
    }

    fn of(&self, [imap, pop3, smtp]: [&'static str; 3]) -> &'static str {
        match self.protocol {
            Protocol::Imap => imap,
            Protocol::Pop3 => pop3,
            Protocol::Smtp => smtp,
        }
    }

    pub(super) fn opened(&self) -> u64 {
        self.book.lock().unwrap().opened
    }

    pub(super) fn waiting(&self) -> Vec<u64> {
        self.book.lock().unwrap().waiting.iter().copied().collect()
    }

    pub(super) fn tokens(&self) -> Vec<u64> {
        self.book.lock().unwrap().tokens.clone()
    }

    /// Lets everything come to rest, until these wait.
    pub(super) async fn until_waiting(&self, expected: &[u64]) {
        for _ in 0..5_000 {
            settle().await;
            if self.waiting() == expected {
                return;
            }
        }
        panic!("{}: {expected:?} are to wait: {:?}", self.protocol, self.waiting());
    }

    pub(super) async fn until_count(&self, expected: usize) {
        for _ in 0..5_000 {
            settle().await;
            if self.waiting().len() == expected {
                return;
            }
        }
        panic!("{}: {expected} are to wait: {:?}", self.protocol, self.waiting());
    }
}

/// What is ready goes on; time does not.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    std::thread::sleep(Duration::from_millis(1));
}

/// The same for so long that whatever were to come has come.
pub(super) async fn settle_long() {
    for _ in 0..60 {
        settle().await;
    }
}

/// Lets time pass by seconds.
pub(super) async fn pass(seconds: u64) {
    for _ in 0..seconds {
        advance(Duration::from_secs(1)).await;
        settle().await;
    }
}

/// A host, and gatepost's side of it, under paused time.
pub(super) struct Site {
    pub(super) host: Host,
    pub(super) server: Arc<Server>,
    pub(super) keeper: JoinHandle<()>,
    /// Those that are logged in.
    sessions: Vec<Session>,
    _fake: Fake,
    /// tokio's time does not run by itself while a blocking task is busy: one waits for this to be dropped.
    _busy: mpsc::Sender<()>,
}

impl Site {
    pub(super) async fn new(protocol: Protocol, spares: usize) -> Self {
        let (busy, idle) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || idle.recv());
        let authority = Authority::new();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(authority.pem().as_bytes()).unwrap();
        let tls = ClientTls::new(Some(file.path())).unwrap();
        let host = Host::new(protocol);
        let fake = host.start(&authority).await;
        let endpoint = fake.endpoint(TlsMode::Implicit).parse().unwrap();
        let server = Arc::new(Server::new(protocol, endpoint, tls, Route::direct()));
        let keeper = tokio::spawn(server.keep_spares(spares));
        Self { host, server, keeper, sessions: Vec::new(), _fake: fake, _busy: busy }
    }

    pub(super) async fn try_log_in(&mut self) -> Result<(), Rejection> {
        let token = Secret::new("t".repeat(1500));
        let login = Xoauth2::new(MAILBOX, &token).unwrap();
        let session = self.server.log_in(login).await?;
        self.sessions.push(session);
        Ok(())
    }

    pub(super) async fn log_in(&mut self) {
        self.try_log_in().await.unwrap();
    }
}

/// One login has gone well, and one connection stands ready, the second.
pub(super) async fn ready(protocol: Protocol) -> Site {
    let mut site = Site::new(protocol, 2).await;
    site.log_in().await;
    site.host.until_waiting(&[2]).await;
    site
}
