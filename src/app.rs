//! From a configuration to a running proxy: open, plan, apply, run until stopped.
//!
//! A start and a reload go the same way: [`App::plan`] does all that may fail, and changes nothing; [`App::apply`] puts
//! it in force. A connection keeps the configuration that it began with: its [`Gate`]. What lives longer than a
//! configuration (passwords, tokens, counts, the spool, who is logged in) is the same in all Gates.
//!
//! Invariant: nothing is accepted before everything else is in order, a configuration is in force as a whole or not at
//! all, and every task hangs on one tracker and ends by one token.

mod certificates;
mod changes;
mod doors;
mod file;
mod providers;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::access::Access;
use crate::attention::{Attention, helper};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Listener};
use crate::confine;
use crate::connection::{Door, Gate};
use crate::lobby::Lobby;
use crate::net::{CertificateSource, ServerTls};
use crate::oauth::{TokenEndpoint, Tokens, watch_expiry};
use crate::outbox::{Couriers, Outbox, OutboxParts, Spool};
use crate::pace::{COUNTED, Pace};
use crate::sessions::{GRACE, Sessions};
use crate::store::{LiveSessions, SessionBoard, Store};
use crate::upstream::Server;
use crate::vocabulary::{Protocol, TlsMode};
use certificates::{Certificates, of_listener};
pub use changes::Changes;
use changes::refuse_if_restart_needed;
use doors::{Doors, Opening, refuse_no_listener, refuse_open_door};
pub use file::WatchedFile;
use providers::Providers;

/// How often the store is asked whether another process has written: a new password or sign-in counts
/// within a second.
const WATCH: Duration = Duration::from_millis(250);

/// How often the live sessions are shown at most.
const SHOW: Duration = Duration::from_secs(1);

/// How long a token request that is under way at a stop may take: as long as it has in all. Its answer may be
/// the only valid refresh token.
const LAST_REQUEST: Duration = Duration::from_secs(15);

/// A running proxy.
pub struct App {
    lasting: Lasting,
    /// The one in force.
    config: Arc<Config>,
    /// Whether the one that it was started with has it confined.
    confine: bool,
    providers: Providers,
    doors: Doors,
    listening: Vec<(Protocol, SocketAddr)>,
    /// Numbers of connections.
    ids: Arc<AtomicU64>,
    /// Ends what goes on beside the connections for one configuration.
    superseded: CancellationToken,
    tracker: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
}

/// What lives longer than a configuration.
struct Lasting {
    clock: Clock,
    attention: Attention,
    store: Store,
    access: Arc<Access>,
    tokens: Arc<Tokens>,
    pace: Arc<Pace>,
    spool: Spool,
    outbox: Outbox,
    sessions: Arc<Sessions>,
    lobby: Arc<Lobby>,
    certificates: Arc<Certificates>,
}

/// A configuration that can be put in force: nothing of it can fail any more.
struct Plan {
    config: Arc<Config>,
    providers: Providers,
    endpoints: HashMap<String, Arc<dyn TokenEndpoint>>,
    couriers: Couriers,
    openings: Vec<(Opening, Arc<Server>)>,
}

impl App {
    /// Starts; when it returns, all listeners accept.
    pub async fn start(config: Config, clock: Clock) -> Result<Self> {
        let config = Arc::new(config);
        let store = Store::open(&config.state_dir, config.key_file.as_deref()).await?;
        let access = Arc::new(Access::open(store.clone()).await?);
        let spool = Spool::open(&config.state_dir, &config.spool, clock.clone())?;
        let (tracker, stop, cut) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let attention = Attention::new(config.on_attention.clone(), config.secret_variables());
        let tokens = Arc::new(Tokens::new(&store, &clock, &attention, &tracker, &stop));
        let pace = Pace::new(store.clone(), clock.clone(), attention.clone());
        let certificates = Arc::new(Certificates::default());
        let ways = Ways {
            access: &access,
            tokens: &tokens,
            pace: &pace,
            certificates: &certificates,
            stop: &stop,
        };
        let plan = ways.plan(config, &Providers::default(), &Doors::default())?;
        pace.load().await?;
        remember_minute(&plan.config, &spool, &pace, clock.now());
        let outbox = Outbox::start(OutboxParts {
            config: Arc::clone(&plan.config),
            spool: spool.clone(),
            couriers: Arc::clone(&plan.couriers),
            clock: clock.clone(),
            attention: attention.clone(),
            tracker: tracker.clone(),
            stop: stop.clone(),
            cut: cut.clone(),
        });
        let sessions = Arc::new(Sessions::new(stop.clone()));
        let mut app = Self {
            config: Arc::clone(&plan.config),
            confine: plan.config.confine,
            lasting: Lasting {
                clock,
                attention,
                store,
                access,
                tokens,
                pace,
                spool,
                outbox,
                sessions,
                lobby: Lobby::new(&plan.config.guard),
                certificates,
            },
            providers: Providers::default(),
            doors: Doors::default(),
            listening: Vec::new(),
            ids: Arc::new(AtomicU64::new(1)),
            superseded: CancellationToken::new(),
            tracker,
            stop,
            cut,
        };
        app.apply(plan);
        app.watch();
        Ok(app)
    }

