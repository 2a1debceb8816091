//! From a configuration to a running proxy: open, bind, wire, run until stopped.
//!
//! Invariant: nothing listens before everything else is in order, and every task hangs on one tracker and
//! ends by one token.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::access::Access;
use crate::attention::Attention;
use crate::clock::Clock;
use crate::config::{Config, Endpoint, Listener, Provider};
use crate::connection::{Door, Gate, serve};
use crate::net::{ClientTls, ServerTls, bind, http_client};
use crate::oauth::{HttpEndpoint, TokenEndpoint, Tokens, watch_expiry};
use crate::pace::Pace;
use crate::sessions::Sessions;
use crate::store::{SessionBoard, Store};
use crate::upstream::Server;
use crate::vocabulary::{Protocol, TlsMode};

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

/// Pause after a failure to accept, which is a lack of file descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

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
        refuse_open_door(&config, &access)?;
        let mut trust = Trust::default();
        let sockets = bind_all(&config)?;
        let (tracker, stop, cut) =
            (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let endpoints = token_endpoints(&config, &mut trust)?;
        let attention = Attention::new(config.on_attention.clone(), config.secret_variables());
        let tokens = Tokens::start(
            &config.accounts,
            |principal| Arc::clone(&endpoints[&principal.app.provider.name]),
            &store,
            &clock,
            &attention,
            &tracker,
            &stop,
        );
        let pace = Pace::new(store.clone(), clock.clone(), attention.clone());
        pace.load().await?;
        let sessions = Arc::new(Sessions::default());
        let gate = Arc::new(Gate {
            config: Arc::clone(&config),
            access,
            tokens,
            pace: Arc::clone(&pace),
            sessions: Arc::clone(&sessions),
            stop: stop.clone(),
            cut: cut.clone(),
        });
        let mut app = Self { listening: Vec::new(), store, pace, tracker, stop, cut };
        app.open_doors(sockets, &gate, &mut trust)?;
        app.spawn(watch_store(app.store.clone(), Arc::clone(&gate)));
        app.spawn(show_sessions(config.state_dir.clone(), sessions));
        let pace = Arc::clone(&app.pace);
        app.spawn(async move { pace.keep_saving().await });
        let store = app.store.clone();
        app.spawn(async move { watch_expiry(&config.accounts, &store, &clock, &attention).await });
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
            warn!(%failure, "the day's recipients can't be written");
        }
        self.store.close().await;
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
        trust: &mut Trust,
    ) -> Result<()> {
        let mut servers: HashMap<(Protocol, Endpoint, Option<PathBuf>), Arc<Server>> =
            HashMap::new();
        let mut doors = Vec::new();
        let ids = Arc::new(AtomicU64::new(1));
        for (listener, socket) in sockets {
            let Listener { protocol, upstream, provider, .. } = &*listener;
            let tls = trust.of(provider)?;
            let server = servers
                .entry((*protocol, upstream.clone(), provider.ca_file.clone()))
                .or_insert_with(|| Arc::new(Server::new(*protocol, upstream.clone(), tls)));
            let (server, gate) = (Arc::clone(server), Arc::clone(gate));
            let tls = server_tls(&gate.config, &listener)?;
            self.listening.push((listener.protocol, socket.local_addr()?));
            doors.push((Arc::new(Door { listener, server, tls, gate }), socket));
        }
        for ((protocol, ..), server) in servers {
            if protocol == Protocol::Smtp {
                self.spawn(async move { drop(server.keywords().await) });
            }
        }
        for (door, socket) in doors {
            let (tracker, ids) = (self.tracker.clone(), Arc::clone(&ids));
            self.spawn(accept(door, socket, tracker, ids));
        }
        Ok(())
    }
}

/// Takes connections until the stop.
async fn accept(door: Arc<Door>, socket: TcpListener, tracker: TaskTracker, ids: Arc<AtomicU64>) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let id = ids.fetch_add(1, Ordering::Relaxed);
                tracker.spawn(serve(Arc::clone(&door), stream, peer, id));
            }
            Err(error) => {
                warn!(%error, "no connection can be accepted");
                sleep(ACCEPT_AGAIN).await;
            }
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
    }
    *seen = Some(version);
    Ok(())
}

