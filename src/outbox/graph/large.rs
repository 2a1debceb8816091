//! A message that does not fit into one request: a draft of what is left without its largest attachments, these one
//! by one, and off.
//!
//! Invariant: at most four are under way in the process; of each, no more than a draft and a small attachment is in
//! memory.

use std::io;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;
use url::Url;

use super::body::{Body, Flow, pour};
use super::client::Done;
use super::fault::Fault;
use super::recipients::Hidden;
use super::session::Session;
use crate::json::Object;
use crate::outbox::{Attachment, Begun, Content, Cut};

/// Graph's limit for a request (Microsoft Graph, "Attach large files to Outlook messages").
pub(super) const REQUEST: usize = 4 * 1024 * 1024;

/// Octets of MIME whose base64 fits into that.
pub(super) const MIME: usize = REQUEST / 4 * 3;

/// From this size on an attachment goes by an upload.
const UPLOAD: usize = 3 * 1024 * 1024;

/// Octets of a piece of an upload: a multiple of 320 KiB below 4 MB.
const PIECE: usize = 12 * 320 * 1024;

/// Such messages that may be under way at once. Each has some megabytes in memory, and a mailbox has three at once unless
/// its limits say otherwise: one that hangs leaves a place to the others.
static PLACES: Semaphore = Semaphore::const_new(4);

/// Waits for the turn of a message of this size. One that is sent while it is read needs none.
pub(super) async fn turn(octets: usize) -> Option<SemaphorePermit<'static>> {
    match octets <= MIME {
        true => None,
        false => PLACES.acquire().await.ok(),
    }
}

/// Off the runtime: the disk, and what takes a while.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    spawn_blocking(work).await.map_err(|error| Fault::Unreadable(io::Error::other(error)))
}

/// Sends what was cut.
pub(super) async fn send(
    session: &mut Session<'_>,
    cut: Cut,
    hidden: &Hidden,
    begun: &Begun,
) -> Result<Done, Fault> {
    let Cut { mut rest, attachments } = cut;
    hidden.add_to(&mut rest);
    let body =
        Body::Message { header: rest.into(), content: Content::of_octets(vec![]), behind: 0 };
    let made = session.post(&["messages"], "text/plain", body).await.map_err(Fault::of_draft)?;
    let id = id_of(&made)?;
    let draft = session.draft(&id, begun).await;
    let sent = complete(session, &id, attachments).await;
    match &sent {
        Ok(_) => draft.sent(),
        Err(_) => draft.delete(session).await,
    }
    sent
}

async fn complete(
    session: &mut Session<'_>,
    id: &str,
    attachments: Vec<Attachment>,
) -> Result<Done, Fault> {
    for attachment in attachments {
        attach(session, id, attachment).await.map_err(Fault::of_draft)?;
    }
    session.post(&["messages", id, "send"], "", Body::Octets(Bytes::new())).await
}

async fn attach(session: &mut Session<'_>, id: &str, attachment: Attachment) -> Result<(), Fault> {
    if attachment.size >= UPLOAD {
        return upload(session, id, attachment).await;
    }
    let mut body = json!({
        "@odata.type": "#microsoft.graph.fileAttachment",
        "name": attachment.name,
        "contentType": attachment.content_type,
        "isInline": attachment.inline,
        "contentId": attachment.content_id,
    })
    .to_string();
    let size = attachment.size;
    let (octets, _) = attachment.next(size).await.map_err(Fault::Unreadable)?;
    // By hand, so that it is not there several times.
    body.truncate(body.len() - 1);
    body += ",\"contentBytes\":\"";
    BASE64_STANDARD.encode_string(&octets, &mut body);
    drop(octets);
    body += "\"}";
    let path = ["messages", id, "attachments"];
    session.post(&path, "application/json", Body::Octets(body.into())).await.map(drop)
}

async fn upload(
    session: &mut Session<'_>,
    id: &str,
    mut attachment: Attachment,
) -> Result<(), Fault> {
    let size = attachment.size;
    let body = json!({ "AttachmentItem": {
        "attachmentType": "file",
        "name": attachment.name,
        "size": size,
        "contentType": attachment.content_type,
        "isInline": attachment.inline,
        "contentId": attachment.content_id,
    } });
    let path = ["messages", id, "attachments", "createUploadSession"];
    let made =
        session.post(&path, "application/json", Body::Octets(body.to_string().into())).await?;
    let url = address_of(&made)?;
    let mut from = 0;
    while from < size {
        let to = size.min(from + PIECE);
        let range = format!("bytes {from}-{}/{size}", to - 1);
        let (inlet, flow) = Flow::new(to - from);
        let mut put = std::pin::pin!(session.put(&url, range, flow));
        // An answer may come before all is sent, but not a good one.
        attachment = tokio::select! {
            answer = &mut put => {
                let Done { request_id, .. } = answer?;
                let reason = format!("an upload was answered too early (request-id {request_id})");
                return Err(Fault::Silent { reason, asked: true });
            }
            rest = pour(inlet, attachment, to - from) => rest?,
        };
        put.await?;
        from = to;
    }
    Ok(())
}

fn id_of(made: &Done) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Answer {
        id: String,
    }
    let answer = serde_json::from_slice::<Object<Answer>>(&made.body);
    answer.map(|Object(answer)| answer.id).map_err(|_| unreadable("a draft", made))
}

fn address_of(made: &Done) -> Result<Url, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        upload_url: String,
    }
    let answer = serde_json::from_slice::<Object<Answer>>(&made.body).ok();
    let url = answer.and_then(|Object(answer)| Url::parse(&answer.upload_url).ok());
    url.ok_or_else(|| unreadable("an upload", made))
}

/// Whatever was made can't be found again.
fn unreadable(what: &str, made: &Done) -> Fault {
    let reason =
        format!("Microsoft Graph's answer for {what} is not one (request-id {})", made.request_id);
    Fault::Silent { reason, asked: true }
}
