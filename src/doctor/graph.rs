//! Microsoft Graph, for the accounts that send by it: a token of its own, and whether it lets that in.
//!
//! Invariant: where a mailbox can send by SMTP too, what is wrong with Graph is a warning.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::refusal::{in_words, remedy};
use super::tokens::{listed, origin, refused};
use super::{Case, Code, Finding, Level};
use crate::config::{Account, Provider};
use crate::net::ClientTls;
use crate::oauth::{Claims, HttpEndpoint, Principal, TokenError, renew_once};
use crate::outbox::{Graph, Probed};
use crate::secret::Secret;
use crate::vocabulary::{Resource, Way};

/// Entra's name of Microsoft Graph, which is in the `aud` of some tokens.
const GRAPH: &str = "00000003-0000-0000-c000-000000000000";

/// The accounts that one token sends for.
struct Sender<'a> {
    principal: Principal,
    accounts: Vec<&'a Arc<Account>>,
}

/// Behind [`super::tokens`]: a refresh token is used by one at a time, and without a token for mail this one fails too.
pub(super) async fn examine(case: &Case, has_token: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut senders: BTreeMap<String, Sender<'_>> = BTreeMap::new();
    let by_graph = case.accounts.iter().filter(|account| account.goes_by(Way::Graph));
    for account in by_graph {
        let principal = Principal::among(&case.config.accounts, account);
        let new = || Sender { principal: principal.clone(), accounts: Vec::new() };
        senders.entry(principal.key()).or_insert_with(new).accounts.push(account);
    }
    let mut findings = Vec::new();
    for (_, sender) in senders.into_iter().filter(|(key, _)| has_token(key)) {
        findings.extend(sender.examine(case).await);
    }
    findings
}

impl Sender<'_> {
    async fn examine(&self, case: &Case) -> Vec<Finding> {
        let (app, mailbox) = (&self.principal.app, self.mailbox());
        let renewed = match HttpEndpoint::of(app) {
            Ok(endpoint) => {
                renew_once(&case.store, &endpoint, &self.principal, Resource::Graph).await
            }
            Err(error) => Err(TokenError::transient(error.to_string())),
        };
        let token = match renewed {
            Ok(renewed) => renewed.access_token,
            Err(error) => {
                let finding = refused(app, &self.subject(), mailbox, &error);
                return vec![Finding { level: self.level(), ..finding }];
            }
        };
        let claims = Claims::of(&token);
        let mut findings: Vec<_> = claims.iter().flat_map(|claims| self.inspect(claims)).collect();
        // What it refuses then is no news.
        if findings.iter().all(|finding| finding.code != Code::TokenAudience) {
            for account in self.accounts.iter().filter(|account| account.pattern().is_none()) {
                findings.push(probe(account, &app.provider, &token).await);
            }
        }
        findings
    }

    fn inspect(&self, claims: &Claims) -> Vec<Finding> {
        let (app, mailbox) = (&self.principal.app, self.mailbox());
        let scopes = self.principal.scopes(Resource::Graph);
        let wanted: Vec<_> = scopes.iter().filter_map(|scope| origin(scope)).collect();
        let fits = |audience: &String| match origin(audience) {
            Some(audience) => wanted.contains(&audience),
            None => audience.eq_ignore_ascii_case(GRAPH),
        };
        let audiences = claims.audiences();
        if !audiences.is_empty() && !audiences.iter().any(fits) {
            let what = format!("the token is for {}, not for Microsoft Graph", audiences.join(" "));
            let remedy = format!(
                "correct graph_scopes or graph_app_scopes of [provider.{}]",
                app.provider.name
            );
            return vec![self.finding(Code::TokenAudience, self.level(), what, remedy)];
        }
        // An app's own permissions may be Exchange's (RBAC for Applications), of which its token has none.
        if !app.grant.is_delegated() {
            return Vec::new();
        }
        let held = claims.permissions();
        let has = |name: &str| held.iter().any(|held| held.eq_ignore_ascii_case(name));
        let own = ["Mail.Send", "Mail.ReadWrite"].map(String::from);
        let shared = own.clone().map(|name| format!("{name}.Shared"));
        let shared = shared.iter().filter(|_| self.principal.shared);
        let lacking: Vec<_> = own.iter().chain(shared).filter(|name| !has(name)).collect();
        let lacks = |name: &&String| {
            let (level, why) = match name.starts_with("Mail.Send") {
                true => (self.level(), "to send"),
                false => (Level::Warning, "for messages above 3 MB, which go by a draft"),
            };
            let what = format!(
                "Microsoft Graph needs the permission {name} {why}; the token has {}",
                listed(&held)
            );
            let portal = app.provider.portal.as_deref().unwrap_or("the provider's portal");
            let remedy = format!(
                "add the delegated permission {name} (Microsoft Graph) at {portal}: App registrations, the app, API \
                 permissions; consent to it; then `gatepost login {mailbox}`"
            );
            self.finding(Code::GraphPermission, level, what, remedy)
        };
        lacking.iter().map(lacks).collect()
    }

    fn finding(&self, code: Code, level: Level, what: String, remedy: String) -> Finding {
        Finding { level, ..Finding::error(code, self.subject(), what, remedy) }
    }

    fn subject(&self) -> String {
        format!("{} for Microsoft Graph", self.principal)
    }

    /// One of them, for commands that a person is told.
    fn mailbox(&self) -> &str {
        self.accounts.first().map_or("", |account| &account.mailbox)
    }

    fn level(&self) -> Level {
        self.accounts.iter().map(|account| level(account)).max().unwrap_or(Level::Error)
    }
}

fn level(account: &Account) -> Level {
    if account.goes_by(Way::Smtp) { Level::Warning } else { Level::Error }
}

async fn probe(account: &Account, provider: &Provider, token: &Secret<String>) -> Finding {
    let mailbox = account.mailbox.as_str();
    let subject = format!("{mailbox} by Microsoft Graph");
    let tls = ClientTls::new(provider.ca_file.as_deref());
    let graph = tls.and_then(|tls| Graph::of(provider, &tls));
    let probed = match graph {
        Ok(Some(graph)) => graph.probe(mailbox, token).await,
        Ok(None) => Probed::Refused("the provider has no Microsoft Graph".into()),
        Err(error) => Probed::NotNow(error.to_string()),
    };
    let (level, said) = match probed {
        Probed::LetIn => {
            let what = "it lets the token in; what it says of a sender or a recipient shows with a message only";
            return Finding::ok(Code::Graph, subject, what);
        }
        Probed::Refused(said) => (level(account), said),
        Probed::NotNow(said) => (Level::Warning, said),
    };
    let otherwise = "`gatepost explain` tells more of its words; try again in some minutes";
    let remedy = remedy(&said, mailbox, otherwise);
    Finding { level, ..Finding::error(Code::Graph, subject, in_words(&said), remedy) }
}
