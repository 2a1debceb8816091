//! The way of one message by Microsoft Graph.
//!
//! Invariant: a message that fits into one request goes with all of its octets, a signature's too; one that does not
//! is cut only where nothing is signed or encrypted.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::client::{Done, Graph};
use super::fault::Fault;
use super::large::{self, MIME, in_base64};
use super::recipients::Hidden;
use super::session::Session;
use crate::config::Account;
use crate::oauth::Tokens;
use crate::outbox::{Courier, Message, Outcome, Verdict, cut};

/// What a draft may have, when Graph takes less in a request than it says.
const SMALLER: usize = MIME / 3;

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

    async fn deliver(&self, message: &mut Message) -> Result<Done, Fault> {
        let _turn = large::turn(message.content.size).await;
        let unreadable = |error: std::io::Error| {
            let reason = format!("the spooled message can't be read: {error}");
            Fault::Outcome(Outcome::Answered(vec![
                Verdict::Later(reason);
                message.envelope.recipients.len()
            ]))
        };
        let octets = message.content.read_all().await.map_err(unreadable)?;
        let hidden = Hidden::of(&octets, &message.envelope);
        let hidden = hidden.map_err(|strangers| Fault::Unsuited(strangers.said()))?;
        let mut session = Session::begin(&self.graph, &self.tokens, &self.account).await?;
        if octets.len() + hidden.len() > MIME {
            return self.send_large(&mut session, octets, &hidden, MIME).await;
        }
        match self.send_small(&mut session, &octets, &hidden).await {
            Err(fault) if fault.status() == Some(413) => {
                self.send_large(&mut session, octets, &hidden, SMALLER).await
            }
            answer => answer,
        }
    }

    async fn send_small(
        &self,
        session: &mut Session<'_>,
        octets: &[u8],
        hidden: &Hidden,
    ) -> Result<Done, Fault> {
        let body = match hidden.len() {
            0 => in_base64(octets),
            _ => {
                let mut octets = octets.to_vec();
                hidden.add_to(&mut octets);
                in_base64(&octets)
            }
        };
        session.post(&["sendMail"], "text/plain", body).await
    }

    async fn send_large(
        &self,
        session: &mut Session<'_>,
        octets: Vec<u8>,
        hidden: &Hidden,
        limit: usize,
    ) -> Result<Done, Fault> {
        let limit = limit.saturating_sub(hidden.len());
        // Decoding tens of megabytes takes a while.
        let pieces = spawn_blocking(move || cut(&octets, limit)).await;
        let pieces = pieces.map_err(|_| Fault::Unsuited("the message can't be cut".into()))?;
        let pieces = pieces.map_err(|why| {
            Fault::Unsuited(format!("too large for one request to Microsoft Graph, and {why}"))
        })?;
        large::send(session, pieces, hidden).await
    }

    async fn attempt(&mut self, message: &mut Message) -> Outcome {
        let recipients = message.envelope.recipients.len();
        let (id, mailbox) = (message.id.clone(), &self.account.mailbox);
        match self.deliver(message).await {
            Ok(Done { request_id, .. }) => {
                info!(id, mailbox, request_id, "sent by Microsoft Graph");
                let said = format!("202 accepted by Microsoft Graph (request-id {request_id})");
                Outcome::Answered(vec![Verdict::Delivered(said); recipients])
            }
            Err(fault) => {
                if let Fault::Silent { reason, asked: true } = &fault {
                    warn!(
                        id,
                        mailbox, reason, "it may have been sent all the same; it is tried again"
                    );
                }
                fault.outcome(mailbox, recipients)
            }
        }
    }
}

impl Courier for GraphCourier {
    fn send<'a>(&'a mut self, message: &'a mut Message) -> BoxFuture<'a, Outcome> {
        Box::pin(self.attempt(message))
    }
}
