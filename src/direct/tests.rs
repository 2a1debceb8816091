//! Sessions over pipes in paused time: what takes minutes.

use std::path::Path;

use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, duplex};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::pause;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::attention::Attention;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::Store;

struct World {
    pace: Arc<Pace>,
    account: Arc<Account>,
    leave: Leave,
    cut: CancellationToken,
    _folder: tempfile::TempDir,
}

/// A session, with both of its ends.
struct Session {
    client: BufReader<DuplexStream>,
    upstream: BufReader<DuplexStream>,
    relayed: JoinHandle<Relayed>,
}

impl World {
    async fn new(limits: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[app.a]\nclient_id = \"x\"\n[[account]]\nmailbox = \"jane@contoso.example\"\napp = \"a\"\n\
             limits = {{ {limits} }}\n"
        );
        let config = Config::parse(Path::new("gatepost.toml"), &text).unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        // SQLite works on a thread that paused time does not wait for: nothing below asks it.
        pause();
        let pace = Pace::new(store, Clock::with_tokio(), Attention::default());
        Self {
            pace,
            account: Arc::clone(&config.accounts[0]),
            leave: CancellationToken::new().into(),
            cut: CancellationToken::new(),
            _folder: folder,
        }
    }

    async fn session(&self) -> Session {
        let (client, of_client) = duplex(4096);
        let (upstream, of_upstream) = duplex(4096);
        let submission = Submission {
            pace: Arc::clone(&self.pace),
            turn: self.pace.turn(&self.account).await,
            account: Arc::clone(&self.account),
            device: None,
            leave: self.leave.clone(),
            cut: self.cut.clone(),
        };
        let relay = relay_submission(of_client, of_upstream, Vec::new(), Vec::new(), submission);
        let relayed = tokio::spawn(relay);
        Session { client: BufReader::new(client), upstream: BufReader::new(upstream), relayed }
    }

    /// Whether somebody else can have a place now.
    async fn has_room(&self) -> bool {
        for _ in 0..20 {
            yield_now().await;
        }
        timeout(Duration::from_millis(1), self.pace.turn(&self.account)).await.is_ok()
    }
}

impl Session {
    /// A command, and what the upstream answers to it.
    async fn exchange(&mut self, command: &str, answer: &str) {
        self.client.write_all(command.as_bytes()).await.unwrap();
        assert_eq!(line(&mut self.upstream).await, command);
        self.upstream.write_all(answer.as_bytes()).await.unwrap();
        assert_eq!(line(&mut self.client).await, answer);
    }
}

async fn line(of: &mut BufReader<DuplexStream>) -> String {
    let mut line = String::new();
    of.read_line(&mut line).await.unwrap();
    line
}

async fn rest(of: &mut BufReader<DuplexStream>) -> String {
    let mut rest = String::new();
    of.read_to_string(&mut rest).await.unwrap();
    rest
}

#[tokio::test]
async fn a_forgotten_session_gives_way_to_those_who_wait() {
    let world = World::new("connections = 1").await;
    let mut session = world.session().await;
    session.exchange("NOOP\r\n", "250 fine\r\n").await;
    // Nobody waits for hours.
    sleep(Duration::from_secs(7200)).await;
    session.exchange("NOOP\r\n", "250 fine\r\n").await;
    let begun = Instant::now();
    let (pace, account) = (Arc::clone(&world.pace), Arc::clone(&world.account));
    let waiting = tokio::spawn(async move { pace.turn(&account).await });
    assert!(line(&mut session.client).await.starts_with("421 4.4.2 "));
    assert_eq!(begun.elapsed().as_secs(), 60);
    assert_eq!(line(&mut session.upstream).await, "QUIT\r\n");
    sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished(), "the provider still counts the connection");
    drop(session.upstream);
    drop(waiting.await.unwrap());
    assert_eq!(begun.elapsed().as_secs(), 61);
    assert_eq!(rest(&mut session.client).await, "");
}

