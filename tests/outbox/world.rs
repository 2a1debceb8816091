//! A spool, a delivery, and a provider that says what a test wants.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use gatepost::attention::Attention;
use gatepost::clock::{Clock, Timestamp};
use gatepost::config::{Config, SenderRule};
use gatepost::outbox::{
    Courier, Entry, Message, Outbox, OutboxParts, Outcome, Source, Spool, Verdict,
};
use gatepost::protocol::{Envelope, Recipient};
use gatepost::vocabulary::Way;
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) const JANE: &str = "jane@contoso.example";
pub(crate) const SALES: &str = "sales@contoso.example";
pub(crate) const TO: &str = "post@fabrikam.example";
pub(crate) const NOTIFY: &str = "admin@contoso.example";

/// Two mailboxes; Jane's mail goes by SMTP, then by Graph.
const CONFIG: &str = r#"
state_dir = "state"
[app.lab]
provider = "lab"
client_id = "one"
client_secret = { env = "PATH" }
grant = "client_credentials"
[[account]]
mailbox = "jane@contoso.example"
app = "lab"
via = ["smtp", "graph"]
notify = "admin@contoso.example"
[[account]]
mailbox = "sales@contoso.example"
app = "lab"
[provider.lab]
token_url = "http://127.0.0.1:1/token"
smtp = "localhost:1"
graph = "http://127.0.0.1:1/v1.0"
scopes = ["mail"]
app_scopes = ["mail"]
graph_app_scopes = ["graph"]
"#;

pub(crate) fn config() -> Config {
    Config::parse(Path::new("gatepost.toml"), CONFIG).unwrap()
}

/// An attempt at the provider.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) way: Way,
    pub(crate) mailbox: String,
    /// The message's subject.
    pub(crate) subject: String,
    pub(crate) recipients: Vec<String>,
    pub(crate) at: Timestamp,
    /// From the first on.
    pub(crate) number: usize,
}

type Answer = Box<dyn Fn(&Attempt) -> Outcome + Send + Sync>;

/// What a provider says to all, and what it has taken.
pub(crate) struct Provider {
    clock: Clock,
    answer: Mutex<Answer>,
    /// How long it thinks.
    pub(crate) delay: Mutex<Duration>,
    attempts: Mutex<Vec<Attempt>>,
    /// Subject, recipient and time of what it has taken.
    taken: Mutex<Vec<(String, String, Timestamp)>>,
}

impl Provider {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            answer: Mutex::new(Box::new(taken)),
            delay: Mutex::new(Duration::from_millis(20)),
            attempts: Mutex::default(),
            taken: Mutex::default(),
        })
    }

    pub(crate) fn says(&self, answer: impl Fn(&Attempt) -> Outcome + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap().clone()
    }

    /// Subject and recipient, in order.
    pub(crate) fn taken(&self) -> Vec<(String, String)> {
        self.taken_at().into_iter().map(|(subject, to, _)| (subject, to)).collect()
    }

    pub(crate) fn taken_at(&self) -> Vec<(String, String, Timestamp)> {
        self.taken.lock().unwrap().clone()
    }

    pub(crate) fn subjects(&self) -> Vec<String> {
        self.taken().into_iter().map(|(subject, _)| subject).collect()
    }

    /// How often each recipient got each message.
    pub(crate) fn counts(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for taken in self.taken() {
            *counts.entry(taken).or_default() += 1;
        }
        counts
    }

    async fn take(&self, way: Way, mailbox: &str, message: &mut Message) -> Outcome {
        let octets = message.content.read_all().await.unwrap();
        assert_eq!(octets.len() as u64, message.content.size);
        let text = String::from_utf8_lossy(&octets).into_owned();
        let subject = text.lines().find_map(|line| line.strip_prefix("Subject: "));
        let recipients = message.envelope.recipients.iter();
        let mut attempt = Attempt {
            way,
            mailbox: mailbox.to_owned(),
            subject: subject.unwrap_or_default().to_owned(),
            recipients: recipients.map(|to| to.address.clone()).collect(),
            at: self.clock.now(),
            number: 0,
        };
        {
            let mut attempts = self.attempts.lock().unwrap();
            attempt.number = attempts.len();
            attempts.push(attempt.clone());
        }
        let delay = *self.delay.lock().unwrap();
        sleep(delay / 2).await;
        let outcome = (self.answer.lock().unwrap())(&attempt);
        if let Outcome::Answered(verdicts) = &outcome {
            assert_eq!(verdicts.len(), attempt.recipients.len());
            let taken = attempt.recipients.iter().zip(verdicts);
            let taken = taken.filter(|(_, verdict)| matches!(verdict, Verdict::Delivered(_)));
            let now = self.clock.now();
            let row = |(to, _): (&String, &Verdict)| (attempt.subject.clone(), to.clone(), now);
            self.taken.lock().unwrap().extend(taken.map(row));
        }
        sleep(delay / 2).await;
        outcome
    }
}

pub(crate) fn taken(attempt: &Attempt) -> Outcome {
    Outcome::Answered(vec![Verdict::Delivered("250 2.0.0 OK".into()); attempt.recipients.len()])
}