    /// Goes by another configuration from now on, or, if anything is wrong with it, by the one in force.
    pub fn reload(&mut self, config: Config) -> Result<Changes> {
        refuse_no_listener(&config)?;
        refuse_if_restart_needed(&self.config, &config)?;
        let changes = Changes::between(&self.config, &config).but_for(self.waiting(&config));
        let Lasting { access, tokens, pace, certificates, .. } = &self.lasting;
        let ways = Ways { access, tokens, pace, certificates, stop: &self.stop };
        let plan = ways.plan(Arc::new(config), &self.providers, &self.doors)?;
        self.apply(plan);
        Ok(changes)
    }

    /// Which keys of this configuration a confined process can't go by.
    fn waiting(&self, config: &Config) -> Vec<&'static str> {
        // Who is called no more needs no helper.
        let called = !config.on_attention.is_empty() && confine::is_in_force();
        let by_another = called && helper::command() != Some(config.on_attention.as_slice());
        let keys = [("on_attention", by_another), ("confine", config.confine != self.confine)];
        keys.into_iter().filter(|(_, waits)| *waits).map(|(key, _)| key).collect()
    }

    /// Where it listens.
    pub fn listening(&self) -> &[(Protocol, SocketAddr)] {
        &self.listening
    }

    /// Stops listening, gives sessions a little time, ends them, and closes the store.
    pub async fn stop(self) {
        self.stop_or(std::future::pending()).await;
    }

    /// The same, without the time once `hurry` comes to its end.
    pub async fn stop_or(self, hurry: impl Future<Output = ()>) {
        self.stop.cancel();
        self.tracker.close();
        let drained = tokio::select! {
            drained = timeout(GRACE, self.tracker.wait()) => drained.is_ok(),
            () = hurry => false,
        };
        if !drained {
            self.cut.cancel();
            // What is left then is stuck, and ends with the process.
            let _ = timeout(LAST_REQUEST, self.tracker.wait()).await;
        }
        let Lasting { pace, store, .. } = self.lasting;
        if let Err(failure) = pace.save().await {
            warn!(failure = failure.brief(), "the day's recipients can't be written");
        }
        store.close().await;
    }

    /// Puts a plan in force.
    fn apply(&mut self, plan: Plan) {
        let Plan { config, mut providers, endpoints, couriers, openings } = plan;
        let Lasting { attention, access, tokens, pace, .. } = &self.lasting;
        let Lasting { spool, outbox, sessions, lobby, .. } = &self.lasting;
        attention.set(config.on_attention.clone(), config.secret_variables());
        tokens.set(&config.accounts, |principal| {
            Arc::clone(&endpoints[&principal.app.provider.name])
        });
        access.set_guard(&config.guard);
        lobby.set_guard(&config.guard);
        pace.set(&config);
        spool.set(&config.spool);
        outbox.set(Arc::clone(&config), couriers);
        // Before the doors: who comes by a new one is known.
        sessions.set(&config);
        let gate = Arc::new(Gate {
            config: Arc::clone(&config),
            access: Arc::clone(access),
            tokens: Arc::clone(tokens),
            pace: Arc::clone(pace),
            spool: spool.clone(),
            outbox: outbox.clone(),
            sessions: Arc::clone(sessions),
            lobby: Arc::clone(lobby),
            stop: self.stop.clone(),
            cut: self.cut.clone(),
        });
        let door = |(opening, server): (Opening, Arc<Server>)| {
            let (listener, tls) = (Arc::clone(&opening.listener), opening.tls.clone());
            let door = Arc::new(Door { listener, server, tls, gate: Arc::clone(&gate) });
            (opening, door)
        };
        let doors = openings.into_iter().map(door).collect();
        self.doors.apply(doors, &self.tracker, &self.stop, &self.ids);
        self.listening = self.doors.listening();
        providers.complete();
        (self.providers, self.config) = (providers, config);
        self.watch_configured();
    }

    /// What goes on beside the connections, as long as this configuration is in force.
    fn watch_configured(&mut self) {
        // Before the former ones end, which leave their connections to these.
        let keep = |server: &Arc<Server>| server.keep_spares(self.config.spare_connections);
        let keepers: Vec<_> = self.providers.all_servers().map(keep).collect();
        std::mem::replace(&mut self.superseded, self.stop.child_token()).cancel();
        let superseded = &self.superseded;
        for server in self.providers.servers(Protocol::Smtp) {
            let (server, superseded) = (Arc::clone(server), superseded.clone());
            let learn = async move { drop(server.keywords().await) };
            self.tracker.spawn(async move { superseded.run_until_cancelled(learn).await });
        }
        for keep in keepers {
            let superseded = superseded.clone();
            self.tracker.spawn(async move { superseded.run_until_cancelled(keep).await });
        }
        let Lasting { store, clock, attention, .. } = &self.lasting;
        let (store, clock, attention) = (store.clone(), clock.clone(), attention.clone());
        let (config, superseded) = (Arc::clone(&self.config), superseded.clone());
        self.tracker.spawn(async move {
            let watch = watch_expiry(&config.accounts, &store, &clock, &attention);
            superseded.run_until_cancelled(watch).await
        });
    }

    /// What goes on beside the connections until the stop.
    fn watch(&self) {
        let Lasting { clock, attention, store, access, tokens, .. } = &self.lasting;
        let Lasting { outbox, pace, sessions, certificates, .. } = &self.lasting;
        let state_dir = self.config.state_dir.clone();
        self.spawn(show_sessions(state_dir, Arc::clone(sessions), Arc::clone(pace)));
        let pace = Arc::clone(pace);
        self.spawn(async move { pace.keep_saving().await });
        let (watched, told) = (store.clone(), attention.clone());
        self.spawn(async move { watched.watch(&told).await });
        self.spawn(Arc::clone(certificates).watch(clock.clone()));
        let watch = StoreWatch {
            store: store.clone(),
            access: Arc::clone(access),
            tokens: Arc::clone(tokens),
            outbox: outbox.clone(),
            seen: None,
        };
        self.spawn(watch.run());
    }

    /// Runs a task until the stop.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move { stop.run_until_cancelled(task).await });
    }
}

