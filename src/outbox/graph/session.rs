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
use super::body::{Body, Flow};
use super::client::{Call, Done, is_safe};
use super::fault::Fault;
use crate::config::Account;
use crate::explain;
use crate::oauth::{AccessToken, NoToken, Tokens};
use crate::outbox::{Begun, Outcome};
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
        body: Body,
    ) -> Result<Done, Fault> {
        let url = self.graph.url(&self.account.mailbox, path);
        self.call(Call { method: Method::POST, url, kind, body }).await
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
    pub(super) async fn put(&self, url: &Url, range: String, flow: Flow) -> Result<Done, Fault> {
        if !is_safe(url) {
            let host = url.host_str().unwrap_or_default();
            return Err(Fault::Unsuited(format!(
                "Graph's address for an upload is not secure: {host}"
            )));
        }
        let answer = self.graph.put(&self.account.mailbox, url, range, flow).await;
        answer.map_err(Fault::of_upload)
    }

    /// A draft that must not stay, also if this process ends now.
    pub(super) async fn draft(&self, id: &str, begun: &Begun) -> Draft {
        let draft = self.left(id, begun);
        if let Err(error) = begun.keep(id).await {
            // It matters only if this process ends.
            warn!(%error, "it can't be written down that a draft was made");
        }
        Draft { left: Some(draft) }
    }

    /// Deletes the draft that an earlier attempt could not delete.
    pub(super) async fn delete_former(&mut self, begun: &Begun) -> Result<(), Fault> {
        let Some(id) = begun.read().await else { return Ok(()) };
        let left = self.left(&id, begun);
        let answer = self.call(delete(left.url.clone())).await;
        match left.deleted(answer).await {
            // Behind the next attempt nobody would know of it.
            Err(fault) if fault.may_pass() => Err(fault),
            _ => Ok(()),
        }
    }

    fn left(&self, id: &str, begun: &Begun) -> Left {
        Left {
            graph: Arc::clone(self.graph),
            mailbox: self.account.mailbox.clone(),
            url: self.graph.url(&self.account.mailbox, &["messages", id]),
            token: self.token.clone(),
            id: id.to_owned(),
            begun: begun.clone(),
        }
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
    id: String,
    begun: Begun,
}

impl Draft {
    pub(super) fn sent(mut self) {
        self.left = None;
    }

    pub(super) async fn delete(mut self, session: &mut Session<'_>) {
        if let Some(left) = self.left.take() {
            let answer = session.call(delete(left.url.clone())).await;
            // If it stays, the next attempt finds it.
            let _ = left.deleted(answer).await;
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let (Some(left), Ok(runtime)) = (self.left.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { drop(left.delete().await) });
        }
    }
}

impl Left {
    async fn delete(self) -> Result<(), Fault> {
        let call = delete(self.url.clone());
        let answer = self.graph.ask(&self.mailbox, call, Some(&self.token.token)).await;
        self.deleted(answer).await
    }

    async fn deleted(self, answer: Result<Done, Fault>) -> Result<(), Fault> {
        let Self { mailbox, id, begun, .. } = self;
        match answer {
            Ok(_) => debug!(mailbox, "a draft that was not sent is deleted"),
            // It was sent, or a person was faster.
            Err(fault) if fault.status() == Some(404) => debug!(mailbox, "the draft is gone"),
            Err(fault) => {
                warn!(mailbox, ?fault, "a draft that was not sent stays in Drafts for now");
                return Err(fault);
            }
        }
        if let Err(error) = begun.forget(&id).await {
            debug!(%error, "it is tried once more to delete a draft that is gone");
        }
        Ok(())
    }
}

fn delete(url: Url) -> Call {
    Call { method: Method::DELETE, url, kind: "", body: Body::Octets(Bytes::new()) }
}

/// Without a token for Graph the next way may be open; where there is none, a person's act opens this one.
fn no_token(account: &Account, why: NoToken) -> Fault {
    let held = |reason: String, remedy| Outcome::Held { reason, wait: None, remedy };
    let refused = |reason: &str, remedy: String| {
        let said = format!("no token for Microsoft Graph: {reason}");
        match account.via.last() {
            Some(Way::Graph) => held(said, Some(remedy)),
            _ => Outcome::Closed { said: format!("{said}; remedy: {remedy}") },
        }
    };
    Fault::Outcome(match why {
        NoToken::Stopping => held("gatepost is stopping".into(), None),
        NoToken::ForNow(reason) => held(format!("no token for Microsoft Graph: {reason}"), None),
        NoToken::SignInNeeded(reason) => {
            let known = explain::best(&reason).map(|entry| entry.remedy_for(&account.mailbox));
            let remedy = known.unwrap_or_else(|| format!("gatepost login {}", account.mailbox));
            refused(&reason, remedy)
        }
        NoToken::AppRefused { reason, remedy } => refused(&reason, remedy),
    })
}
