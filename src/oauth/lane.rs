//! One token endpoint, and who asks it in the background.
//!
//! Invariant: however many tokens are due at once (all of them, when a machine was off for hours), no more than a few
//! are asked for at a time, first come, first served; an endpoint that does not answer keeps nobody from another one.
//! Who has a login waiting does not wait here.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::TokenEndpoint;
use super::desk::Desk;
use super::office::Office;

/// Requests at a time: with Entra's usual 0.3 s for an answer some hundred a second, while 100,000 tokens of an hour's
/// life, each renewed at half of it, want 56.
const AT_ONCE: usize = 32;

/// See the module.
pub(super) struct Lane {
    pub(super) endpoint: Arc<dyn TokenEndpoint>,
    due: mpsc::UnboundedSender<Arc<Desk>>,
}

/// One of the few at a time, until it is dropped.
pub(super) struct Place(#[allow(dead_code, reason = "it is held")] OwnedSemaphorePermit);

impl Lane {
    pub(super) fn begin(endpoint: Arc<dyn TokenEndpoint>, office: &Arc<Office>) -> Arc<Self> {
        let (due, queue) = mpsc::unbounded_channel();
        office.spawn(serve(queue, Arc::clone(office)));
        Arc::new(Self { endpoint, due })
    }

    /// Somebody's token is due.
    pub(super) fn queue(&self, desk: Arc<Desk>) {
        // After a stop nobody is served.
        let _ = self.due.send(desk);
    }
}

/// Ends with its lane.
async fn serve(mut queue: mpsc::UnboundedReceiver<Arc<Desk>>, office: Arc<Office>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(desk) = queue.recv().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        desk.attend(&office, Place(place));
    }
}
