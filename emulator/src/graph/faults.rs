//! Faults of Graph on request, and what it was asked for.
//!
//! Invariant: as with SMTP, faults are shown in the order in which they were asked for, and delays add to
//! whatever else is shown.

use std::{sync::atomic::Ordering, time::Duration};

use axum::{http::HeaderMap, response::Response};

use super::{Answer, Refusal, denied, refuse};
use crate::{Control, World, entra::hang_up, locked, tokens::folded};

/// What a request to Graph is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphStep {
    /// Whatever it is for.
    Any,
    /// `POST …/sendMail`.
    SendMail,
    /// `POST …/messages`: a draft.
    Create,
    /// `POST …/attachments`: a small attachment.
    Attach,
    /// `POST …/createUploadSession`.
    OpenUpload,
    /// A piece of a large attachment, or another request to the address of an upload.
    Upload,
    /// `POST …/send`: the draft.
    Send,
    /// `DELETE …/messages/{id}`.
    Delete,
}

/// A way for Graph to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphFault {
    /// 429 `ApplicationThrottled`.
    Throttled {
        /// Seconds for the `Retry-After` header.
        retry_after: Option<u64>,
    },
    /// 503 `serviceNotAvailable`.
    Unavailable {
        /// Seconds for the `Retry-After` header.
        retry_after: Option<u64>,
    },
    /// 403 `ErrorAccessDenied`: the app lacks the permission.
    AccessDenied,
    /// 404 `MailboxNotEnabledForRESTAPI`: the user has no mailbox in Exchange Online.
    MailboxNotEnabled,
    /// The connection closes without an answer, and nothing was done.
    Closed,
    /// The connection closes without an answer, but what was asked for was done.
    Unanswered,
    /// The answer is late; what was asked for was done when the time begins.
    Delay(Duration),
}

/// A fault that waits to be shown.
pub(crate) struct GraphRule {
    step: GraphStep,
    fault: GraphFault,
    left: Option<usize>,
}

/// What to show of a request.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) delay: Duration,
    pub(super) fault: Option<GraphFault>,
}

impl Control {
    /// Shows this fault the next `count` times, or, for `None`, until [`Self::clear_graph_faults`].
    pub fn fail_graph(&self, step: GraphStep, fault: GraphFault, count: Option<usize>) {
        locked(&self.world.faults).graph.push(GraphRule { step, fault, left: count });
    }

    /// Takes back what [`Self::fail_graph`] asked for.
    pub fn clear_graph_faults(&self) {
        locked(&self.world.faults).graph.clear();
    }

    /// Fails all requests to Graph until this is called with `None`. Exchange's protocols and the token
    /// endpoint have outages of their own.
    pub fn set_graph_outage(&self, fault: Option<GraphFault>) {
        locked(&self.world.faults).graph_outage = fault;
    }

    /// Requests to Graph so far, those for uploads and failed ones too.
    pub fn graph_requests(&self) -> u64 {
        self.world.counts.graph_requests.load(Ordering::Relaxed)
    }

    /// How often Graph answered 429 because of too many requests at once, not counting faults on request.
    pub fn graph_limits_hit(&self) -> u64 {
        self.world.counts.graph_limits_hit.load(Ordering::Relaxed)
    }

    /// Drafts that are in a mailbox now.
    pub fn drafts(&self, mailbox: &str) -> usize {
        let mailbox = folded(mailbox);
        let drafts = locked(&self.world.graph.drafts);
        drafts.values().filter(|draft| draft.mailbox == mailbox).count()
    }
}

impl World {
    /// The faults to show now, which are used up by that.
    pub(super) fn take_graph_faults(&self, at: Option<GraphStep>) -> Shown {
        let mut faults = locked(&self.faults);
        let mut shown = Shown::default();
        let outage = faults.graph_outage;
        match outage {
            Some(GraphFault::Delay(delay)) => shown.delay = delay,
            Some(_) => return Shown { fault: outage, ..shown },
            None => {}
        }
        let covers = |rule: &&mut GraphRule| rule.step == GraphStep::Any || Some(rule.step) == at;
        for rule in faults.graph.iter_mut().filter(covers) {
            match rule.fault {
                _ if rule.left == Some(0) => continue,
                GraphFault::Delay(delay) => shown.delay += delay,
                fault if shown.fault.is_none() => shown.fault = Some(fault),
                _ => continue,
            }
            rule.left = rule.left.map(|left| left - 1);
        }
        faults.graph.retain(|rule| rule.left != Some(0));
        shown
    }
}

impl Shown {
    /// The last word about a request that was answered so.
    pub(super) fn end(&self, world: &World, headers: &HeaderMap, done: Answer) -> Response {
        match done {
            _ if self.fault == Some(GraphFault::Unanswered) => hang_up(),
            Ok(response) => response,
            Err(refused) => refused.answer(world, headers),
        }
    }

    /// The error to answer with, if it is one.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        Some(match self.fault? {
            GraphFault::Throttled { retry_after } => {
                let text = "Application is over its MailboxConcurrency limit.";
                Refusal { retry_after, ..refuse(429, "ApplicationThrottled", text) }
            }
            GraphFault::Unavailable { retry_after } => {
                let text = "The service is unavailable.";
                Refusal { retry_after, ..refuse(503, "serviceNotAvailable", text) }
            }
            GraphFault::AccessDenied => denied(),
            GraphFault::MailboxNotEnabled => refuse(
                404,
                "MailboxNotEnabledForRESTAPI",
                "The mailbox is either inactive, soft-deleted, or is hosted on-premise.",
            ),
            GraphFault::Closed | GraphFault::Unanswered | GraphFault::Delay(_) => return None,
        })
    }
}
