//! The way to the mail servers and token endpoints: proxies, names, both address families, TLS, and the clock.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::future::join_all;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use url::Url;

use super::{Case, Code, Finding, certificate, with_hint};
use crate::clock::{Clock, Timestamp};
use crate::config::{Endpoint, Provider};
use crate::net::{ClientTls, Route, Seen, http_client};
use crate::protocol::Rejection;
use crate::upstream::Server;
use crate::vocabulary::{Protocol, TlsMode};

/// For a look-up, and for each connection.
const LIMIT: Duration = Duration::from_secs(7);

/// A clock that is off by more breaks things: Entra refuses assertions by five minutes.
const CLOCK_BREAKS: Duration = Duration::from_secs(300);
/// By more than this, something is wrong with it.
const CLOCK_DRIFTS: Duration = Duration::from_secs(60);

/// What was found on the way.
pub(super) struct Network {
    pub(super) findings: Vec<Finding>,
    /// Mail servers to which no login can be tried.
    pub(super) unreachable: HashSet<(Protocol, Endpoint)>,
}

/// A server to reach.
struct Target {
    subject: String,
    host: String,
    port: u16,
    provider: Arc<Provider>,
    what: What,
}

/// How it is reached.
struct Way {
    tls: ClientTls,
    seen: Seen,
    route: Route,
    /// Its name, if the route goes by one.
    proxy: Option<String>,
}

enum What {
    Mail(Protocol, Endpoint),
    Tokens(Url),
}

pub(super) async fn examine(case: &Case) -> Network {
    let targets = targets(case);
    let mut network = Network { findings: Vec::new(), unreachable: HashSet::new() };
    let reached = join_all(targets.iter().map(Target::reach)).await;
    for (target, found) in targets.iter().zip(reached) {
        let broken = found.iter().any(|finding| finding.level == super::Level::Error);
        if let (What::Mail(protocol, endpoint), true) = (&target.what, broken) {
            network.unreachable.insert((*protocol, endpoint.clone()));
        }
        network.findings.extend(found);
    }
    network
}

/// The mail servers behind the listeners, and the token endpoints of the apps.
fn targets(case: &Case) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for listener in &case.config.listeners {
        let (protocol, endpoint) = (listener.protocol, &listener.upstream);
        targets.push(Target {
            subject: format!("{protocol} {endpoint}"),
            host: endpoint.host.clone(),
            port: endpoint.port,
            provider: Arc::clone(&listener.provider),
            what: What::Mail(protocol, endpoint.clone()),
        });
    }
    for app in case.apps() {
        let url = app.provider.identity_url.as_ref();
        let url = url.filter(|_| app.grant == crate::config::Grant::ManagedIdentity);
        let url = url.unwrap_or(&app.token_url).clone();
        targets.push(Target {
            subject: format!("token endpoint {}", host_of(&url)),
            host: url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default().unwrap_or_default(),
            provider: Arc::clone(&app.provider),
            what: What::Tokens(url),
        });
    }
    let mut seen = HashSet::new();
    targets.retain(|target| seen.insert(target.subject.clone()));
    targets
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

impl Target {
    async fn reach(&self) -> Vec<Finding> {
        let route = match Route::new(&self.provider.proxy) {
            Ok(route) => route,
            Err(error) => {
                let remedy = "look at proxy in the configuration";
                let what = format!("the proxy's password can't be had: {error}");
                return vec![Finding::error(
                    Code::SystemProxy,
                    self.subject.as_str(),
                    what,
                    remedy,
                )];
            }
        };
        let proxy = match &self.what {
            What::Tokens(url) => route.proxy_for(url),
            What::Mail(_, endpoint) => route.proxy_to(endpoint),
        };
        let mut findings = Vec::new();
        match &proxy {
            Some(proxy) => findings.push(self.goes_by(proxy)),
            None => match self.connect().await {
                Ok(warning) => findings.extend(warning),
                Err(error) => return vec![error],
            },
        }
        let (tls, seen) = match ClientTls::watched(self.provider.ca_file.as_deref()) {
            Ok(watched) => watched,
            Err(error) => {
                let (what, remedy) = with_hint(&error.to_string());
                findings.push(Finding::error(Code::Tls, self.subject.as_str(), what, remedy));
                return findings;
            }
        };
        let way = Way { tls, seen, route, proxy };
        findings.extend(match &self.what {
            What::Mail(protocol, endpoint) => self.greet(*protocol, endpoint, way).await,
            What::Tokens(url) => self.ask(url, way).await,
        });
        findings
    }