/// What a plan leads to, and is checked by.
struct Ways<'a> {
    access: &'a Access,
    tokens: &'a Arc<Tokens>,
    pace: &'a Arc<Pace>,
    certificates: &'a Certificates,
    stop: &'a CancellationToken,
}

impl Ways<'_> {
    /// All that may fail. What is there already is used again, and nothing of it is changed.
    fn plan(&self, config: Arc<Config>, former: &Providers, doors: &Doors) -> Result<Plan> {
        refuse_open_door(&config, self.access)?;
        let mut providers = former.next();
        let endpoints = providers.token_endpoints(&config)?;
        let couriers = providers.couriers(&config, self.tokens, self.pace, self.stop)?;
        let mut openings = Vec::new();
        for opening in doors.plan(&config, self.certificates)? {
            let Listener { protocol, upstream, provider, .. } = &*opening.listener;
            let server = providers.server(*protocol, upstream, provider)?;
            openings.push((opening, server));
        }
        Ok(Plan { config, providers, endpoints, couriers, openings })
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

/// Looks whether another process has written to the store.
struct StoreWatch {
    store: Store,
    access: Arc<Access>,
    tokens: Arc<Tokens>,
    outbox: Outbox,
    /// The version that was taken over; none after a failure.
    seen: Option<i64>,
}

impl StoreWatch {
    async fn run(mut self) {
        let mut readable = true;
        loop {
            match self.look().await {
                Err(error) if readable => warn!(%error, "the store can't be read; trying again"),
                Ok(()) if !readable => info!("the store can be read again"),
                _ => {}
            }
            readable = self.seen.is_some();
            sleep(WATCH).await;
        }
    }

    /// Takes over what another process has written.
    async fn look(&mut self) -> Result<()> {
        let former = self.seen.take();
        let version = self.store.version().await?;
        if former != Some(version) {
            self.access.refresh().await?;
            self.tokens.store_changed();
            self.outbox.wake();
        }
        self.seen = Some(version);
        Ok(())
    }
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

/// Looks at what the configuration names, as a start would, and makes nothing.
pub fn check_files(config: &Config) -> Result<()> {
    let place = |key, line: Option<usize>| {
        let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
        format!("{}{line}, {key}", config.file.display())
    };
    let state_dir = || place("state_dir", config.lines.state_dir);
    Store::check_place(&config.state_dir).with_context(state_dir)?;
    Spool::check_place(&config.state_dir, &config.spool).with_context(state_dir)?;
    let key_file = config.key_file.as_deref();
    let key = || place("store.key", config.lines.key);
    Store::check_key(&config.state_dir, key_file).with_context(key)?;
    let mut providers = Providers::default();
    for listener in &config.listeners {
        providers.trust(&listener.provider)?;
        let source = CertificateSource::of(listener, &config.state_dir);
        // gatepost's own is made at the start.
        let is_there = || source.files.certificate.symlink_metadata().is_ok();
        let is_used = listener.tls != TlsMode::None && is_there();
        if !source.self_made || is_used {
            ServerTls::open(source).map_err(|error| of_listener(config, listener, error))?;
        }
    }
    providers.token_endpoints(config).map(drop)
}
