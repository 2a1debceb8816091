//! The faults over HTTP, for shell scripts, on the token endpoint's server.
//!
//! Everything is a POST with a form (`curl -d name=value`), but for those that only look:
//!
//! | path | fields |
//! | --- | --- |
//! | `/emulator/token-fault` | `status` with `retry_after` if wanted, or `aadsts`, or `closed`; `count` (1) |
//! | `/emulator/token-outage` | as above, until `off` |
//! | `/emulator/token-life` | `seconds`; none for the default |
//! | `/emulator/revoke-access`, `/emulator/revoke-refresh` | `user` for the latter |
//! | `/emulator/login-fault` | `kind`: `auth-failed`, `not-connected`, `smtp-auth-disabled`, `smtp-auth-disabled-mailbox`, `send-as-denied`, `sender-refused`, `access-token-expired`, `throttled`, `connection-limit`; `count` (1) |
//! | `/emulator/login-outage` | `kind` as above, until `off` |
//! | `/emulator/smtp-fault` | `at`: `auth`, `mail`, `rcpt` (with `address` if wanted), `data`; `reply`, or `delay_ms`, or `closed`, or `lost`; `count` (none: until taken back); `off` takes all of them back |
//! | `/emulator/graph-fault` | `status`: 429 or 503, with `retry_after` if wanted, 403 or 404; or `closed`, `unanswered` or `delay_ms`; `step` (any): `send-mail`, `create`, `attach`, `open-upload`, `upload`, `send`, `delete`; `count` (none: until taken back); `off` takes all of them back |
//! | `/emulator/graph-outage` | the fault as above, until `off` |
//! | `/emulator/clock-offset` | `seconds`, may be negative |
//! | `/emulator/approve-device`, `/emulator/decline-device` | `user_code`, and `user` for the former |
//! | `/emulator/mail-outage` | until `off` |
//! | `/emulator/disconnect`, `/emulator/clear` | |
//! | `/emulator/deliver` | `mailbox`, `message` |
//! | `/emulator/refresh-token`, `/emulator/access-token`, `/emulator/graph-token` | `user` (none: app-only); the answer is the token |
//! | `GET /emulator/state`, `GET /emulator/ca.pem` | counts as JSON; the CA |
//! | `GET /emulator/device-codes` | the user codes that wait, one a line |
//!
//! Invariant: whatever can be done here can be done with [`Control`], and nothing else.

use std::{str::FromStr, sync::Arc, time::Duration};

use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{
    Control, Form, GraphFault, GraphStep, LoginFault, SmtpFault, SmtpStage, TokenFault, World,
};

