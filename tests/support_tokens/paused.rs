//! The tokens of one principal under paused time, with a scripted token endpoint.
//!
//! SQLite works on a thread of its own, which tokio does not see: paused time would run ahead while a write is
//! under way. So nothing but [`World::pass`] moves it, in small steps, and after each it lets the store come to
//! rest. That needs the current-thread runtime: there each round trip to the store's one connection lets the
//! renewal's next one go first.

use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use futures_util::future::BoxFuture;
use gatepost::attention::Attention;
use gatepost::clock::Clock;
use gatepost::config::{Account, App, Config};
use gatepost::oauth::{
    AccessToken, Answer, Principal, Request, TokenEndpoint, TokenError, Tokens, token_of,
};
use gatepost::protocol::Refusal;
use gatepost::secret::Secret;
use gatepost::store::Store;
use gatepost::vocabulary::{Cause, Resource};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, advance};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Round trips to the store between two steps of time: more than any one thing that a renewal does makes.
const ROUNDS: usize = 12;

/// Which accounts there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An app by itself with two mailboxes.
    Robot,
    /// A person with a mailbox and a shared one.
    Person,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Robot, Kind::Person];

pub(crate) struct World {
    /// The proxy's.
    pub(crate) store: Store,
    /// A command's, or that of a reader.
    pub(crate) command: Store,
    pub(crate) clock: Clock,
    pub(crate) script: Arc<Script>,
    pub(crate) folder: TempDir,
    pub(crate) accounts: Vec<Arc<Account>>,
    tokens: Option<Arc<Tokens>>,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// tokio's time does not run by itself while a blocking task is busy: one waits for this to be dropped.
    _busy: mpsc::Sender<()>,
}