pub(crate) fn later(attempt: &Attempt) -> Outcome {
    Outcome::Answered(vec![Verdict::Later("451 4.7.1 not now".into()); attempt.recipients.len()])
}

pub(crate) fn refused(attempt: &Attempt) -> Outcome {
    Outcome::Answered(vec![Verdict::Refused("550 5.1.1 nobody".into()); attempt.recipients.len()])
}

pub(crate) fn held(wait: Option<Duration>) -> Outcome {
    Outcome::Held { reason: "no connection".into(), wait, remedy: None }
}

struct Scripted {
    provider: Arc<Provider>,
    way: Way,
    mailbox: String,
}

impl Courier for Scripted {
    fn send<'a>(&'a mut self, message: &'a mut Message) -> BoxFuture<'a, Outcome> {
        Box::pin(async { self.provider.take(self.way, &self.mailbox, message).await })
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) config: Arc<Config>,
    pub(crate) spool: Spool,
    pub(crate) clock: Clock,
    pub(crate) provider: Arc<Provider>,
    pub(crate) outbox: Outbox,
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) cut: CancellationToken,
}

impl World {
    /// Under paused time.
    pub(crate) fn paused() -> Self {
        Self::new(Clock::with_tokio(), config())
    }

    pub(crate) fn new(clock: Clock, config: Config) -> Self {
        let provider = Provider::new(clock.clone());
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::start(folder, clock, Arc::new(config), provider, Attention::default())
    }

    pub(crate) fn start(
        folder: Arc<TempDir>,
        clock: Clock,
        config: Arc<Config>,
        provider: Arc<Provider>,
        attention: Attention,
    ) -> Self {
        let spool = Spool::open(folder.path(), &config.spool, clock.clone()).unwrap();
        let (tracker, stop, cut) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let says = Arc::clone(&provider);
        let outbox = Outbox::start(OutboxParts {
            config: Arc::clone(&config),
            spool: spool.clone(),
            couriers: Arc::new(move |way, account| {
                let (provider, mailbox) = (Arc::clone(&says), account.mailbox.clone());
                Some(Box::new(Scripted { provider, way, mailbox }))
            }),
            clock: clock.clone(),
            attention,
            tracker: tracker.clone(),
            stop: stop.clone(),
            cut: cut.clone(),
        });
        Self { folder, config, spool, clock, provider, outbox, tracker, stop, cut }
    }

    /// Stops, and starts anew on what is there.
    pub(crate) async fn restarted(self) -> Self {
        self.end().await;
        let Self { folder, config, clock, provider, .. } = self;
        Self::start(folder, clock, config, provider, Attention::default())
    }

    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    pub(crate) async fn put(&self, device: &str, subject: &str) -> Entry {
        self.put_for(JANE, device, subject, &[TO]).await
    }

    pub(crate) async fn put_for(
        &self,
        mailbox: &str,
        device: &str,
        subject: &str,
        to: &[&str],
    ) -> Entry {
        let entry = put(&self.spool, mailbox, device, subject, to).await;
        self.outbox.arrived(entry.clone());
        entry
    }

    /// Until nothing waits.
    pub(crate) async fn drained(&self, limit: Duration) {
        let start = self.clock.now();
        while !self.spool.waiting().await.unwrap().is_empty() {
            let waited = self.clock.now().saturating_since(start);
            assert!(waited < limit, "still waiting: {:?}", self.spool.waiting().await.unwrap());
            sleep((limit / 1000).max(Duration::from_millis(50))).await;
        }
        // The dispatcher hears of the last one too.
        sleep(Duration::from_millis(50)).await;
    }

    /// Until there are so many attempts.
    pub(crate) async fn tried(&self, count: usize, limit: Duration) {
        let start = self.clock.now();
        while self.provider.attempts().len() < count {
            let waited = self.clock.now().saturating_since(start);
            assert!(waited < limit, "{count} attempts: {:?}", self.provider.attempts());
            sleep((limit / 10_000).max(Duration::from_millis(10))).await;
        }
        sleep(Duration::from_millis(100)).await;
    }

    pub(crate) async fn waiting(&self) -> Vec<Entry> {
        self.spool.waiting().await.unwrap()
    }

    pub(crate) async fn failed(&self) -> Vec<Entry> {
        self.spool.failed().await.unwrap()
    }
}

pub(crate) async fn put(
    spool: &Spool,
    mailbox: &str,
    device: &str,
    subject: &str,
    to: &[&str],
) -> Entry {
    let source = Source {
        mailbox: mailbox.into(),
        device: device.into(),
        peer: None,
        sender: SenderRule::Keep,
    };
    let recipient = |to: &&str| Recipient { address: (*to).into(), parameters: Vec::new() };
    let envelope = Envelope {
        sender: mailbox.into(),
        parameters: Vec::new(),
        recipients: to.iter().map(recipient).collect(),
    };
    let message = format!("From: {mailbox}\r\nTo: {TO}\r\nSubject: {subject}\r\n\r\nscan\r\n");
    spool.enqueue(source, envelope, message.as_bytes(), false).await.unwrap()
}

pub(crate) fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}
