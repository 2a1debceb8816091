//! Sending: a MIME message at once, or a draft with its attachments.
//!
//! Invariant: a message goes to all whom its `To`, `Cc` and `Bcc` name, and to each of them once.

use std::collections::HashSet;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Answer, Call, Refusal, drafts::Draft, mime::Mime, refuse};
use crate::{
    Attachment, Way, locked,
    mailbox::{Envelope, Submission},
    tokens::{folded, unique},
};

/// Exchange Online's limit of a message, as over SMTP.
const MESSAGE_LIMIT: usize = 157_286_400;

/// What lines of base64 have (RFC 2045 section 6.8), in octets before the encoding.
const LINE: usize = 57;

/// `POST …/sendMail`.
pub(super) fn at_once(call: &Call<'_>) -> Answer {
    call.need("Mail.Send")?;
    let mime = message(call)?;
    submit(call, &mime, &[])?;
    Ok(accepted())
}

/// `POST …/messages/{id}/send`. The draft is gone behind it.
pub(super) fn draft(call: &Call<'_>, id: &str) -> Answer {
    call.need("Mail.Send")?;
    let mut drafts = locked(&call.world.graph.drafts);
    let draft = Draft::find(&mut drafts, call, id)?;
    submit(call, &draft.mime, &draft.attachments)?;
    drafts.remove(id);
    Ok(accepted())
}

/// The MIME message in a request's body, base64 in `text/plain`.
pub(super) fn message(call: &Call<'_>) -> Result<Vec<u8>, Refusal> {
    if !call.is("text/plain") {
        return Err(refuse(400, "BadRequest", "The emulator takes MIME in text/plain alone."));
    }
    let malformed = || {
        let text = "Invalid base64 string for MIME content.";
        refuse(400, "ErrorMimeContentInvalidBase64String", text)
    };
    let wanted = |octet: &u8| !octet.is_ascii_whitespace();
    let encoded: Vec<u8> = call.body.iter().copied().filter(wanted).collect();
    let decoded = STANDARD.decode(encoded).map_err(|_| malformed())?;
    // Graph has one word for both
    if Mime::parse(&decoded).is_none() { Err(malformed()) } else { Ok(decoded) }
}

fn accepted() -> Response {
    StatusCode::ACCEPTED.into_response()
}

fn submit(call: &Call<'_>, octets: &[u8], attachments: &[Attachment]) -> Result<(), Refusal> {
    let Some(mime) = Mime::parse(octets) else {
        return Err(refuse(400, "ErrorMimeContentInvalid", "The MIME content is not valid."));
    };
    let sender = sender(call, &mime)?;
    let recipients = recipients(&mime)?;
    let files: usize = attachments.iter().map(|file| file.data.len()).sum();
    if octets.len() + files > MESSAGE_LIMIT {
        let text = "The message exceeds the maximum supported size.";
        return Err(refuse(413, "ErrorMessageSizeExceeded", text));
    }
    let whole = |bcc: bool| match attachments {
        [] if bcc => octets.to_vec(),
        [] => mime.without_bcc(),
        _ => composed(&mime, bcc, attachments),
    };
    let recipient_parameters = vec![Vec::new(); recipients.len()];
    let envelope = Envelope { sender, recipients, recipient_parameters, ..Envelope::default() };
    call.world.mail.deliver(Submission {
        way: Way::Graph,
        mailbox: call.grant.mailbox.clone(),
        envelope,
        data: mime.without_bcc().into(),
        arrives: Some(whole(false).into()),
        kept: Some(whole(true).into()),
        attachments: attachments.to_vec(),
    });
    Ok(())
}

/// The address that the message is from; whoever else it names as such must be allowed too.
fn sender(call: &Call<'_>, mime: &Mime<'_>) -> Result<String, Refusal> {
    let mailbox = &call.grant.mailbox;
    let mut first = None;
    for name in ["from", "sender"] {
        for address in mime.addresses(name).map_err(|wrong| send_as_denied(&wrong))? {
            if !call.world.tokens.may_send_as(&call.grant, &address) {
                return Err(send_as_denied(&address));
            }
            if folded(&address) != *mailbox && !call.shared {
                call.need_exactly("Mail.Send.Shared")?;
            }
            first.get_or_insert(address);
        }
    }
    Ok(first.unwrap_or_else(|| mailbox.clone()))
}

fn send_as_denied(sender: &str) -> Refusal {
    let text = format!(
        "The user account which was used to submit this request does not have the right to send mail on \
         behalf of the specified sending account., Cannot submit message as {sender}."
    );
    refuse(403, "ErrorSendAsDenied", text)
}

fn recipients(mime: &Mime<'_>) -> Result<Vec<String>, Refusal> {
    let invalid = |text: String| {
        refuse(
            400,
            "ErrorInvalidRecipients",
            format!("At least one recipient isn't valid., {text}"),
        )
    };
    let (mut recipients, mut seen) = (Vec::new(), HashSet::new());
    for name in ["to", "cc", "bcc"] {
        let wrong = |wrong| invalid(format!("Recipient '{wrong}' isn't resolved."));
        let found = mime.addresses(name).map_err(wrong)?;
        recipients.extend(found.into_iter().filter(|address| seen.insert(folded(address))));
    }
    match recipients.is_empty() {
        true => Err(invalid("A message can't be sent because it contains no recipients.".into())),
        false => Ok(recipients),
    }
}

/// A message with its attachments in it, as mailboxes get it.
fn composed(mime: &Mime<'_>, bcc: bool, attachments: &[Attachment]) -> Vec<u8> {
    let content = |name: &str| name.starts_with("content-") || name == "mime-version";
    let boundary = format!("_000_{}_", unique(24));
    let mut whole = mime.header(|name| !content(name) && (bcc || name != "bcc"));
    whole.extend_from_slice(
        format!(
            "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n\
             --{boundary}\r\n"
        )
        .as_bytes(),
    );
    whole.extend(mime.header(|name| name.starts_with("content-")));
    whole.extend_from_slice(mime.rest());
    for Attachment { name, content_type, content_id, inline, data } in attachments {
        let id = content_id.as_ref().map(|id| format!("Content-ID: <{id}>\r\n"));
        let disposition = if *inline { "inline" } else { "attachment" };
        let name = name.replace(['"', '\\', '\r', '\n'], "_");
        whole.extend_from_slice(
            format!(
                "\r\n--{boundary}\r\nContent-Type: {content_type}; name=\"{name}\"\r\n{}\
                 Content-Disposition: {disposition}; filename=\"{name}\"\r\n\
                 Content-Transfer-Encoding: base64\r\n\r\n",
                id.unwrap_or_default()
            )
            .as_bytes(),
        );
        for line in data.chunks(LINE) {
            whole.extend_from_slice(STANDARD.encode(line).as_bytes());
            whole.extend_from_slice(b"\r\n");
        }
    }
    whole.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    whole
}