impl World {
    /// A proxy that was not started yet; a person has signed in with refresh token `refresh-0`.
    pub(crate) async fn new(kind: Kind) -> Self {
        let (busy, idle) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || idle.recv());
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::with_tokio();
        let world = Self {
            store: Store::open(folder.path(), None).await.unwrap(),
            command: Store::open(folder.path(), None).await.unwrap(),
            script: Arc::new(Script::default()),
            accounts: accounts(kind, "one", "mail"),
            clock,
            folder,
            tokens: None,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            _busy: busy,
        };
        world.script.usual(Reply::life(3600));
        if kind == Kind::Person {
            world.sign_in(0, Duration::ZERO).await;
        }
        world
    }

    /// The same, started, with its first token.
    pub(crate) async fn started(kind: Kind, reply: Reply) -> Self {
        let mut world = Self::new(kind).await;
        world.script.usual(reply);
        world.start().await;
        assert_eq!(world.login().unwrap().token.expose(), "access-1");
        world
    }

    /// What `gatepost login` does: the tokens are numbered like those of the script.
    pub(crate) async fn sign_in(&self, number: usize, life: Duration) {
        let answer = Answer {
            access_token: Secret::new(format!("access-{number}")),
            refresh_token: Some(Secret::new(format!("refresh-{number}"))),
            expires_in: life,
            refresh_in: None,
        };
        let token = token_of(&self.principal(), answer, None, self.clock.now());
        self.command.replace_token(&self.key(), &token).await.unwrap();
    }

    pub(crate) fn principal(&self) -> Principal {
        Principal::of(&self.accounts[0])
    }

    pub(crate) fn key(&self) -> String {
        self.principal().key()
    }

    /// The refresh token on disk, as another process reads it.
    pub(crate) async fn refresh_token(&self) -> Option<String> {
        let (token, _) = self.command.token(&self.key()).await.unwrap();
        Some(token?.refresh_token?.expose().clone())
    }

    /// As `gatepost status` tells it.
    pub(crate) async fn sign_in_is_needed(&self) -> bool {
        let fault = self.command.fault(&self.key(), Resource::Mail).await.unwrap();
        fault.is_some_and(|fault| fault.cause.is_some())
    }

    pub(crate) fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(self.tokens.as_ref().unwrap())
    }

    /// Goes by the accounts as they are now, as at a reload.
    pub(crate) async fn reload(&self) {
        self.tokens().set(&self.accounts, |_| Arc::clone(&self.script) as Arc<dyn TokenEndpoint>);
        self.settle().await;
    }

    /// Starts the proxy's tokens without waiting for anything.
    pub(crate) fn begin(&mut self) {
        (self.tracker, self.stop) = (TaskTracker::new(), CancellationToken::new());
        let endpoint = |_: &Principal| Arc::clone(&self.script) as Arc<dyn TokenEndpoint>;
        let (accounts, store, clock) = (&self.accounts, &self.store, &self.clock);
        let (tracker, stop) = (&self.tracker, &self.stop);
        let nobody = Attention::default();
        let tokens = Tokens::start(accounts, endpoint, store, clock, &nobody, tracker, stop);
        self.tokens = Some(Arc::new(tokens));
    }

    pub(crate) async fn start(&mut self) {
        self.begin();
        self.settle().await;
    }

    /// Stops it, and starts it with the accounts that there are then.
    pub(crate) async fn restart(&mut self) {
        self.restart_soon().await;
        self.settle().await;
    }

    /// The same, without waiting for anything after the stop.
    pub(crate) async fn restart_soon(&mut self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.begin();
    }

    async fn connect(&self) -> SqliteConnection {
        let file = self.folder.path().join("gatepost.db");
        SqliteConnectOptions::new().filename(file).connect().await.unwrap()
    }

    /// Does to the store what no command does.
    pub(crate) async fn execute(&self, statement: &'static str) {
        let mut connection = self.connect().await;
        sqlx::query(statement).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Nobody can write until this is closed.
    pub(crate) async fn lock(&self) -> SqliteConnection {
        let mut connection = self.connect().await;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
        connection
    }

    /// A login that gets its answer at once; `None` in the error: it would have to wait.
    pub(crate) fn login(&self) -> Result<AccessToken, Option<Refusal>> {
        self.login_to(0)
    }

    pub(crate) fn login_to(&self, account: usize) -> Result<AccessToken, Option<Refusal>> {
        let tokens = self.tokens();
        let mut login = pin!(tokens.get(&self.accounts[account]));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match login.as_mut().poll(&mut context) {
            std::task::Poll::Ready(answer) => answer.map_err(Some),
            std::task::Poll::Pending => Err(None),
        }
    }

    /// A login that neither fails nor waits; it may be told to wait for a better token, while time stands still.
    pub(crate) fn patient(&self) -> bool {
        matches!(self.login(), Ok(_) | Err(None))
    }

    /// A login that waits as long as nothing but the store and the script keep it waiting.
    pub(crate) async fn patient_login(&self) -> Result<String, Option<Refusal>> {
        let tokens = self.tokens();
        tokio::select! {
            biased;
            answer = tokens.get(&self.accounts[0]) => {
                answer.map(|token| token.token.expose().clone()).map_err(Some)
            }
            () = self.settle() => Err(None),
        }
    }

    /// Lets `time` pass in steps, each followed by `each`.
    pub(crate) async fn pass(&self, time: Duration, step: Duration, mut each: impl FnMut()) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            advance(step.min(end - Instant::now())).await;
            self.settle().await;
            each();
        }
    }

    pub(crate) async fn seconds(&self, seconds: u64) {
        self.pass(Duration::from_secs(seconds), Duration::from_secs(5), || {}).await;
    }

    /// Waits until the store and the tasks are at rest.
    pub(crate) async fn settle(&self) {
        for _ in 0..ROUNDS {
            self.store.version().await.unwrap();
            tokio::task::yield_now().await;
        }
    }
}

/// Accounts of `kind` whose app has this client id and scope.
pub(crate) fn accounts(kind: Kind, client_id: &str, scope: &str) -> Vec<Arc<Account>> {
    accounts_via(kind, client_id, scope, "[\"smtp\"]")
}

/// The same; the mail of the second goes out by these ways.
pub(crate) fn accounts_via(
    kind: Kind,
    client_id: &str,
    scope: &str,
    via: &str,
) -> Vec<Arc<Account>> {
    accounts_with(kind, client_id, scope, via, "{ env = \"PATH\" }")
}

