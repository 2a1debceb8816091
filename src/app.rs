//! From a configuration to a running proxy: open, bind, wire, run until stopped.
//!
//! Invariant: nothing listens before everything else is in order, and every task hangs on one tracker and
//! ends by one token.

mod certificates;
mod doors;
mod providers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::access::Access;
use crate::attention::Attention;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Listener};
use crate::connection::{Door, Gate};
use crate::lobby::Lobby;
use crate::net::{CertificateSource, ServerTls};
use crate::oauth::{Tokens, watch_expiry};
use crate::outbox::{Outbox, OutboxParts, Spool};
use crate::pace::{COUNTED, Pace};
use crate::sessions::Sessions;
use crate::store::{LiveSessions, SessionBoard, Store};
use crate::vocabulary::Protocol;
use certificates::Certificates;
use doors::{accept, bind_all, refuse_open_door};
use providers::Providers;

/// How often the store is asked whether another process has written: a new password or sign-in counts
/// within a second.
const WATCH: Duration = Duration::from_millis(250);

/// How often the live sessions are shown at most.
const SHOW: Duration = Duration::from_secs(1);

/// How long sessions may go on after a stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long a token request that is under way at a stop may take: as long as it has in all. Its answer may be
/// the only valid refresh token.
const LAST_REQUEST: Duration = Duration::from_secs(15);

/// A running proxy.
pub struct App {
    listening: Vec<(Protocol, SocketAddr)>,
    store: Store,
    pace: Arc<Pace>,
    tracker: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl App {
    /// Starts; when it returns, all listeners accept.
    pub async fn start(config: Config, clock: Clock) -> Result<Self> {
        let config = Arc::new(config);
        let store = Store::open(&config.state_dir, config.key_file.as_deref()).await?;
        let access = Access::open(store.clone()).await?;
        access.set_guard(&config.guard);
        refuse_open_door(&config, &access)?;
        let spool = Spool::open(&config.state_dir, &config.spool, clock.clone())?;
        let mut providers = Providers::default();
        let sockets = bind_all(&config)?;
        let (tracker, stop, cut) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let attention = Attention::new(config.on_attention.clone(), config.secret_variables());
        let endpoints = providers.token_endpoints(&config)?;
        let tokens = Arc::new(Tokens::start(
            &config.accounts,
            |principal| Arc::clone(&endpoints[&principal.app.provider.name]),
            &store,
            &clock,
            &attention,
            &tracker,
            &stop,
        ));
        let pace = Pace::new(store.clone(), clock.clone(), attention.clone());
        pace.load().await?;
        remember_minute(&config, &spool, &pace, clock.now());
        let outbox = Outbox::start(OutboxParts {
            config: Arc::clone(&config),
            spool: spool.clone(),
            couriers: providers.couriers(&config, &tokens, &pace, &stop)?,
            clock: clock.clone(),
            attention: attention.clone(),
            tracker: tracker.clone(),
            stop: stop.clone(),
            cut: cut.clone(),
        });
        let gate = Arc::new(Gate {
            config: Arc::clone(&config),
            access,
            tokens,
            pace: Arc::clone(&pace),
            spool,
            outbox,
            sessions: Arc::new(Sessions::default()),
            lobby: Lobby::new(&config.guard),
            stop: stop.clone(),
            cut: cut.clone(),
        });
        let mut app = Self { listening: Vec::new(), store, pace, tracker, stop, cut };
        let certificates = Arc::new(Certificates::default());
        app.open_doors(sockets, &gate, &mut providers, &certificates)?;
        app.spawn(certificates.watch(clock.clone()));
        app.watch(gate, clock, attention);
        Ok(app)
    }

    /// Where it listens.
    pub fn listening(&self) -> &[(Protocol, SocketAddr)] {
        &self.listening
    }

    /// Stops listening, gives sessions a little time, ends them, and closes the store.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tracker.close();
        if timeout(GRACE, self.tracker.wait()).await.is_err() {
            self.cut.cancel();
            // What is left then is stuck, and ends with the process.
            let _ = timeout(LAST_REQUEST, self.tracker.wait()).await;
        }
        if let Err(failure) = self.pace.save().await {
            warn!(failure = failure.brief(), "the day's recipients can't be written");
        }
        self.store.close().await;
    }

