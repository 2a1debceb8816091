//! The providers' side of a running proxy: what leads to their servers, each made once.
//!
//! Invariant: nothing is connected here.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::config::{Config, Endpoint, Provider};
use crate::net::{ClientTls, Route, http_client};
use crate::oauth::{HttpEndpoint, TokenEndpoint, Tokens};
use crate::outbox::{Couriers, Graph, GraphCourier, SmtpCourier, SmtpRoute};
use crate::pace::Pace;
use crate::upstream::Server;
use crate::vocabulary::{Protocol, Way};

/// What was made so far.
#[derive(Default)]
pub(super) struct Providers {
    /// The system's roots are read once for each `ca_file`.
    trust: HashMap<Option<PathBuf>, ClientTls>,
    servers: HashMap<(Protocol, Endpoint, Option<PathBuf>), Arc<Server>>,
}

impl Providers {
    /// TLS towards this provider.
    pub(super) fn trust(&mut self, provider: &Provider) -> Result<ClientTls> {
        if let Some(tls) = self.trust.get(&provider.ca_file) {
            return Ok(tls.clone());
        }
        let tls = ClientTls::new(provider.ca_file.as_deref())
            .with_context(|| format!("provider {}", provider.name))?;
        self.trust.insert(provider.ca_file.clone(), tls.clone());
        Ok(tls)
    }

    /// A mail server of this provider. Listeners and deliveries that lead to the same one share it.
    pub(super) fn server(
        &mut self,
        protocol: Protocol,
        endpoint: &Endpoint,
        provider: &Provider,
    ) -> Result<Arc<Server>> {
        let (tls, route) = (self.trust(provider)?, Route::new(&provider.proxy)?);
        let key = (protocol, endpoint.clone(), provider.ca_file.clone());
        let new = || {
            match route.proxy_to(endpoint) {
                Some(proxy) => info!(%protocol, %endpoint, proxy, "mail goes by a proxy"),
                None => debug!(%protocol, %endpoint, "mail goes directly"),
            }
            Arc::new(Server::new(protocol, endpoint.clone(), tls, route))
        };
        Ok(Arc::clone(self.servers.entry(key).or_insert_with(new)))
    }

    /// The servers that were asked for, of one protocol.
    pub(super) fn servers(&self, protocol: Protocol) -> impl Iterator<Item = &Arc<Server>> {
        self.servers.iter().filter(move |((of, ..), _)| *of == protocol).map(|(_, server)| server)
    }

    /// The token endpoint of each provider that an account has, by the provider's name.
    pub(super) fn token_endpoints(
        &mut self,
        config: &Config,
    ) -> Result<HashMap<String, Arc<dyn TokenEndpoint>>> {
        let mut endpoints: HashMap<String, Arc<dyn TokenEndpoint>> = HashMap::new();
        for provider in of_accounts(config) {
            let route = Route::new(&provider.proxy)?;
            let client = http_client(&self.trust(provider)?, &route)?;
            endpoints.insert(provider.name.clone(), Arc::new(HttpEndpoint::new(client)));
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
