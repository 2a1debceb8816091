//! The provider's limits are kept, not hit: connections, messages a minute, recipients a day, and the pauses it
//! asks for.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gatepost::attention::Attention;
use gatepost::clock::Clock;
use gatepost::config::{Account, Config};
use gatepost::pace::{Pace, Turn};
use gatepost::protocol::Refusal;
use gatepost::store::Store;
use gatepost::vocabulary::Protocol::{Imap, Pop3, Smtp};
use tempfile::TempDir;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, advance, pause, sleep};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct World {
    pace: Arc<Pace>,
    config: Config,
    store: Store,
    _folder: TempDir,
}

impl World {
    /// With `limits` of the account, a person's mailbox that she shares, and paused time.
    async fn new(limits: &str, attention: Attention) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[app.a]\nclient_id = \"x\"\n\
             [[account]]\nmailbox = \"Jane@contoso.example\"\napp = \"a\"\nlimits = {{ {limits} }}\n\
             [[account]]\nmailbox = \"sales@contoso.example\"\nsigned_in_as = \"jane@contoso.example\"\napp = \"a\"\n\
             [[account]]\nmailbox = \"joe@contoso.example\"\napp = \"a\"\n\
             [[device]]\nname = \"scanner\"\nnetworks = [\"127.0.0.1\"]\nmailbox = \"joe@contoso.example\"\nrate = 2\n"
        );
        let config = Config::parse(Path::new("gatepost.toml"), &text).unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        // SQLite works on a thread that paused time does not wait for: nothing below asks it.
        pause();
        let pace = Pace::new(store.clone(), Clock::with_tokio(), attention);
        Self { pace, config, store, _folder: folder }
    }

    fn account(&self, name: &str) -> Arc<Account> {
        self.config.account(&format!("{name}@contoso.example")).unwrap()
    }

    async fn turn(&self, name: &str) -> Result<Turn, Refusal> {
        self.pace.turn_within(&self.account(name), Smtp).await
    }
}

async fn quiet(limits: &str) -> World {
    World::new(limits, Attention::default()).await
}

#[tokio::test]
async fn connections_come_in_order_and_are_bounded() {
    let world = quiet("connections = 2, wait = \"100s\"").await;
    let first = world.turn("jane").await.unwrap();
    // A shared mailbox submits as its person, and by her limits.
    let second = world.turn("sales").await.unwrap();
    let other = world.turn("joe").await.unwrap();
    assert!(!first.wanted() && !second.wanted() && !other.wanted());
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for number in 0..3 {
        let (pace, account) = (Arc::clone(&world.pace), world.account("jane"));
        let order = Arc::clone(&order);
        waiting.push(tokio::spawn(async move {
            let turn = pace.turn_within(&account, Smtp).await;
            order.lock().unwrap().push(number);
            turn
        }));
        yield_now().await;
    }
    assert!(first.wanted() && second.wanted() && !other.wanted());
    waiting.remove(1).abort();
    drop(first);
    sleep(seconds(1)).await;
    assert_eq!(*order.lock().unwrap(), [0]);
    drop(waiting.remove(0).await.unwrap());
    let last = waiting.remove(0).await.unwrap().unwrap();
    assert_eq!(*order.lock().unwrap(), [0, 2], "who gave up is not in the way");
    let start = Instant::now();
    let Err(Refusal::NoTurn { reason }) = world.turn("jane").await else { panic!("a third one") };
    assert_eq!(start.elapsed().as_secs(), 100);
    assert!(reason.contains("2 connections that jane@contoso.example"), "{reason}");
    assert!(!last.wanted(), "nobody waits any more");
    let used = world.pace.usage();
    assert_eq!(used[0].mailbox, "jane@contoso.example");
    assert_eq!((used[0].connections, used[0].waiting), ((2, Some(2)), 0));
    assert_eq!((used[1].connections, used.len()), ((1, Some(3)), 2));
}