    fn goes_by(&self, proxy: &str) -> Finding {
        let what = format!("connections to {} go by the proxy {proxy}", self.host);
        Finding::ok(Code::SystemProxy, self.subject.as_str(), what)
    }

    fn not_by(&self, proxy: &str, why: &str) -> Finding {
        let what = format!("it can't be reached by the proxy {proxy}: {why}");
        let (host, port) = (&self.host, self.port);
        // The first is the proxy's own word, the second what the HTTP client makes of it.
        if why.contains(" 407") || why.contains("authorization required") {
            let remedy = "write proxy = { url = \"http://HOST:PORT\", user = \"NAME\", password = { file = \"PATH\" } } at \
                          the top of the configuration (gatepost speaks Basic to a proxy, neither NTLM nor Kerberos)";
            return Finding::error(Code::SystemProxy, self.subject.as_str(), what, remedy);
        }
        let remedy = format!(
            "let the proxy CONNECT to {host}:{port}, or, if this machine may go there directly, put {host} into \
             NO_PROXY in gatepost's environment or set proxy = \"none\""
        );
        Finding::error(Code::SystemProxy, self.subject.as_str(), what, remedy)
    }

    /// By each address family apart; an error if none works.
    async fn connect(&self) -> Result<Option<Finding>, Finding> {
        let found = timeout(LIMIT, lookup_host((self.host.as_str(), self.port))).await;
        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let addresses: Vec<SocketAddr> = match found {
            Ok(addresses) => addresses.collect(),
            Err(error) => return Err(self.unknown_name(&error.to_string())),
        };
        let (four, six): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
        let (four, six) = tokio::join!(first_that_answers(&four), first_that_answers(&six));
        let subject = self.subject.as_str();
        match (four, six) {
            (None, None) => Err(self.unknown_name("the name has no address")),
            (Some(Err(error)), None | Some(Err(_))) | (None, Some(Err(error))) => {
                let what = format!("no connection to {}:{}: {error}", self.host, self.port);
                let remedy = format!(
                    "let this machine out to {} by TCP port {} (firewall), and check the port in [provider.{}]",
                    self.host, self.port, self.provider.name
                );
                Err(Finding::error(Code::Tcp, subject, what, remedy))
            }
            _ if addresses.iter().all(|address| address.ip().is_loopback()) => Ok(None),
            (Some(Ok(())), Some(Err(error))) => {
                Ok(Some(one_family(subject, "IPv4", "IPv6", &error)))
            }
            (Some(Err(error)), Some(Ok(()))) => {
                Ok(Some(one_family(subject, "IPv6", "IPv4", &error)))
            }
            _ => Ok(None),
        }
    }

    fn unknown_name(&self, error: &str) -> Finding {
        let what = format!("the name {} is not known: {error}", self.host);
        let remedy = format!(
            "check the name in [provider.{}], and this machine's name server: `getent hosts {}`",
            self.provider.name, self.host
        );
        Finding::error(Code::Dns, self.subject.as_str(), what, remedy)
    }

    /// A mail server, up to where a login would begin.
    async fn greet(&self, protocol: Protocol, endpoint: &Endpoint, way: Way) -> Option<Finding> {
        let Way { tls, seen, route, proxy } = way;
        let outcome = Server::new(protocol, endpoint.clone(), tls, route).reach().await;
        let subject = self.subject.as_str();
        let shown = seen.last();
        let judged = shown
            .as_ref()
            .and_then(|shown| certificate::judge(subject, &self.host, &self.provider.name, shown));
        if judged.is_some() {
            return judged;
        }
        Some(match outcome {
            Ok(_) => {
                let end = shown.and_then(|shown| shown.not_after).map(|end| end.text());
                let end = end.map(|end| format!(", its certificate is good until {end}"));
                Finding::ok(
                    Code::MailServer,
                    subject,
                    format!("it answers{}", end.unwrap_or_default()),
                )
            }
            Err(Rejection::Busy { said, .. }) => {
                let what = format!("the server takes no more connections for now: {said}");
                Finding::error(Code::Throttled, subject, what, "wait some minutes and try again")
            }
            Err(
                Rejection::Broken { said }
                | Rejection::Token { said }
                | Rejection::NotPermitted { said },
            ) => match proxy.filter(|_| shown.is_none()) {
                Some(proxy) => self.not_by(&proxy, &said),
                None => self.out_of_order(endpoint, &said),
            },
        })
    }