/// Answers one request to `/emulator/{action}`: 200 with a text, 204, or 400 and the reason.
pub(super) fn answer(world: &Arc<World>, method: &Method, action: &str, form: &Form) -> Response {
    let control = Control { world: world.clone() };
    let done = match (method, action) {
        (&Method::GET, "ca.pem") => Ok(world.ca_pem.clone()),
        (&Method::GET, "state") => Ok(json!({
            "token_requests": control.token_requests(),
            "connections": control.connections(),
            "live_connections": control.live_connections(),
            "logins": control.logins(),
            "limits_hit": control.limits_hit(),
            "graph_requests": control.graph_requests(),
            "sent": control.sent().len(),
        })
        .to_string()),
        (&Method::GET, "device-codes") => Ok(control.device_codes().join("\n")),
        (&Method::POST, _) => change(&control, action, form),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    match done {
        Ok(text) if text.is_empty() => StatusCode::NO_CONTENT.into_response(),
        Ok(text) => text.into_response(),
        Err(reason) => (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response(),
    }
}

fn change(control: &Control, action: &str, form: &Form) -> Result<String, String> {
    let on = !form.contains_key("off");
    let count = number(form, "count")?.unwrap_or(1);
    match action {
        "token-fault" => control.fail_token_requests(count, token_fault(form)?),
        "token-outage" => control.set_token_outage(on.then(|| token_fault(form)).transpose()?),
        "token-life" => {
            control.set_token_life(number(form, "seconds")?.map(Duration::from_secs));
        }
        "revoke-access" => control.revoke_access_tokens(),
        "revoke-refresh" => control.revoke_refresh_tokens(word(form, "user")?),
        "login-fault" => control.fail_logins(count, login_fault(form)?),
        "login-outage" => control.set_login_fault(on.then(|| login_fault(form)).transpose()?),
        "smtp-fault" if !on => control.clear_smtp_faults(),
        "smtp-fault" => {
            control.fail_smtp(smtp_stage(form)?, smtp_fault(form)?, number(form, "count")?);
        }
        "graph-fault" if !on => control.clear_graph_faults(),
        "graph-fault" => {
            control.fail_graph(graph_step(form)?, graph_fault(form)?, number(form, "count")?);
        }
        "graph-outage" => control.set_graph_outage(on.then(|| graph_fault(form)).transpose()?),
        "clock-offset" => {
            control.set_clock_offset(number(form, "seconds")?.ok_or("seconds is missing")?);
        }
        "approve-device" | "decline-device" => return device(control, action, form),
        "mail-outage" => control.set_mail_outage(on),
        "disconnect" => control.disconnect_all(),
        "clear" => control.clear_faults(),
        "deliver" => {
            let (mailbox, message) = (word(form, "mailbox")?, word(form, "message")?);
            return control
                .deliver(mailbox, message.as_bytes())
                .then(String::new)
                .ok_or_else(|| format!("no such mailbox: {mailbox}"));
        }
        "refresh-token" => return Ok(control.issue_refresh_token(word(form, "user")?)),
        "access-token" => {
            return Ok(control.issue_access_token(form.get("user").map(String::as_str)));
        }
        "graph-token" => {
            return Ok(control.issue_graph_token(form.get("user").map(String::as_str)));
        }
        other => return Err(format!("no such action: {other}")),
    }
    Ok(String::new())
}

fn device(control: &Control, action: &str, form: &Form) -> Result<String, String> {
    let code = word(form, "user_code")?;
    let done = match action {
        "approve-device" => control.approve_device(code, word(form, "user")?),
        _ => control.decline_device(code),
    };
    done.then(String::new).ok_or_else(|| format!("no such code or user: {code}"))
}

fn token_fault(form: &Form) -> Result<TokenFault, String> {
    if form.contains_key("closed") {
        return Ok(TokenFault::Closed);
    }
    if let Some(code) = number(form, "aadsts")? {
        return Ok(TokenFault::Aadsts(code));
    }
    let status = number(form, "status")?.ok_or("status, aadsts or closed is missing")?;
    Ok(TokenFault::Status { status, retry_after: number(form, "retry_after")? })
}

fn login_fault(form: &Form) -> Result<LoginFault, String> {
    Ok(match word(form, "kind")? {
        "auth-failed" => LoginFault::AuthFailed,
        "not-connected" => LoginFault::NotConnected,
        "smtp-auth-disabled" => LoginFault::SmtpAuthDisabled,
        "smtp-auth-disabled-mailbox" => LoginFault::SmtpAuthDisabledMailbox,
        "send-as-denied" => LoginFault::SendAsDenied,
        "sender-refused" => LoginFault::SenderRefused,
        "access-token-expired" => LoginFault::AccessTokenExpired,
        "throttled" => LoginFault::Throttled { milliseconds: 5_000 },
        "connection-limit" => LoginFault::ConnectionLimit,
        other => return Err(format!("no such kind: {other}")),
    })
}

fn smtp_stage(form: &Form) -> Result<SmtpStage, String> {
    Ok(match word(form, "at")? {
        "auth" => SmtpStage::Auth,
        "mail" => SmtpStage::Mail,
        "rcpt" => SmtpStage::Rcpt(form.get("address").cloned()),
        "data" => SmtpStage::EndOfData,
        other => return Err(format!("no such stage: {other}")),
    })
}

fn smtp_fault(form: &Form) -> Result<SmtpFault, String> {
    if let Some(line) = form.get("reply") {
        return Ok(SmtpFault::Reply(line.clone()));
    }
    if let Some(milliseconds) = number(form, "delay_ms")? {
        return Ok(SmtpFault::Delay(Duration::from_millis(milliseconds)));
    }
    match (form.contains_key("closed"), form.contains_key("lost")) {
        (true, false) => Ok(SmtpFault::Closed),
        (false, true) => Ok(SmtpFault::Lost),
        _ => Err("reply, delay_ms, closed or lost is missing".to_owned()),
    }
}

fn graph_step(form: &Form) -> Result<GraphStep, String> {
    Ok(match form.get("step").map_or("any", String::as_str) {
        "any" => GraphStep::Any,
        "send-mail" => GraphStep::SendMail,
        "create" => GraphStep::Create,
        "attach" => GraphStep::Attach,
        "open-upload" => GraphStep::OpenUpload,
        "upload" => GraphStep::Upload,
        "send" => GraphStep::Send,
        "delete" => GraphStep::Delete,
        other => return Err(format!("no such step: {other}")),
    })
}

fn graph_fault(form: &Form) -> Result<GraphFault, String> {
    if let Some(milliseconds) = number(form, "delay_ms")? {
        return Ok(GraphFault::Delay(Duration::from_millis(milliseconds)));
    }
    for (name, fault) in [("closed", GraphFault::Closed), ("unanswered", GraphFault::Unanswered)] {
        if form.contains_key(name) {
            return Ok(fault);
        }
    }
    let retry_after = number(form, "retry_after")?;
    match number(form, "status")? {
        Some(429_u16) => Ok(GraphFault::Throttled { retry_after }),
        Some(503) => Ok(GraphFault::Unavailable { retry_after }),
        Some(403) => Ok(GraphFault::AccessDenied),
        Some(404) => Ok(GraphFault::MailboxNotEnabled),
        Some(other) => Err(format!("no such fault: {other}")),
        None => Err("status, closed, unanswered or delay_ms is missing".to_owned()),
    }
}

fn number<T: FromStr>(form: &Form, name: &str) -> Result<Option<T>, String> {
    let value = form.get(name).map(|value| value.parse());
    value.transpose().map_err(|_| format!("{name} must be a number"))
}

fn word<'a>(form: &'a Form, name: &str) -> Result<&'a str, String> {
    form.get(name).map(String::as_str).ok_or_else(|| format!("{name} is missing"))
}