#[tokio::test]
async fn no_limit_is_none() {
    let world = quiet("connections = 0, messages_per_minute = 0").await;
    let mut turns = Vec::new();
    let start = Instant::now();
    for _ in 0..100 {
        let turn = world.turn("jane").await.unwrap();
        turn.message().await;
        turns.push(turn);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// The bar: Exchange's limits, and forty devices that send three messages each at once.
#[tokio::test]
async fn forty_devices_at_eight_in_the_morning() {
    let world = quiet("").await;
    let (counted, logged_in) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let mut devices = JoinSet::new();
    let start = Instant::now();
    for device in 0..40_u64 {
        let (pace, account) = (Arc::clone(&world.pace), world.account("jane"));
        let (counted, logged_in) = (Arc::clone(&counted), Arc::clone(&logged_in));
        devices.spawn(async move {
            let turn = pace.turn_within(&account, Smtp).await.expect("a turn within the bound");
            assert!(logged_in.fetch_add(1, Ordering::Relaxed) < 3, "connections");
            for message in 0..3 {
                turn.message().await;
                // The provider counts a message somewhere between its beginning and its end.
                let length = Duration::from_millis(200 + 350 * ((device + message) % 5));
                sleep(length / 3).await;
                counted.lock().unwrap().push(Instant::now());
                sleep(length / 3 * 2).await;
                turn.message_done();
            }
            logged_in.fetch_sub(1, Ordering::Relaxed);
        });
    }
    devices.join_all().await;
    let mut counted = counted.lock().unwrap().clone();
    counted.sort();
    assert_eq!(counted.len(), 120);
    for stretch in counted.windows(31) {
        assert!(stretch[30] - stretch[0] >= seconds(60), "31 messages in a minute");
    }
    // As fast as the limits let them: the fourth thirty begins in the fourth minute.
    assert!(start.elapsed() < seconds(220), "{:?}", start.elapsed());
}

#[tokio::test]
async fn what_the_provider_asks_for_is_held() {
    let world = quiet("wait = \"100s\"").await;
    let (pace, jane) = (&world.pace, world.account("jane"));
    let waited = async |protocol| {
        let start = Instant::now();
        drop(pace.turn_within(&jane, protocol).await.unwrap());
        start.elapsed().as_secs_f64().round()
    };
    // Without a time: longer each time that it was too short, up to a minute, and short again much later.
    for wanted in [3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0] {
        pace.hold(&jane, Smtp, None);
        // Those that were under way hear it too.
        pace.hold(&jane, Smtp, None);
        assert_eq!(waited(Smtp).await, wanted);
    }
    advance(seconds(301)).await;
    pace.hold(&jane, Smtp, None);
    assert_eq!(waited(Smtp).await, 3.0);
    // With a time: for exactly as long, and by this protocol alone.
    pace.hold(&jane, Imap, Some(Duration::from_millis(15_000)));
    assert_eq!((waited(Smtp).await, waited(Pop3).await), (0.0, 0.0));
    assert!(pace.turn_within(&world.account("joe"), Imap).await.is_ok());
    let used = &pace.usage()[0];
    assert_eq!(used.held.len(), 1);
    assert_eq!(used.held[0].0, Imap);
    assert_eq!(waited(Imap).await, 15.0);
    assert_eq!(pace.usage()[0].held, []);
    // Longer than a client waits: at once.
    pace.hold(&jane, Imap, Some(seconds(30)));
    pace.hold(&jane, Smtp, Some(seconds(101)));
    let start = Instant::now();
    let Err(Refusal::UpstreamBusy { said }) = pace.turn_within(&jane, Imap).await else { panic!() };
    assert!(said.contains("30 seconds"), "{said}");
    let Err(Refusal::NoTurn { reason }) = world.turn("jane").await else { panic!() };
    assert!(reason.contains("101 seconds"), "{reason}");
    assert_eq!(start.elapsed(), Duration::ZERO);
    // The spool waits without a bound.
    drop(pace.turn(&jane).await);
    assert_eq!(start.elapsed().as_secs(), 101);
    // Nonsense of a server's does no harm.
    pace.hold(&jane, Smtp, Some(Duration::MAX));
    assert!(world.turn("jane").await.is_err());
}

#[tokio::test]
async fn a_message_waits_for_the_minute_and_for_the_hold() {
    let world = quiet("messages_per_minute = 2").await;
    let turn = world.turn("jane").await.unwrap();
    let start = Instant::now();
    for wanted in [0, 0, 61] {
        turn.message().await;
        turn.message_done();
        assert_eq!(start.elapsed().as_secs(), wanted);
    }
    assert_eq!(world.pace.usage()[0].messages, (1, Some(2)), "the first two are over");
    world.pace.hold(&world.account("jane"), Smtp, Some(seconds(90)));
    let start = Instant::now();
    turn.message().await;
    assert_eq!(start.elapsed().as_secs(), 90);
}

#[tokio::test]
async fn a_device_has_a_rate_of_its_own() {
    let world = quiet("").await;
    let device = world.config.device("127.0.0.1".parse().unwrap()).unwrap();
    let may = || world.pace.device_may_send(device);
    assert_eq!([may(), may(), may()], [true, true, false]);
    advance(seconds(59)).await;
    assert!(!may());
    advance(seconds(2)).await;
    assert_eq!([may(), may(), may()], [true, true, false]);
}

#[cfg(unix)]
#[tokio::test]
async fn people_are_told_once_that_the_day_is_nearly_used_up() {
    let folder = tempfile::tempdir().unwrap();
    let calls = folder.path().join("calls");
    let script = format!("echo \"$GATEPOST_EVENT|$0|$1|$2\" >> {}", calls.display());
    let attention = Attention::new(vec!["/bin/sh".into(), "-c".into(), script], Vec::new());
    let world = World::new("recipients_per_day = 1000", attention).await;
    tokio::time::resume();
    let turn = world.turn("jane").await.unwrap();
    let read = async |lines: usize| {
        for _ in 0..200 {
            let text = std::fs::read_to_string(&calls).unwrap_or_default();
            if text.lines().count() >= lines {
                return text;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody was called");
    };
    turn.recipients(899);
    turn.recipients(1);
    turn.recipients(50);
    let text = read(1).await;
    assert!(text.starts_with("recipients_limit|jane@contoso.example|900 of 1000 recip"), "{text}");
    assert_eq!(world.pace.usage()[0].recipients, (950, Some(1000)));
    let (jane, said) = (world.account("jane"), "554 5.2.0 SubmissionQuotaExceededException");
    world.pace.recipients_used_up(&jane, said);
    world.pace.recipients_used_up(&jane, said);
    let text = read(2).await;
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains(said), "{text}");
    // They outlive a restart.
    world.pace.save().await.unwrap();
    let anew = Pace::new(world.store.clone(), Clock::system(), Attention::default());
    anew.load().await.unwrap();
    drop(anew.turn(&jane).await);
    assert_eq!(anew.usage()[0].recipients, (950, Some(1000)));
}