#[tokio::test]
async fn a_message_in_the_making_is_not_given_up() {
    let world = World::new("connections = 1").await;
    let mut session = world.session().await;
    session.exchange("MAIL FROM:<a@b>\r\n", "250 fine\r\n").await;
    let (pace, account) = (Arc::clone(&world.pace), Arc::clone(&world.account));
    let waiting = tokio::spawn(async move { pace.turn(&account).await });
    sleep(Duration::from_secs(240)).await;
    session.exchange("RCPT TO:<a@b>\r\n", "250 fine\r\n").await;
    session.exchange("DATA\r\n", "354 go\r\n").await;
    sleep(Duration::from_secs(240)).await;
    session.client.write_all(b"x\r\n.\r\n").await.unwrap();
    assert_eq!(
        line(&mut session.upstream).await + &line(&mut session.upstream).await,
        "x\r\n.\r\n"
    );
    sleep(Duration::from_secs(240)).await;
    session.upstream.write_all(b"250 taken\r\n").await.unwrap();
    assert_eq!(line(&mut session.client).await, "250 taken\r\n");
    session.exchange("QUIT\r\n", "221 bye\r\n").await;
    assert!(!waiting.is_finished());
    drop(session.upstream);
    waiting.await.unwrap();
}

#[tokio::test]
async fn mail_waits_for_its_minute_and_what_is_behind_it_too() {
    let world = World::new("connections = 2, messages_per_minute = 1, wait = \"70s\"").await;
    let mut session = world.session().await;
    let mut other = world.session().await;
    let (pace, account) = (Arc::clone(&world.pace), Arc::clone(&world.account));
    // Others wait for a connection meanwhile, but it is not idle.
    let _waiting = tokio::spawn(async move { pace.turn(&account).await });
    session.exchange("MAIL FROM:<a@b>\r\n", "250 fine\r\n").await;
    session.exchange("RSET\r\n", "250 reset\r\n").await;
    let begun = Instant::now();
    session.client.write_all(b"NOOP\r\nMAIL FROM:<c@d>\r\nRCPT TO:<e@f>\r\n").await.unwrap();
    other.client.write_all(b"NOOP\r\n").await.unwrap();
    assert_eq!(line(&mut session.upstream).await, "NOOP\r\n");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    session.upstream.write_all(b"250 noop\r\n").await.unwrap();
    assert_eq!(line(&mut session.client).await, "250 noop\r\n");
    assert_eq!(line(&mut session.upstream).await, "MAIL FROM:<c@d>\r\n");
    assert_eq!(begun.elapsed().as_secs(), 61);
    assert_eq!(line(&mut session.upstream).await, "RCPT TO:<e@f>\r\n");
    // This one's message goes on: another one's turn does not come within the bound.
    let begun = Instant::now();
    other.client.write_all(b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\n").await.unwrap();
    assert_eq!(line(&mut other.upstream).await, "NOOP\r\n");
    sleep(Duration::from_secs(69)).await;
    other.upstream.write_all(b"250 noop\r\n").await.unwrap();
    assert_eq!(line(&mut other.client).await, "250 noop\r\n");
    assert!(line(&mut other.client).await.starts_with("421 4.3.2 no turn"));
    assert_eq!(begun.elapsed().as_secs(), 70);
    assert_eq!(rest(&mut other.client).await + &rest(&mut other.upstream).await, "");
}

#[tokio::test]
async fn who_goes_away_while_mail_waits_sends_none() {
    let world = World::new("messages_per_minute = 1, connections = 2").await;
    let mut session = world.session().await;
    session.exchange("MAIL FROM:<a@b>\r\n", "250 fine\r\n").await;
    let mut other = world.session().await;
    other.client.write_all(b"MAIL FROM:<a@b>\r\n").await.unwrap();
    assert!(!world.has_room().await);
    drop(other.client);
    assert_eq!(rest(&mut other.upstream).await, "", "closed, without MAIL");
    drop(other.upstream);
    assert!(world.has_room().await);
    assert!(other.relayed.await.unwrap().end.is_ok());
}

#[tokio::test]
async fn the_place_is_free_when_the_provider_has_closed_and_not_before() {
    let world = World::new("connections = 1").await;
    let mut session = world.session().await;
    session.exchange("QUIT\r\n", "221 bye\r\n").await;
    assert!(!world.has_room().await);
    drop(session.upstream);
    assert!(world.has_room().await, "though the client lingers");
    // Without QUIT the provider is told, and has a moment to close.
    let mut session = world.session().await;
    session.exchange("NOOP\r\n", "250 fine\r\n").await;
    drop(session.client);
    assert_eq!(rest(&mut session.upstream).await, "");
    assert!(!world.has_room().await);
    drop(session.upstream);
    assert!(world.has_room().await);
    session.relayed.await.unwrap();
}

#[tokio::test]
async fn a_session_that_is_to_leave_ends_between_two_messages() {
    let world = World::new("messages_per_minute = 1").await;
    let mut session = world.session().await;
    session.exchange("MAIL FROM:<a@b>\r\n", "250 fine\r\n").await;
    session.exchange("RCPT TO:<a@b>\r\n", "250 fine\r\n").await;
    let mut waits = world.session().await;
    waits.client.write_all(b"MAIL FROM:<a@b>\r\n").await.unwrap();
    let mut idle = world.session().await;
    sleep(Duration::from_secs(1)).await;
    world.leave.asked().cancel();
    for session in [&mut waits, &mut idle] {
        assert!(line(&mut session.client).await.starts_with("421 4.3.2 "));
        assert_eq!(line(&mut session.upstream).await, "QUIT\r\n", "and no MAIL");
    }
    session.exchange("DATA\r\n", "354 go\r\n").await;
    session.client.write_all(b"x\r\n.\r\n").await.unwrap();
    assert_eq!(
        line(&mut session.upstream).await + &line(&mut session.upstream).await,
        "x\r\n.\r\n"
    );
    sleep(Duration::from_secs(5)).await;
    session.upstream.write_all(b"250 taken\r\n").await.unwrap();
    assert_eq!(line(&mut session.client).await, "250 taken\r\n");
    assert!(line(&mut session.client).await.starts_with("421 4.3.2 "));
    drop((session.client, session.upstream));
    let relayed = session.relayed.await.unwrap();
    assert!(relayed.dismissed && relayed.end.is_ok());
}

#[tokio::test]
async fn a_mailbox_that_is_gone_is_no_restart() {
    let mut world = World::new("connections = 3").await;
    world.leave = Leave::default();
    let mut session = world.session().await;
    session.exchange("NOOP\r\n", "250 fine\r\n").await;
    world.leave.asked().cancel();
    let told = line(&mut session.client).await;
    assert_eq!(told, "421 4.7.0 gatepost does not serve this mailbox any more\r\n");
}

/// 421 where gatepost may speak; nothing where the upstream alone knows what becomes of the message.
#[tokio::test]
async fn a_message_that_is_cut_off() {
    let world = World::new("messages_per_minute = 0").await;
    let (mut sending, mut sent) = (world.session().await, world.session().await);
    for session in [&mut sending, &mut sent] {
        session.exchange("MAIL FROM:<a@b>\r\n", "250 fine\r\n").await;
        session.exchange("RCPT TO:<a@b>\r\n", "250 fine\r\n").await;
        session.exchange("DATA\r\n", "354 go\r\n").await;
        session.client.write_all(b"Subject: x\r\n").await.unwrap();
        assert_eq!(line(&mut session.upstream).await, "Subject: x\r\n");
    }
    sent.client.write_all(b".\r\n").await.unwrap();
    assert_eq!(line(&mut sent.upstream).await, ".\r\n");
    world.leave.asked().cancel();
    world.cut.cancel();
    assert!(line(&mut sending.client).await.starts_with("421 4.3.2 "));
    assert_eq!(rest(&mut sending.upstream).await, "", "no end of the message, and no QUIT");
    assert_eq!(rest(&mut sent.client).await, "");
    for session in [sending, sent] {
        drop((session.client, session.upstream));
        let relayed = session.relayed.await.unwrap();
        assert!(!relayed.dismissed && relayed.end.is_err(), "{relayed:?}");
    }
}
