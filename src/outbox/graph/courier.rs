//! The way of one message by Microsoft Graph.
//!
//! Invariant: a message that fits into one request goes with all of its octets, a signature's too; one that does not
//! is cut only where nothing is signed or encrypted.

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tracing::warn;

use super::body::Body;
use super::client::{Done, Graph};
use super::fault::Fault;
use super::large::{self, MIME, apart};
use super::recipients::Hidden;
use super::session::Session;
use crate::config::Account;
use crate::oauth::Tokens;
use crate::outbox::{CannotCut, Content, Courier, Message, Outcome, Verdict, cut, header_of};

/// What a draft may have, when Graph takes less in a request than it says.
const SMALLER: usize = MIME / 3;

const LONG_HEADER: &str = "its header is longer than Exchange takes";

/// Delivers the mail of one mailbox by Microsoft Graph.
pub struct GraphCourier {
    graph: Arc<Graph>,
    tokens: Arc<Tokens>,
    account: Arc<Account>,
}

impl GraphCourier {
    /// For the mailbox of `account`.
    pub fn new(graph: Arc<Graph>, tokens: Arc<Tokens>, account: Arc<Account>) -> Self {
        Self { graph, tokens, account }
    }

    async fn deliver(&self, message: &Message) -> Result<Done, Fault> {
        let Message { envelope, content, begun, .. } = message;
        let size = content.length();
        let _turn = large::turn(size).await;
        let whole = content.clone();
        let header = move || Ok(header_of(&whole)?.map(Cow::into_owned));
        let header = apart(header).await?.map_err(Fault::Unreadable)?;
        let header = header.ok_or_else(|| Fault::Unsuited(LONG_HEADER.into()))?;
        let hidden = Hidden::of(&header, envelope);
        let hidden = hidden.map_err(|strangers| Fault::Unsuited(strangers.said()))?;
        let mut session = Session::begin(&self.graph, &self.tokens, &self.account).await?;
        session.delete_former(begun).await?;
        if size + hidden.len() > MIME {
            return self.send_large(&mut session, message, &hidden, MIME).await;
        }
        match self.send_small(&mut session, content, header, &hidden).await {
            Err(fault) if fault.status() == Some(413) => {
                self.send_large(&mut session, message, &hidden, SMALLER).await
            }
            answer => answer,
        }
    }

    async fn send_small(
        &self,
        session: &mut Session<'_>,
        content: &Content,
        mut header: Vec<u8>,
        hidden: &Hidden,
    ) -> Result<Done, Fault> {
        let behind = header.len();
        hidden.add_to(&mut header);
        let content = content.clone();
        let body = Body::Message { header: header.into(), content, behind };
        session.post(&["sendMail"], "text/plain", body).await
    }

    async fn send_large(
        &self,
        session: &mut Session<'_>,
        message: &Message,
        hidden: &Hidden,
        limit: usize,
    ) -> Result<Done, Fault> {
        let limit = limit.saturating_sub(hidden.len());
        let content = message.content.clone();
        let pieces = apart(move || cut(&content, limit)).await?.map_err(|why| match why {
            CannotCut::Unreadable(error) => Fault::Unreadable(error),
            why => {
                Fault::Unsuited(format!("too large for one request to Microsoft Graph, and {why}"))
            }
        })?;
        large::send(session, pieces, hidden, &message.begun).await
    }

    async fn attempt(&mut self, message: &mut Message) -> Outcome {
        let recipients = message.envelope.recipients.len();
        match self.deliver(message).await {
            Ok(Done { request_id, .. }) => {
                let said = format!("202 accepted by Microsoft Graph (request-id {request_id})");
                Outcome::Answered(vec![Verdict::Delivered(said); recipients])
            }
            Err(fault) => {
                if let Fault::Silent { reason, asked: true } = &fault {
                    warn!(reason, "it may have been sent all the same; it is tried again");
                }
                fault.outcome(&self.account.mailbox, recipients)
            }
        }
    }
}

impl Courier for GraphCourier {
    fn send<'a>(&'a mut self, message: &'a mut Message) -> BoxFuture<'a, Outcome> {
        Box::pin(self.attempt(message))
    }
}
