//! Drafts: made of MIME, filled with small attachments, sent or deleted.
//!
//! Invariant: a draft is seen only in the mailbox that it was made in.

use std::collections::HashMap;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Answer, Call, Refusal, json_answer, mime::Mime, refuse, send};
use crate::{Attachment, calendar, calendar::Style, locked, tokens::unique};

/// A message that is not sent yet.
pub(super) struct Draft {
    pub(super) mailbox: String,
    pub(super) mime: Vec<u8>,
    pub(super) attachments: Vec<Attachment>,
}

impl Draft {
    /// The draft of this id, if it is in the caller's mailbox.
    pub(super) fn find<'a>(
        drafts: &'a mut HashMap<String, Self>,
        call: &Call<'_>,
        id: &str,
    ) -> Result<&'a mut Self, Refusal> {
        let own = drafts.get_mut(id).filter(|draft| draft.mailbox == call.grant.mailbox);
        own.ok_or_else(not_found)
    }
}

pub(super) fn not_found() -> Refusal {
    refuse(404, "ErrorItemNotFound", "The specified object was not found in the store.")
}

/// `POST …/messages`.
pub(super) fn create(call: &Call<'_>) -> Answer {
    call.need("Mail.ReadWrite")?;
    let mime = send::message(call)?;
    // as Exchange's look: they contain what an address must encode
    let id = format!("AAMkA{}=", unique(90));
    let subject = Mime::parse(&mime).and_then(|mime| mime.value("subject"));
    let body = json!({
        "id": id,
        "isDraft": true,
        "subject": subject.unwrap_or_default(),
        "hasAttachments": false,
        "createdDateTime": calendar::at(call.world.now(), Style::Graph),
    });
    let (mailbox, attachments) = (call.grant.mailbox.clone(), Vec::new());
    locked(&call.world.graph.drafts).insert(id, Draft { mailbox, mime, attachments });
    Ok(json_answer(StatusCode::CREATED, &body))
}

/// `DELETE …/messages/{id}`.
pub(super) fn delete(call: &Call<'_>, id: &str) -> Answer {
    call.need("Mail.ReadWrite")?;
    let mut drafts = locked(&call.world.graph.drafts);
    Draft::find(&mut drafts, call, id)?;
    drafts.remove(id);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST …/attachments` with a `fileAttachment`. The limit of a request keeps it small.
pub(super) fn attach(call: &Call<'_>, draft: &str) -> Answer {
    call.need("Mail.ReadWrite")?;
    let body = call.json()?;
    if body["@odata.type"] != "#microsoft.graph.fileAttachment" {
        return Err(refuse(400, "BadRequest", "The emulator takes a fileAttachment alone."));
    }
    let content = body["contentBytes"].as_str().and_then(|text| STANDARD.decode(text).ok());
    let content = content.ok_or_else(|| {
        refuse(400, "RequestBodyRead", "Cannot convert 'contentBytes' to the type 'Edm.Binary'.")
    })?;
    let attachment = described(&body, content)?;
    let size = attachment.data.len();
    let mut drafts = locked(&call.world.graph.drafts);
    Draft::find(&mut drafts, call, draft)?.attachments.push(attachment);
    Ok(created(&body, size))
}

/// An attachment of this description, which requests have in the same words.
pub(super) fn described(body: &Value, content: Vec<u8>) -> Result<Attachment, Refusal> {
    let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let nameless = || refuse(400, "ErrorInvalidProperty", "The attachment has no name.");
    Ok(Attachment {
        name: text("name").ok_or_else(nameless)?,
        content_type: text("contentType").unwrap_or_else(|| "application/octet-stream".to_owned()),
        content_id: text("contentId"),
        inline: body["isInline"].as_bool().unwrap_or(false),
        data: content.into(),
    })
}

fn created(body: &Value, size: usize) -> Response {
    let answer = json!({
        "@odata.type": body["@odata.type"],
        "id": format!("AAMkA{}=", unique(60)),
        "name": body["name"],
        "contentType": body["contentType"],
        "isInline": body["isInline"].as_bool().unwrap_or(false),
        "size": size,
    });
    json_answer(StatusCode::CREATED, &answer)
}
