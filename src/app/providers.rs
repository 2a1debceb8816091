//! The providers' side of a running proxy: what leads to their servers, each made once.
//!
//! A reload begins with the former configuration's: what leads to the same place stays the same, with what it has
//! learned, unless the certificates that it trusts are others by now.
//!
//! Invariant: nothing is connected here.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::config::{Config, Endpoint, Provider, Proxy, read_named_file};
use crate::net::{ClientTls, Route, http_client};
use crate::oauth::{HttpEndpoint, TokenEndpoint, Tokens};
use crate::outbox::{Couriers, Graph, GraphCourier, SmtpCourier, SmtpRoute};
use crate::pace::Pace;
use crate::private_file::Limit;
use crate::upstream::Server;
use crate::vocabulary::{Protocol, Way};

/// What was made so far.
#[derive(Default)]
pub(super) struct Providers {
    made: Made,
    /// For the configuration before.
    former: Made,
}

#[derive(Clone, Default)]
struct Made {
    /// The system's roots are read once for each.
    trust: HashMap<Reach, Trust>,
    servers: HashMap<(Protocol, Endpoint, Reach), Arc<Server>>,
}

/// How a provider is reached.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Reach {
    ca_file: Option<PathBuf>,
    proxy: Proxy,
}

impl Reach {
    fn of(provider: &Provider) -> Self {
        Self { ca_file: provider.ca_file.clone(), proxy: provider.proxy.clone() }
    }
}

/// What trusts the same certificates.
#[derive(Clone)]
struct Trust {
    /// What was in `ca_file`.
    pem: Option<Vec<u8>>,
    tls: ClientTls,
    tokens: Option<Arc<dyn TokenEndpoint>>,
}

impl Providers {
    /// For another configuration. Both can be used as long as both are there.
    pub(super) fn next(&self) -> Self {
        Self { made: Made::default(), former: self.made.clone() }
    }

    /// All is made: what the former configuration had alone is not kept.
    pub(super) fn complete(&mut self) {
        self.former = Made::default();
    }

    /// TLS towards this provider.
    pub(super) fn trust(&mut self, provider: &Provider) -> Result<ClientTls> {
        Ok(self.trusting(provider)?.tls.clone())
    }

    fn trusting(&mut self, provider: &Provider) -> Result<&mut Trust> {
        let reach = Reach::of(provider);
        if !self.made.trust.contains_key(&reach) {
            // One that can't be read is told of below.
            let file = reach.ca_file.as_deref();
            let pem = file.and_then(|file| read_named_file(file, Limit::CERTIFICATES).ok());
            let former = self.former.trust.remove(&reach).filter(|former| former.pem == pem);
            let trust = match former {
                Some(former) => former,
                None => {
                    self.former.servers.retain(|(_, _, by), _| *by != reach);
                    let tls = ClientTls::new(file)
                        .with_context(|| format!("provider {}", provider.name))?;
                    Trust { pem, tls, tokens: None }
                }
            };
            self.made.trust.insert(reach.clone(), trust);
        }
        self.made.trust.get_mut(&reach).context("what was just made is there")
    }

    /// A mail server of this provider. Listeners and deliveries that lead to the same one share it.
    pub(super) fn server(
        &mut self,
        protocol: Protocol,
        endpoint: &Endpoint,
        provider: &Provider,
    ) -> Result<Arc<Server>> {
        let (tls, route) = (self.trust(provider)?, Route::new(&provider.proxy)?);
        let key = (protocol, endpoint.clone(), Reach::of(provider));
        let former = self.former.servers.remove(&key);
        let new = || {
            match route.proxy_to(endpoint) {
                Some(proxy) => info!(%protocol, %endpoint, proxy, "mail goes by a proxy"),
                None => debug!(%protocol, %endpoint, "mail goes directly"),
            }
            Arc::new(Server::new(protocol, endpoint.clone(), tls, route))
        };
        let servers = self.made.servers.entry(key);
        Ok(Arc::clone(servers.or_insert_with(|| former.unwrap_or_else(new))))
    }

    /// The servers that were asked for, of one protocol.
    pub(super) fn servers(&self, protocol: Protocol) -> impl Iterator<Item = &Arc<Server>> {
        let servers = self.made.servers.iter();
        servers.filter(move |((of, ..), _)| *of == protocol).map(|(_, server)| server)
    }

    /// All servers that were asked for.
    pub(super) fn all_servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.made.servers.values()
    }

    /// The token endpoint of each provider that an account has, by the provider's name.
    pub(super) fn token_endpoints(
        &mut self,
        config: &Config,
    ) -> Result<HashMap<String, Arc<dyn TokenEndpoint>>> {
        let mut endpoints = HashMap::new();
        for provider in of_accounts(config) {
            let route = Route::new(&provider.proxy)?;
            let trust = self.trusting(provider)?;
            let tokens = match &trust.tokens {
                Some(tokens) => Arc::clone(tokens),
                None => Arc::new(HttpEndpoint::new(http_client(&trust.tls, &route)?)),
            };
            trust.tokens = Some(Arc::clone(&tokens));
            endpoints.insert(provider.name.clone(), tokens);
        }
        Ok(endpoints)
    }

    /// What delivers spooled mail.
    pub(super) fn couriers(
        &mut self,
        config: &Config,
        tokens: &Arc<Tokens>,
        pace: &Arc<Pace>,
        stop: &CancellationToken,
    ) -> Result<Couriers> {
        let mut routes = HashMap::new();
        let mut graphs = HashMap::new();
        for provider in of_accounts(config) {
            if let Some(endpoint) = &provider.smtp {
                let server = self.server(Protocol::Smtp, endpoint, provider)?;
                let (tokens, pace, stop) = (Arc::clone(tokens), Arc::clone(pace), stop.clone());
                let route = Arc::new(SmtpRoute { server, tokens, pace, stop });
                routes.insert(provider.name.clone(), route);
            }
            if let Some(graph) = Graph::of(provider, &self.trust(provider)?)? {
                graphs.insert(provider.name.clone(), graph);
            }
        }
        let tokens = Arc::clone(tokens);
        Ok(Arc::new(move |way, account| {
            let provider = &account.app.provider.name;
            let account = Arc::clone(account);
            match way {
                Way::Smtp => {
                    let route = routes.get(provider).cloned()?;
                    Some(Box::new(SmtpCourier::new(route, account)))
                }
                Way::Graph => {
                    let graph = graphs.get(provider).cloned()?;
                    Some(Box::new(GraphCourier::new(graph, Arc::clone(&tokens), account)))
                }
            }
        }))
    }
}

/// The providers of all accounts, each once.
fn of_accounts(config: &Config) -> impl Iterator<Item = &Provider> {
    let providers = config.accounts.iter().map(|account| &*account.app.provider);
    let by_name: HashMap<_, _> = providers.map(|provider| (&provider.name, provider)).collect();
    by_name.into_values()
}