    /// What goes on beside the connections.
    fn watch(&self, gate: Arc<Gate>, clock: Clock, attention: Attention) {
        let (config, sessions) = (Arc::clone(&gate.config), Arc::clone(&gate.sessions));
        let (store, pace) = (self.store.clone(), Arc::clone(&self.pace));
        self.spawn(watch_store(store.clone(), gate));
        self.spawn(show_sessions(config.state_dir.clone(), sessions, Arc::clone(&pace)));
        self.spawn(async move { pace.keep_saving().await });
        let (watched, told) = (store.clone(), attention.clone());
        self.spawn(async move { watched.watch(&told).await });
        self.spawn(async move { watch_expiry(&config.accounts, &store, &clock, &attention).await });
    }

    /// Runs a task until the stop.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move { stop.run_until_cancelled(task).await });
    }

    fn open_doors(
        &mut self,
        sockets: Vec<(Arc<Listener>, TcpListener)>,
        gate: &Arc<Gate>,
        providers: &mut Providers,
        certificates: &Certificates,
    ) -> Result<()> {
        let mut doors = Vec::new();
        let ids = Arc::new(AtomicU64::new(1));
        for (listener, socket) in sockets {
            let Listener { protocol, upstream, provider, .. } = &*listener;
            let server = providers.server(*protocol, upstream, provider)?;
            let tls = certificates.of(&gate.config, &listener)?;
            self.listening.push((listener.protocol, socket.local_addr()?));
            doors.push((Arc::new(Door { listener, server, tls, gate: Arc::clone(gate) }), socket));
        }
        for server in providers.servers(Protocol::Smtp) {
            let server = Arc::clone(server);
            self.spawn(async move { drop(server.keywords().await) });
        }
        for (door, socket) in doors {
            let (tracker, ids) = (self.tracker.clone(), Arc::clone(&ids));
            self.spawn(accept(door, socket, tracker, ids));
        }
        Ok(())
    }
}

/// The provider counts what went out just before a restart.
fn remember_minute(config: &Config, spool: &Spool, pace: &Pace, now: Timestamp) {
    for event in spool.journal().delivered_since(now.minus(COUNTED)) {
        if let Some(account) = config.account(&event.mailbox) {
            pace.remember(&account, now.saturating_since(event.at));
        }
    }
}

async fn watch_store(store: Store, gate: Arc<Gate>) {
    let mut seen = None;
    let mut readable = true;
    loop {
        match look_at_store(&store, &gate, &mut seen).await {
            Err(error) if readable => warn!(%error, "the store can't be read; trying again"),
            Ok(()) if !readable => info!("the store can be read again"),
            _ => {}
        }
        readable = seen.is_some();
        sleep(WATCH).await;
    }
}

/// Takes over what another process has written since the version `seen`, which is none after a failure.
async fn look_at_store(store: &Store, gate: &Gate, seen: &mut Option<i64>) -> Result<()> {
    let former = seen.take();
    let version = store.version().await?;
    if former != Some(version) {
        gate.access.refresh().await?;
        gate.tokens.store_changed();
        gate.outbox.wake();
    }
    *seen = Some(version);
    Ok(())
}

async fn show_sessions(state_dir: PathBuf, sessions: Arc<Sessions>, pace: Arc<Pace>) {
    let board = match SessionBoard::open(&state_dir) {
        Ok(board) => board,
        Err(error) => {
            warn!(%error, "gatepost status will not show the sessions");
            return;
        }
    };
    let mut shown = None;
    loop {
        let live = LiveSessions { limits: pace.usage(), ..sessions.live() };
        if shown.as_ref() != Some(&live) {
            if let Err(error) = board.show(&live).await {
                warn!(%error, "gatepost status will not show the sessions");
            }
            shown = Some(live);
        }
        sleep(SHOW).await;
        // Sessions are shown as they come and go; what they use meanwhile, some time.
        let _ = timeout(SHOW, sessions.changed()).await;
    }
}

/// Reads the files that the configuration names, as a start would.
pub fn check_files(config: &Config) -> Result<()> {
    let mut providers = Providers::default();
    for listener in &config.listeners {
        providers.trust(&listener.provider)?;
        if let Some(files) = &listener.certificate {
            ServerTls::open(CertificateSource::given(files))
                .with_context(|| format!("{}, line {}", config.file.display(), listener.line))?;
        }
    }
    providers.token_endpoints(config).map(drop)
}
