//! A message that does not fit into one request: a draft of what is left without its largest attachments, these one
//! by one, and off.
//!
//! Invariant: at most two are under way in the process; of each, its attachments are in memory.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use url::Url;

use super::client::Done;
use super::fault::Fault;
use super::recipients::Hidden;
use super::session::Session;
use crate::outbox::{Attachment, Cut};

/// Graph's limit for a request (Microsoft Graph, "Attach large files to Outlook messages").
pub(super) const REQUEST: usize = 4 * 1024 * 1024;

/// Octets of MIME whose base64 fits into that.
pub(super) const MIME: usize = REQUEST / 4 * 3;

/// From this size on an attachment goes by an upload.
const UPLOAD: usize = 3 * 1024 * 1024;

/// Octets of a piece of an upload: a multiple of 320 KiB below 4 MB.
const PIECE: usize = 12 * 320 * 1024;

/// Messages that may be in memory at once.
static PLACES: Semaphore = Semaphore::const_new(2);

/// Waits for the turn of a message of this size.
pub(super) async fn turn(octets: u64) -> Option<SemaphorePermit<'static>> {
    match usize::try_from(octets).is_ok_and(|octets| octets <= MIME) {
        true => None,
        false => PLACES.acquire().await.ok(),
    }
}

/// The form of a MIME message in a request.
pub(super) fn in_base64(message: &[u8]) -> Bytes {
    BASE64_STANDARD.encode(message).into()
}

/// Sends what was cut.
pub(super) async fn send(
    session: &mut Session<'_>,
    cut: Cut,
    hidden: &Hidden,
) -> Result<Done, Fault> {
    let Cut { mut rest, attachments } = cut;
    hidden.add_to(&mut rest);
    let made = session.post(&["messages"], "text/plain", in_base64(&rest)).await?;
    drop(rest);
    let id = id_of(&made)?;
    let draft = session.draft(&id);
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
        attach(session, id, attachment).await?;
    }
    session.post(&["messages", id, "send"], "", Bytes::new()).await
}

async fn attach(session: &mut Session<'_>, id: &str, attachment: Attachment) -> Result<(), Fault> {
    if attachment.octets.len() >= UPLOAD {
        return upload(session, id, attachment).await;
    }
    let Attachment { name, content_type, inline, content_id, octets } = attachment;
    let body = json!({
        "@odata.type": "#microsoft.graph.fileAttachment",
        "name": name,
        "contentType": content_type,
        "isInline": inline,
        "contentId": content_id,
        "contentBytes": BASE64_STANDARD.encode(&octets),
    });
    drop(octets);
    session
        .post(&["messages", id, "attachments"], "application/json", in_json(&body))
        .await
        .map(drop)
}

async fn upload(session: &mut Session<'_>, id: &str, attachment: Attachment) -> Result<(), Fault> {
    let Attachment { name, content_type, inline, content_id, octets } = attachment;
    let size = octets.len();
    let body = in_json(&json!({ "AttachmentItem": {
        "attachmentType": "file",
        "name": name,
        "size": size,
        "contentType": content_type,
        "isInline": inline,
        "contentId": content_id,
    } }));
    let path = ["messages", id, "attachments", "createUploadSession"];
    let url = address_of(&session.post(&path, "application/json", body).await?)?;
    let octets = Bytes::from(octets);
    let mut from = 0;
    while from < size {
        let to = size.min(from + PIECE);
        let range = format!("bytes {from}-{}/{size}", to - 1);
        session.put(&url, range, octets.slice(from..to)).await?;
        from = to;
    }
    Ok(())
}

fn in_json(body: &Value) -> Bytes {
    body.to_string().into()
}

fn id_of(made: &Done) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Answer {
        id: String,
    }
    let answer = serde_json::from_slice::<Answer>(&made.body);
    answer.map(|answer| answer.id).map_err(|_| unreadable("a draft", made))
}

fn address_of(made: &Done) -> Result<Url, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        upload_url: String,
    }
    let answer = serde_json::from_slice::<Answer>(&made.body).ok();
    let url = answer.and_then(|answer| Url::parse(&answer.upload_url).ok());
    url.ok_or_else(|| unreadable("an upload", made))
}

/// Whatever was made can't be found again.
fn unreadable(what: &str, made: &Done) -> Fault {
    let reason =
        format!("Microsoft Graph's answer for {what} is not one (request-id {})", made.request_id);
    Fault::Silent { reason, asked: true }
}
