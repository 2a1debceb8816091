//! Requests of one delivery, with the mailbox's token.
//!
//! Invariant: a token that Graph refuses is replaced once in a delivery, and not at all if that was of no use a
//! moment ago.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::Method;
use tracing::{debug, warn};
use url::Url;

use super::Graph;
use super::client::{Call, Done, is_safe};
use super::fault::Fault;
use crate::config::Account;
use crate::explain;
use crate::oauth::{AccessToken, NoToken, Tokens};
use crate::outbox::Outcome;
use crate::vocabulary::{Resource, Way};

/// See the module.
pub(super) struct Session<'a> {
    graph: &'a Arc<Graph>,
    tokens: &'a Tokens,
    account: &'a Account,
    token: AccessToken,
    renewed: bool,
}

impl<'a> Session<'a> {
    pub(super) async fn begin(
        graph: &'a Arc<Graph>,
        tokens: &'a Tokens,
        account: &'a Account,
    ) -> Result<Self, Fault> {
        let token = tokens.get_for(account, Resource::Graph).await;
        let token = token.map_err(|why| no_token(account, why))?;
        Ok(Self { graph, tokens, account, token, renewed: false })
    }

    /// POST to what is under the mailbox.
    pub(super) async fn post(
        &mut self,
        path: &[&str],
        kind: &'static str,
        body: Bytes,
    ) -> Result<Done, Fault> {
        let url = self.graph.url(&self.account.mailbox, path);
        self.call(Call { method: Method::POST, url, kind, body, range: None }).await
    }

    async fn call(&mut self, call: Call) -> Result<Done, Fault> {
        let refused = match self.ask(call.clone()).await {
            Err(fault) if fault.status() == Some(401) && !self.renewed => fault,
            answer => return answer,
        };
        self.renewed = true;
        match self.tokens.get_other_for_graph(self.account, &self.token).await {
            None => return Err(refused),
            Some(Err(why)) => return Err(no_token(self.account, why)),
            Some(Ok(other)) => self.token = other,
        }
        let again = self.ask(call).await;
        if matches!(&again, Err(fault) if fault.status() == Some(401)) {
            self.tokens.give_up(self.account, None);
        }
        again
    }

    /// PUT of one piece to the address of an upload.
    pub(super) async fn put(&self, url: &Url, range: String, body: Bytes) -> Result<Done, Fault> {
        if !is_safe(url) {
            let host = url.host_str().unwrap_or_default();
            return Err(Fault::Unsuited(format!(
                "Graph's address for an upload is not secure: {host}"
            )));
        }
        let kind = "application/octet-stream";
        let (url, range) = (url.clone(), Some(range));
        let call = Call { method: Method::PUT, url, kind, body, range };
        let answer = self.graph.ask(&self.account.mailbox, call, None).await;
        answer.map_err(Fault::of_upload)
    }

    /// A draft that must not stay.
    pub(super) fn draft(&self, id: &str) -> Draft {
        let url = self.graph.url(&self.account.mailbox, &["messages", id]);
        let (graph, mailbox) = (Arc::clone(self.graph), self.account.mailbox.clone());
        Draft { left: Some(Left { graph, mailbox, url, token: self.token.clone() }) }
    }

    async fn ask(&self, call: Call) -> Result<Done, Fault> {
        self.graph.ask(&self.account.mailbox, call, Some(&self.token.token)).await
    }
}

/// A draft in the mailbox, which is deleted unless it was sent; also when the delivery is broken off.
pub(super) struct Draft {
    left: Option<Left>,
}

struct Left {
    graph: Arc<Graph>,
    mailbox: String,
    url: Url,
    token: AccessToken,
}

impl Draft {
    pub(super) fn sent(mut self) {
        self.left = None;
    }

    pub(super) async fn delete(mut self, session: &mut Session<'_>) {
        if let Some(Left { mailbox, url, .. }) = self.left.take() {
            deleted(&mailbox, session.call(delete(url)).await);
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let (Some(left), Ok(runtime)) = (self.left.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(left.delete());
        }
    }
}

impl Left {
    async fn delete(self) {
        let Self { graph, mailbox, url, token } = self;
        deleted(&mailbox, graph.ask(&mailbox, delete(url), Some(&token.token)).await);
    }
}

fn delete(url: Url) -> Call {
    Call { method: Method::DELETE, url, kind: "", body: Bytes::new(), range: None }
}

fn deleted(mailbox: &str, answer: Result<Done, Fault>) {
    match answer {
        Ok(_) => debug!(mailbox, "a draft that was not sent is deleted"),
        // It was sent, or a person was faster.
        Err(fault) if fault.status() == Some(404) => debug!(mailbox, "the draft is gone"),
        Err(fault) => warn!(mailbox, ?fault, "a draft that was not sent stays in Drafts"),
    }
}

/// Without a token for Graph the next way may be open; where there is none, a person's act opens this one.
fn no_token(account: &Account, why: NoToken) -> Fault {
    let held = |reason: String, remedy| Outcome::Held { reason, wait: None, remedy };
    Fault::Outcome(match why {
        NoToken::Stopping => held("gatepost is stopping".into(), None),
        NoToken::ForNow(reason) => held(format!("no token for Microsoft Graph: {reason}"), None),
        NoToken::SignInNeeded(reason) => {
            let said = format!("no token for Microsoft Graph: {reason}");
            let known = explain::best(&reason).map(|entry| entry.remedy_for(&account.mailbox));
            let remedy = known.unwrap_or_else(|| format!("gatepost login {}", account.mailbox));
            match account.via.last() {
                Some(Way::Graph) => held(said, Some(remedy)),
                _ => Outcome::Closed { said: format!("{said}; remedy: {remedy}") },
            }
        }
    })
}