async fn show_sessions(state_dir: PathBuf, sessions: Arc<Sessions>) {
    let board = match SessionBoard::open(&state_dir) {
        Ok(board) => board,
        Err(error) => {
            warn!(%error, "gatepost status will not show the sessions");
            return;
        }
    };
    loop {
        if let Err(error) = board.show(&sessions.live()) {
            warn!(%error, "gatepost status will not show the sessions");
        }
        sleep(SHOW).await;
        sessions.changed().await;
    }
}

/// No login can work, and somebody else could be the first to make it.
fn refuse_open_door(config: &Config, access: &Access) -> Result<()> {
    let on_lan = config.listeners.iter().find_map(|listener| {
        listener.addresses.iter().find(|address| !address.is_loopback()).map(|a| (listener, a))
    });
    match on_lan {
        Some((listener, address)) if access.is_empty() => bail!(
            "{}, line {}: {address} is not on loopback, and there is no app password yet\n\
             hint: gatepost password add MAILBOX",
            config.file.display(),
            listener.line
        ),
        _ => Ok(()),
    }
}

/// Reads the files that the configuration names, as a start would.
pub fn check_files(config: &Config) -> Result<()> {
    let mut trust = Trust::default();
    for listener in &config.listeners {
        trust.of(&listener.provider)?;
        if let Some(files) = &listener.certificate {
            ServerTls::from_files(files)
                .with_context(|| format!("{}, line {}", config.file.display(), listener.line))?;
        }
    }
    token_endpoints(config, &mut trust).map(drop)
}

fn bind_all(config: &Config) -> Result<Vec<(Arc<Listener>, TcpListener)>> {
    let mut sockets = Vec::new();
    for listener in &config.listeners {
        for address in &listener.addresses {
            match bind(address.address) {
                Ok(socket) => sockets.push((Arc::clone(listener), socket)),
                Err(error) if address.optional && is_absent(&error) => {
                    info!(%address, "left out: this machine has no such address");
                }
                Err(error) => bail!(
                    "{}, line {}: can't listen on {address}: {error}\n\
                     hint: another program has that port, or it takes root; choose another one",
                    config.file.display(),
                    listener.line
                ),
            }
        }
    }
    Ok(sockets)
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::AddrNotAvailable | std::io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(AF_NOT_SUPPORTED)
}

/// EAFNOSUPPORT on Linux: IPv6 is switched off in the kernel.
const AF_NOT_SUPPORTED: i32 = 97;

fn server_tls(config: &Config, listener: &Listener) -> Result<Option<ServerTls>> {
    if listener.tls == TlsMode::None {
        return Ok(None);
    }
    let tls = match &listener.certificate {
        Some(files) => ServerTls::from_files(files),
        None => {
            let all = config.listeners.iter().flat_map(|listener| &listener.addresses);
            let addresses: Vec<IpAddr> = all.map(|address| address.address.ip()).collect();
            ServerTls::self_signed(&config.state_dir, &addresses)
        }
    };
    tls.map(Some).with_context(|| format!("{}, line {}", config.file.display(), listener.line))
}

fn token_endpoints(
    config: &Config,
    trust: &mut Trust,
) -> Result<HashMap<String, Arc<dyn TokenEndpoint>>> {
    let mut endpoints: HashMap<String, Arc<dyn TokenEndpoint>> = HashMap::new();
    for account in &config.accounts {
        let provider = &account.app.provider;
        if !endpoints.contains_key(&provider.name) {
            let client = http_client(&trust.of(provider)?)?;
            endpoints.insert(provider.name.clone(), Arc::new(HttpEndpoint::new(client)));
        }
    }
    Ok(endpoints)
}

/// TLS towards providers: the system's roots are read once for each `ca_file`.
#[derive(Default)]
struct Trust(HashMap<Option<PathBuf>, ClientTls>);

impl Trust {
    fn of(&mut self, provider: &Provider) -> Result<ClientTls> {
        if let Some(tls) = self.0.get(&provider.ca_file) {
            return Ok(tls.clone());
        }
        let tls = ClientTls::new(provider.ca_file.as_deref())
            .with_context(|| format!("provider {}", provider.name))?;
        self.0.insert(provider.ca_file.clone(), tls.clone());
        Ok(tls)
    }
}