/// The same, with this client secret.
pub(crate) fn accounts_with(
    kind: Kind,
    client_id: &str,
    scope: &str,
    via: &str,
    secret: &str,
) -> Vec<Arc<Account>> {
    let (grant, owner) = match kind {
        Kind::Robot => ("client_credentials", ""),
        Kind::Person => ("device_code", "signed_in_as = \"jane@contoso.example\"\n"),
    };
    let text = format!(
        "state_dir = \"state\"\n\
         [app.lab]\nprovider = \"lab\"\nclient_id = \"{client_id}\"\nscopes = [\"{scope}\"]\n\
         grant = \"{grant}\"\nclient_secret = {secret}\n\
         [[account]]\nmailbox = \"jane@contoso.example\"\napp = \"lab\"\n\
         [[account]]\nmailbox = \"sales@contoso.example\"\napp = \"lab\"\n{owner}\
         via = {via}\n\
         [provider.lab]\ntoken_url = \"http://127.0.0.1:1/token\"\n\
         graph = \"http://127.0.0.1:1/v1.0\"\n\
         graph_scopes = [\"https://graph.example/Mail.Send\", \"offline_access\"]\n\
         graph_app_scopes = [\"https://graph.example/.default\"]\n"
    );
    Config::parse(Path::new("gatepost.toml"), &text).unwrap().accounts
}

/// One answer of the script.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A token with the number of the request, which lives so long.
    Token(Duration, Option<Duration>),
    Fail(TokenError),
}

impl Reply {
    pub(crate) fn life(seconds: u64) -> Self {
        Self::Token(Duration::from_secs(seconds), None)
    }

    pub(crate) fn transient() -> Self {
        Self::Fail(TokenError::transient("out of order"))
    }

    pub(crate) fn permanent() -> Self {
        Self::Fail(TokenError::permanent("invalid_grant", Cause::SignIn))
    }
}

/// A request as the script saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    pub(crate) resource: Resource,
    pub(crate) refresh_token: Option<String>,
}

/// A token endpoint that answers as it is told.
pub(crate) struct Script {
    state: Mutex<State>,
    open: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    under_way: usize,
    most_under_way: usize,
    next: VecDeque<Reply>,
    usual: Option<Reply>,
    no_graph: Option<Reply>,
}

impl Default for Script {
    fn default() -> Self {
        Self { state: Mutex::default(), open: watch::Sender::new(true) }
    }
}

impl Script {
    /// What all requests come to, unless there is something [`Self::next`].
    pub(crate) fn usual(&self, reply: Reply) {
        self.state().usual = Some(reply);
    }

    /// What all requests for Microsoft Graph come to.
    pub(crate) fn graph(&self, reply: Option<Reply>) {
        self.state().no_graph = reply;
    }

    pub(crate) fn next(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state().next.extend(replies);
    }

    /// Whether requests are answered; those that wait are, once it is open again.
    pub(crate) fn open(&self, open: bool) {
        self.open.send_replace(open);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.state().asked.len()
    }

    pub(crate) fn most_under_way(&self) -> usize {
        self.state().most_under_way
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn begin(&self, resource: Resource, refresh_token: Option<String>) -> (usize, Reply) {
        let mut state = self.state();
        state.asked.push(Asked { at: Instant::now(), resource, refresh_token });
        state.under_way += 1;
        state.most_under_way = state.most_under_way.max(state.under_way);
        let refused = state.no_graph.clone().filter(|_| resource == Resource::Graph);
        let reply = refused.or_else(|| state.next.pop_front()).or_else(|| state.usual.clone());
        (state.asked.len(), reply.unwrap())
    }
}

impl TokenEndpoint for Script {
    fn request<'a>(
        &'a self,
        _: &'a App,
        scopes: &'a [String],
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Answer, TokenError>> {
        let graph = scopes.iter().any(|scope| scope.contains("graph"));
        let resource = if graph { Resource::Graph } else { Resource::Mail };
        let refresh_token = match request {
            Request::Refresh(token) => Some(token.expose().clone()),
            _ => None,
        };
        Box::pin(async move {
            let rotates = refresh_token.is_some();
            let (number, reply) = self.begin(resource, refresh_token);
            self.open.subscribe().wait_for(|open| *open).await.unwrap();
            self.state().under_way -= 1;
            match reply {
                Reply::Fail(error) => Err(error),
                Reply::Token(expires_in, refresh_in) => Ok(Answer {
                    access_token: Secret::new(format!("access-{number}")),
                    refresh_token: rotates.then(|| Secret::new(format!("refresh-{number}"))),
                    expires_in,
                    refresh_in,
                }),
            }
        })
    }
}
