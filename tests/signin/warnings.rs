//! Warnings before a client secret or certificate ends, under paused time.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use gatepost::attention::Attention;
use gatepost::clock::{Clock, Timestamp};
use gatepost::config::Config;
use gatepost::oauth::watch_expiry;
use gatepost::store::Store;
use tokio::task::JoinHandle;
use tokio::time::advance;

use crate::attention::{Call, calls, on_attention};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Round trips to the store after which the watcher has come to rest: more than one look at an app makes.
const ROUNDS: usize = 20;

/// The proxy's watcher, its clock, and what it has told.
struct Watch {
    folder: tempfile::TempDir,
    clock: Clock,
    store: Store,
    task: JoinHandle<()>,
    /// tokio's time does not run by itself while a blocking task is busy: one waits for this to be dropped.
    _busy: mpsc::Sender<()>,
}

impl Watch {
    /// `credential` is a key of the app, with relative paths; `prepare` writes its files.
    async fn new(credential: &str, prepare: impl FnOnce(&Path)) -> Self {
        let (busy, idle) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || idle.recv());
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let text = format!(
            "state_dir = \"state\"\n{}\n[app.lab]\ntenant = \"t\"\nclient_id = \"x\"\n\
             grant = \"client_credentials\"\n{credential}\n\
             [[account]]\nmailbox = \"a@x.example\"\napp = \"lab\"\n\
             [[account]]\nmailbox = \"b@x.example\"\napp = \"lab\"\n",
            on_attention(&folder.path().join("calls")),
        );
        std::fs::write(folder.path().join("gatepost.toml"), text).unwrap();
        let store = Store::open(&folder.path().join("state"), None).await.unwrap();
        let clock = Clock::with_tokio();
        let task = start(folder.path().join("gatepost.toml"), &clock).await;
        Self { folder, clock, store, task, _busy: busy }
    }

    async fn restart(&mut self) {
        self.task.abort();
        self.task = start(self.folder.path().join("gatepost.toml"), &self.clock).await;
    }

    /// Lets a day pass, in which the watcher looks at least once.
    async fn day(&self) {
        self.clock.set_off(i64::try_from((DAY - HOUR).as_millis()).unwrap());
        advance(HOUR).await;
    }

    fn calls(&self) -> Vec<Call> {
        calls(&self.folder.path().join("calls"))
    }

    /// Waits until the watcher is at rest, and `count` calls have been made in all.
    async fn told(&self, count: usize) {
        for round in 0.. {
            self.store.version().await.unwrap();
            tokio::task::yield_now().await;
            if round >= ROUNDS && self.calls().len() >= count {
                break;
            }
            // The command runs in real time.
            std::thread::sleep(Duration::from_millis(2));
            assert!(round < 5_000, "{count} calls: {:?}", self.calls());
        }
        assert_eq!(self.calls().len(), count, "{:?}", self.calls());
    }
}

async fn start(file: PathBuf, clock: &Clock) -> JoinHandle<()> {
    let config = Config::load(&file).unwrap();
    let store = Store::open(&config.state_dir, None).await.unwrap();
    let attention = Attention::new(config.on_attention.clone(), config.secret_variables());
    let clock = clock.clone();
    tokio::spawn(async move { watch_expiry(&config.accounts, &store, &clock, &attention).await })
}

/// Midnight, so many days from now.
fn midnight(days: u32) -> time::OffsetDateTime {
    let day = time::OffsetDateTime::now_utc() + DAY * days;
    day.replace_time(time::Time::MIDNIGHT)
}

fn secret_that_ends(days: u32) -> String {
    let end = midnight(days).date();
    let (year, month, day) = (end.year(), u8::from(end.month()), end.day());
    format!(
        "client_secret = {{ env = \"PATH\" }}\nclient_secret_expires = {year}-{month:02}-{day:02}"
    )
}

/// A certificate of the tests' key.
fn write_certificate(folder: &Path, days: u32) {
    let key = rcgen::KeyPair::from_pem(include_str!("keys/app.key")).unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.not_after = midnight(days);
    let certificate = params.self_signed(&key).unwrap();
    let text = format!("{}{}", certificate.pem(), include_str!("keys/app.key"));
    std::fs::write(folder.join("both.pem"), text).unwrap();
}

/// How many warnings there have been when the credential ends in less than so many days.
fn stages(days: u32) -> usize {
    [30, 7, 1, 0].into_iter().filter(|stage| days <= *stage).count()
}

#[tokio::test(start_paused = true)]
async fn at_thirty_seven_and_one_days_and_at_the_end() {
    let certificate = "client_certificate = { certificate = \"both.pem\" }".to_owned();
    for credential in [secret_that_ends(33), certificate] {
        let mut watch = Watch::new(&credential, |folder| write_certificate(folder, 33)).await;
        watch.told(0).await;
        for left in (0..=32).rev() {
            watch.day().await;
            watch.told(stages(left)).await;
            if left % 3 == 0 {
                watch.restart().await;
                watch.told(stages(left)).await;
            }
        }
        let end = Timestamp::of_unix_seconds(midnight(33).unix_timestamp()).unwrap().text();
        let calls = watch.calls();
        for call in &calls {
            let [account, reason, remedy] = call.arguments.as_slice() else { panic!("{call:?}") };
            assert_eq!(
                (account.as_str(), &call.environment["GATEPOST_EVENT"][..]),
                ("app lab", "expires_soon")
            );
            assert!(reason.contains(&end), "{reason}, not {end}");
            assert!(remedy.contains("https://entra.microsoft.com"), "{remedy}");
        }
        for words in ["in 30 days or less", "in 7 days or less", "in 1 days or less", "has ended"] {
            let told = calls.iter().filter(|call| call.arguments[1].contains(words)).count();
            assert_eq!(told, 1, "{words}: {calls:?}");
        }
    }
}

/// Whoever starts late is told of the nearest stage alone, and a new certificate is a new beginning.
#[tokio::test(start_paused = true)]
async fn of_the_nearest_stage_and_of_each_new_one() {
    let credential = "client_certificate = { certificate = \"both.pem\" }";
    let watch = Watch::new(credential, |folder| write_certificate(folder, 6)).await;
    watch.told(1).await;
    assert!(watch.calls()[0].arguments[1].contains("in 7 days or less"), "{:?}", watch.calls());
    write_certificate(watch.folder.path(), 90);
    watch.day().await;
    watch.told(1).await;
    write_certificate(watch.folder.path(), 20);
    watch.day().await;
    watch.told(2).await;
    // What can't be read is no end.
    std::fs::remove_file(watch.folder.path().join("both.pem")).unwrap();
    for _ in 0..20 {
        watch.day().await;
    }
    watch.told(2).await;
}

/// Two processes on one store tell it once.
#[tokio::test(start_paused = true)]
async fn once_for_two_processes() {
    let watch = Watch::new(&secret_that_ends(5), |_| {}).await;
    let second = start(watch.folder.path().join("gatepost.toml"), &watch.clock).await;
    watch.told(1).await;
    watch.day().await;
    watch.told(1).await;
    second.abort();
}
