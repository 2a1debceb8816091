//! Upload sessions: a large attachment in pieces, to an address that is its own permission.
//!
//! Invariant: pieces are taken in order and without gaps; the attachment is on the draft once it is whole,
//! and not before.

use std::time::Duration;

use axum::{
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    Answer, Call, REQUEST_LIMIT, Refusal,
    drafts::{self, Draft, not_found},
    json_answer, refuse,
};
use crate::{World, calendar, calendar::Style, locked, tokens::unique};

/// Documented as 3 MB; what is smaller goes by one request.
const SMALLEST: usize = 3 * 1024 * 1024;

/// Documented as 150 MB.
const LARGEST: usize = 150 * 1024 * 1024;

/// What pieces are a multiple of, but for the last. Documented for files in OneDrive; Outlook's sessions
/// take more, and whoever keeps this one is right with both.
const UNIT: usize = 320 * 1024;

/// How long a session waits for its next piece.
const LIFE: Duration = Duration::from_secs(3_600);

/// An attachment that is not whole yet.
pub(super) struct Upload {
    draft: String,
    /// Name, type and so on.
    item: Value,
    size: usize,
    received: Vec<u8>,
}

/// `POST …/attachments/createUploadSession`.
pub(super) fn open(call: &Call<'_>, draft: &str) -> Answer {
    call.need("Mail.ReadWrite")?;
    let body = call.json()?;
    let item = &body["AttachmentItem"];
    let size = item["size"].as_u64().and_then(|size| usize::try_from(size).ok());
    let (Some(size), "file") = (size, item["attachmentType"].as_str().unwrap_or_default()) else {
        return Err(refuse(400, "BadRequest", "The AttachmentItem must be a file with its size."));
    };
    drafts::described(item, Vec::new())?;
    if size < SMALLEST {
        let text = "The size of the attachment should not be less than the minimum size.";
        return Err(refuse(400, "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize", text));
    }
    if size > LARGEST {
        let text = "The attachment exceeds the maximum supported size.";
        return Err(refuse(413, "ErrorAttachmentSizeLimitExceeded", text));
    }
    Draft::find(&mut locked(&call.world.graph.drafts), call, draft)?;
    let token = unique(48);
    let host = call.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or("localhost");
    let url =
        format!("http://{host}/outlook/v2.0/AttachmentSessions/{}?authtoken={token}", unique(24));
    let mut answer = progress(call.world, "0-");
    answer["uploadUrl"] = json!(url);
    let upload = Upload { draft: draft.to_owned(), item: item.clone(), size, received: Vec::new() };
    locked(&call.world.graph.uploads).insert(token, upload);
    Ok(json_answer(StatusCode::CREATED, &answer))
}

/// Answers a request to the address of an upload.
pub(super) fn answer(
    world: &World,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Answer {
    // the address is for Outlook, a token that the client has is for Graph
    if headers.contains_key(header::AUTHORIZATION) {
        let text = "The audience claim value is invalid for current resource. Audience claim is \
            'https://graph.microsoft.com'.";
        return Err(refuse(401, "InvalidAudienceForResource", text));
    }
    let token = uri.query().and_then(|query| query.strip_prefix("authtoken=")).unwrap_or_default();
    let mut uploads = locked(&world.graph.uploads);
    let upload = uploads.get_mut(token).ok_or_else(not_found)?;
    if *method == Method::DELETE {
        uploads.remove(token);
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    if *method == Method::PUT {
        upload.take(headers, body)?;
        if upload.received.len() == upload.size {
            let whole = uploads.remove(token).ok_or_else(not_found)?;
            return whole.finish(world);
        }
    } else if *method != Method::GET {
        return Err(refuse(405, "ErrorInvalidRequest", "The method is not allowed."));
    }
    let next = upload.received.len().to_string();
    Ok(json_answer(StatusCode::OK, &progress(world, &next)))
}

/// Where to go on. Outlook tells a number alone where OneDrive tells ranges.
fn progress(world: &World, next: &str) -> Value {
    json!({
        "expirationDateTime": calendar::at(world.now() + LIFE, Style::Graph),
        "nextExpectedRanges": [next],
    })
}

impl Upload {
    fn take(&mut self, headers: &HeaderMap, body: &Bytes) -> Result<(), Refusal> {
        if body.len() > REQUEST_LIMIT {
            return Err(refuse(413, "RequestEntityTooLarge", "Maximum request length exceeded."));
        }
        let range = headers.get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let (first, last, size) = range.and_then(content_range).ok_or_else(|| {
            refuse(400, "ErrorInvalidRequest", "The Content-Range header is missing or wrong.")
        })?;
        if size != self.size || last.checked_sub(first).is_none_or(|more| more + 1 != body.len()) {
            let text = "The Content-Range header does not fit the content or the session.";
            return Err(refuse(400, "ErrorInvalidRequest", text));
        }
        if first != self.received.len() || last >= self.size {
            let next = self.received.len();
            let text = format!("The range is not the one that comes next, from {next}.");
            return Err(refuse(416, "ErrorInvalidRange", text));
        }
        if last + 1 < self.size && !body.len().is_multiple_of(UNIT) {
            let text = "Pieces but the last must be a multiple of 320 KiB.";
            return Err(refuse(400, "ErrorInvalidRequest", text));
        }
        self.received.extend_from_slice(body);
        Ok(())
    }

    fn finish(self, world: &World) -> Result<Response, Refusal> {
        let attachment = drafts::described(&self.item, self.received)?;
        let mut drafts = locked(&world.graph.drafts);
        let draft = drafts.get_mut(&self.draft).ok_or_else(not_found)?;
        draft.attachments.push(attachment);
        let location = format!(
            "https://outlook.office.com/api/v2.0/Users('{}')/Messages('{}')/Attachments('AAMkA{}=')",
            draft.mailbox,
            self.draft,
            unique(60)
        );
        Ok((StatusCode::CREATED, [(header::LOCATION, location)]).into_response())
    }
}

/// First octet, last octet and size of `bytes 0-9/20` (RFC 9110 section 14.4).
fn content_range(text: &str) -> Option<(usize, usize, usize)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}