    fn out_of_order(&self, endpoint: &Endpoint, said: &str) -> Finding {
        let what = format!("it does not do its part: {said}");
        let remedy = match endpoint.tls {
            TlsMode::StartTls => format!(
                "a server that begins with TLS is written without \"starttls\" in [provider.{}]; else look at the \
                 server, or at what stands in between",
                self.provider.name
            ),
            _ => format!(
                "a server that begins in plain text is written \"{endpoint} starttls\" in [provider.{}]; else look \
                 at the server, or at what stands in between",
                self.provider.name
            ),
        };
        Finding::error(Code::MailServer, self.subject.as_str(), what, remedy)
    }

    /// The token endpoint: any answer will do, and has the time in it.
    async fn ask(&self, url: &Url, way: Way) -> Option<Finding> {
        let Way { tls, seen, route, proxy } = way;
        let subject = self.subject.as_str();
        let client = match http_client(&tls, &route) {
            Ok(client) => client,
            Err(error) => return Some(Finding::error(Code::Tls, subject, error.to_string(), "")),
        };
        let answer = client.of(url).get(url.clone()).send().await;
        let judged = seen.last();
        let judged = judged
            .and_then(|shown| certificate::judge(subject, &self.host, &self.provider.name, &shown));
        if judged.is_some() {
            return judged;
        }
        match answer {
            Err(error) => {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(deeper) = cause.source() {
                    cause = deeper;
                }
                if let Some(proxy) = proxy {
                    return Some(self.not_by(&proxy, &cause.to_string()));
                }
                let remedy = format!("check token_url in [provider.{}]", self.provider.name);
                let what = format!("it does not answer: {cause}");
                Some(Finding::error(Code::TokenEndpoint, subject, what, remedy))
            }
            Ok(answer) => {
                let date = answer.headers().get(reqwest::header::DATE);
                let date =
                    date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
                let since = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
                Some(match since {
                    Some(since) => clock(subject, Timestamp::from_millis(0).plus(since)),
                    None => Finding::ok(Code::TokenEndpoint, subject, "it answers"),
                })
            }
        }
    }
}

/// `None`: there is no address of this family.
async fn first_that_answers(addresses: &[&SocketAddr]) -> Option<io::Result<()>> {
    let mut failure = None;
    for address in addresses {
        let connected = timeout(LIMIT, TcpStream::connect(**address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(_) => return Some(Ok(())),
            Err(error) => failure = Some(error),
        }
    }
    failure.map(Err)
}

fn one_family(subject: &str, works: &str, fails: &str, error: &io::Error) -> Finding {
    let what =
        format!("{works} works, {fails} does not ({error}): connections may be slow to begin");
    let remedy = format!("give this machine a way out by {fails}, or switch {fails} off on it");
    Finding::warning(Code::AddressFamily, subject, what, remedy)
}

fn clock(subject: &str, theirs: Timestamp) -> Finding {
    let ours = Clock::system().now();
    let (ahead, behind) = (ours.saturating_since(theirs), theirs.saturating_since(ours));
    let off = ahead.max(behind);
    let direction = if ahead > behind { "ahead of" } else { "behind" };
    let what =
        format!("this machine's clock is {} s {direction} the token endpoint's", off.as_secs());
    let remedy = "set the clock, and keep it set: `timedatectl set-ntp true`";
    if off > CLOCK_BREAKS {
        let what = format!("{what}: tokens and certificates are misjudged");
        Finding::error(Code::Clock, subject, what, remedy)
    } else if off > CLOCK_DRIFTS {
        Finding::warning(Code::Clock, subject, what, remedy)
    } else {
        Finding::ok(Code::TokenEndpoint, subject, "it answers, and the clock agrees with it")
    }
}
