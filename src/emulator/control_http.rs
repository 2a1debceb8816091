//! The faults over HTTP, for shell scripts, on the token endpoint's server.
//!
//! Everything that changes something is a POST with a form (`curl -d name=value`), answered by 204, or
//! by 400 and the reason in words:
//!
//! | path | fields |
//! | --- | --- |
//! | `POST /emulator/token-fault` | `count` (1), and `status` with `retry_after` if wanted, or `aadsts`, or `closed` |
//! | `POST /emulator/token-outage` | as above, until `off` |
//! | `POST /emulator/token-delay` | `milliseconds` |
//! | `POST /emulator/token-life` | `seconds`; none for the default |
//! | `POST /emulator/revoke-access` | |
//! | `POST /emulator/revoke-refresh` | `user` |
//! | `POST /emulator/login-fault` | `kind`: `auth-failed`, `not-connected`, `smtp-auth-disabled`, `throttled` (`milliseconds`), `connection-limit`; `count` (1) |
//! | `POST /emulator/mail-outage`, `POST /emulator/challenge` | `off` to end it |
//! | `POST /emulator/disconnect` | cuts all mail sessions |
//! | `POST /emulator/deliver` | `mailbox`, `message` |
//! | `POST /emulator/clear` | takes back all faults |
//! | `POST /emulator/refresh-token` | `user`; the answer is the token |
//! | `POST /emulator/access-token` | `user`, none for app-only; the answer is the token |
//! | `GET /emulator/state` | counts, as JSON |
//! | `GET /emulator/sent` | mail sent elsewhere, as JSON |
//! | `GET /emulator/messages` | `mailbox`, `folder` (INBOX): messages, as JSON |
//! | `GET /emulator/ca.pem` | the CA |
//!
//! Invariant: whatever can be done here can be done with [`Control`], and nothing else.

use std::{sync::Arc, time::Duration};

use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Control, LoginFault, SentMail, TokenFault, World, entra::Form};

/// Why a request was not understood.
type Complaint = String;

/// Answers one request to `/emulator/{action}`.
pub(super) fn answer(world: &Arc<World>, method: &Method, action: &str, form: &Form) -> Response {
    let control = Control::new(world.clone());
    let done = match *method {
        Method::GET => look(world, &control, action, form),
        Method::POST => change(&control, action, form),
        _ => return StatusCode::METHOD_NOT_ALLOWED.into_response(),
    };
    match done {
        Ok(Some(text)) => text.into_response(),
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(complaint) => (StatusCode::BAD_REQUEST, format!("{complaint}\n")).into_response(),
    }
}

fn look(
    world: &World,
    control: &Control,
    action: &str,
    form: &Form,
) -> Result<Option<String>, Complaint> {
    let text = |octets: &[u8]| Value::from(String::from_utf8_lossy(octets));
    Ok(Some(match action {
        "ca.pem" => world.ca_pem.clone(),
        "state" => json!({
            "token_requests": control.token_requests(),
            "connections": control.connections(),
            "live_connections": control.live_connections(),
            "logins": control.logins(),
        })
        .to_string(),
        "sent" => {
            let mail = |m: SentMail| json!({ "sender": m.sender, "recipients": m.recipients, "data": text(&m.data) });
            Value::from_iter(control.sent_elsewhere().into_iter().map(mail)).to_string()
        }
        "messages" => {
            let folder = form.get("folder").map_or("INBOX", String::as_str);
            let messages = control.messages(word(form, "mailbox")?, folder);
            Value::from_iter(messages.iter().map(|octets| text(octets))).to_string()
        }
        other => return Err(format!("no such path for GET: {other}")),
    }))
}

fn change(control: &Control, action: &str, form: &Form) -> Result<Option<String>, Complaint> {
    let on = !form.contains_key("off");
    match action {
        "token-fault" => control.fail_token_requests(count(form)?, token_fault(form)?),
        "token-outage" => {
            control.set_token_outage(if on { Some(token_fault(form)?) } else { None })
        }
        "token-delay" => {
            control.set_token_delay(Duration::from_millis(number(form, "milliseconds")?))
        }
        "token-life" if form.contains_key("seconds") => {
            control.set_token_life(Some(Duration::from_secs(number(form, "seconds")?)));
        }
        "token-life" => control.set_token_life(None),
        "revoke-access" => control.revoke_access_tokens(),
        "revoke-refresh" => control.revoke_refresh_tokens(word(form, "user")?),
        "login-fault" => control.fail_logins(count(form)?, login_fault(form)?),
        "mail-outage" => control.set_mail_outage(on),
        "challenge" => control.set_challenge(on),
        "disconnect" => control.disconnect_all(),
        "clear" => control.clear_faults(),
        "deliver" => {
            let mailbox = word(form, "mailbox")?;
            if !control.deliver(mailbox, word(form, "message")?.as_bytes()) {
                return Err(format!("no such mailbox: {mailbox}"));
            }
        }
        "refresh-token" => return Ok(Some(control.issue_refresh_token(word(form, "user")?))),
        "access-token" => {
            return Ok(Some(control.issue_access_token(form.get("user").map(String::as_str))));
        }
        other => return Err(format!("no such path for POST: {other}")),
    }
    Ok(None)
}

fn token_fault(form: &Form) -> Result<TokenFault, Complaint> {
    if form.contains_key("closed") {
        return Ok(TokenFault::Closed);
    }
    if form.contains_key("aadsts") {
        return Ok(TokenFault::Aadsts(number(form, "aadsts")?));
    }
    let retry_after =
        form.contains_key("retry_after").then(|| number(form, "retry_after")).transpose()?;
    Ok(TokenFault::Status { status: number(form, "status")?, retry_after })
}

fn login_fault(form: &Form) -> Result<LoginFault, Complaint> {
    Ok(match word(form, "kind")? {
        "auth-failed" => LoginFault::AuthFailed,
        "not-connected" => LoginFault::NotConnected,
        "smtp-auth-disabled" => LoginFault::SmtpAuthDisabled,
        "throttled" => LoginFault::Throttled { milliseconds: number(form, "milliseconds")? },
        "connection-limit" => LoginFault::ConnectionLimit,
        other => return Err(format!("no such kind: {other}")),
    })
}

fn count(form: &Form) -> Result<usize, Complaint> {
    if form.contains_key("count") { number(form, "count") } else { Ok(1) }
}

fn number<T: std::str::FromStr>(form: &Form, name: &str) -> Result<T, Complaint> {
    word(form, name)?.parse().map_err(|_| format!("{name} must be a number"))
}

fn word<'a>(form: &'a Form, name: &str) -> Result<&'a str, Complaint> {
    form.get(name).map(String::as_str).ok_or_else(|| format!("{name} is missing"))
}
