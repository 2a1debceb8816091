//! Microsoft Graph v1.0, as far as it sends mail: MIME messages at once, or as drafts with attachments.
//!
//! `send` takes messages, `drafts` keeps them, `upload` takes large attachments in pieces, `mime` reads
//! header fields, `faults` fails on request. The server is that of the token endpoint; what lies under
//! `/outlook/` stands for `https://outlook.office.com`, where Graph sends uploads.
//!
//! What the real one does to a message: Exchange takes MIME apart into the properties of its store and
//! writes it anew on the way out. Boundaries, transfer encodings, folding and the order of fields change,
//! and unknown parameters may go. A message that is `multipart/signed` or `application/pkcs7-mime` as a
//! whole is kept as it is, and its body leaves with the same octets, but it must fit into one request;
//! attachments that a draft gets by requests of their own make another message of it. The emulator keeps all
//! octets but `Bcc`, which is not for the recipients: who needs to know what was handed over finds it.
//!
//! Invariant: a request does something only with a token for Graph that has the permission, for a mailbox
//! that the token opens; what is answered with an error has changed nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, atomic::Ordering},
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    World,
    calendar::{self, Style},
    entra::hang_up,
    locked,
    tokens::{self, Grant, Principal},
};

use self::{drafts::Draft, upload::Upload};

mod drafts;
mod faults;
mod mime;
mod send;
mod upload;

pub(super) use faults::GraphRule;
pub use faults::{GraphFault, GraphStep};

/// The documented limit of a request.
const REQUEST_LIMIT: usize = 4 * 1024 * 1024;

/// What Graph remembers between requests.
#[derive(Default)]
pub(super) struct Graph {
    /// By id.
    drafts: Mutex<HashMap<String, Draft>>,
    /// By the token in their address.
    uploads: Mutex<HashMap<String, Upload>>,
    /// Requests under way, by mailbox.
    busy: Mutex<HashMap<String, usize>>,
}

/// A request of somebody who may open the mailbox.
struct Call<'a> {
    world: &'a World,
    headers: &'a HeaderMap,
    body: &'a Bytes,
    grant: Grant,
    permissions: Vec<String>,
    /// Whether a person is in another's mailbox.
    shared: bool,
}

/// An error as Graph tells it.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u64>,
}

type Answer = Result<Response, Refusal>;

/// Answers one request.
pub(super) async fn answer(
    world: &World,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response {
    world.counts.graph_requests.fetch_add(1, Ordering::Relaxed);
    let segments: Vec<String> = uri.path().split('/').skip(1).map(decoded).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (user, asked) = match segments.as_slice() {
        ["outlook", ..] => (None, Some((GraphStep::Upload, ""))),
        ["graph", "v1.0", "me", rest @ ..] => (None, in_mailbox(method, rest)),
        ["graph", "v1.0", "users", user, rest @ ..] => (Some(*user), in_mailbox(method, rest)),
        _ => (None, None),
    };
    let shown = world.take_graph_faults(asked.map(|(step, _)| step));
    let done = match (shown.refusal(), asked) {
        (Some(refused), _) => Err(refused),
        _ if shown.fault == Some(GraphFault::Closed) => Ok(hang_up()),
        (None, Some((GraphStep::Upload, _))) => upload::answer(world, method, uri, headers, body),
        (None, Some(asked)) => {
            // it takes its time while it counts as under way
            let done = perform(world, (headers, body), user, asked, shown.delay).await;
            return shown.end(world, headers, done);
        }
        (None, None) => Err(unknown()),
    };
    tokio::time::sleep(shown.delay).await;
    shown.end(world, headers, done)
}

/// What is asked for in a mailbox, and the draft that it is about.
fn in_mailbox<'a>(method: &Method, rest: &[&'a str]) -> Option<(GraphStep, &'a str)> {
    Some(match (method, rest) {
        (&Method::POST, ["sendMail"]) => (GraphStep::SendMail, ""),
        (&Method::POST, ["messages"]) => (GraphStep::Create, ""),
        (&Method::DELETE, ["messages", draft]) => (GraphStep::Delete, *draft),
        (&Method::POST, ["messages", draft, "send"]) => (GraphStep::Send, *draft),
        (&Method::POST, ["messages", draft, "attachments"]) => (GraphStep::Attach, *draft),
        (&Method::POST, ["messages", draft, "attachments", "createUploadSession"]) => {
            (GraphStep::OpenUpload, *draft)
        }
        _ => return None,
    })
}

fn unknown() -> Refusal {
    refuse(400, "BadRequest", "Resource not found for the segment.")
}

async fn perform(
    world: &World,
    (headers, body): (&HeaderMap, &Bytes),
    user: Option<&str>,
    (step, draft): (GraphStep, &str),
    delay: Duration,
) -> Answer {
    let call = Call::new(world, headers, body, user)?;
    if body.len() > REQUEST_LIMIT {
        return Err(refuse(413, "RequestEntityTooLarge", "Maximum request length exceeded."));
    }
    let _busy = Busy::new(world, &call.grant.mailbox)?;
    let answered = match step {
        GraphStep::SendMail => send::at_once(&call),
        GraphStep::Create => drafts::create(&call),
        GraphStep::Attach => drafts::attach(&call, draft),
        GraphStep::OpenUpload => upload::open(&call, draft),
        GraphStep::Send => send::draft(&call, draft),
        GraphStep::Delete => drafts::delete(&call, draft),
        GraphStep::Any | GraphStep::Upload => Err(unknown()),
    };
    tokio::time::sleep(delay).await;
    answered
}

impl<'a> Call<'a> {
    fn new(
        world: &'a World,
        headers: &'a HeaderMap,
        body: &'a Bytes,
        user: Option<&str>,
    ) -> Result<Self, Refusal> {
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let no_token = |message: &str| refuse(401, "InvalidAuthenticationToken", message);
        if token.is_empty() {
            return Err(no_token("Access token is empty."));
        }
        let bearer = world.tokens.bearer(token).map_err(no_token)?;
        let mailbox = match (user, &bearer.principal) {
            (Some(user), _) => {
                let unknown = format!("The requested user '{user}' is invalid.");
                let known = world.tokens.mailbox_of(user);
                known.ok_or_else(|| refuse(404, "ErrorInvalidUser", unknown))?
            }
            (None, Principal::User(user)) => user.clone(),
            (None, Principal::App) => {
                let text = "/me request is only valid with delegated authentication flow.";
                return Err(refuse(400, "BadRequest", text));
            }
        };
        let login = world.tokens.graph_login(&bearer.principal, &mailbox);
        let grant = login.ok_or_else(|| match bearer.principal {
            Principal::App => refuse(
                403,
                "ErrorAccessDenied",
                "Access to OData is disabled: [RAOP] : Blocked by tenant configured AppOnly \
                 AccessPolicy settings.",
            ),
            Principal::User(_) => denied(),
        })?;
        let shared = matches!(&bearer.principal, Principal::User(user) if *user != mailbox);
        Ok(Self { world, headers, body, grant, permissions: bearer.permissions, shared })
    }

    /// Refuses a token without this permission; in another's mailbox it is the one for shared mailboxes.
    fn need(&self, permission: &str) -> Result<(), Refusal> {
        match self.shared {
            true => self.need_exactly(&format!("{permission}.Shared")),
            false => self.need_exactly(permission),
        }
    }

    fn need_exactly(&self, permission: &str) -> Result<(), Refusal> {
        let held = self.permissions.iter().any(|held| held == permission);
        held.then_some(()).ok_or_else(denied)
    }

    /// Whether the body is of this media type, whatever its parameters are.
    fn is(&self, media_type: &str) -> bool {
        let given = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let given = given.unwrap_or_default().split(';').next().unwrap_or_default();
        given.trim().eq_ignore_ascii_case(media_type)
    }

    fn json(&self) -> Result<Value, Refusal> {
        let parsed = self.is("application/json").then(|| serde_json::from_slice(self.body).ok());
        parsed.flatten().ok_or_else(|| refuse(400, "BadRequest", "Unable to read JSON request."))
    }
}

/// One of the few requests that a mailbox takes at a time.
struct Busy<'a> {
    graph: &'a Graph,
    mailbox: String,
}

impl<'a> Busy<'a> {
    fn new(world: &'a World, mailbox: &str) -> Result<Self, Refusal> {
        let mut all = locked(&world.graph.busy);
        let busy = all.entry(mailbox.to_owned()).or_default();
        if *busy >= world.options.graph_requests {
            world.counts.graph_limits_hit.fetch_add(1, Ordering::Relaxed);
            let text = "Application is over its MailboxConcurrency limit.";
            let refused = refuse(429, "ApplicationThrottled", text);
            return Err(Refusal { retry_after: Some(1), ..refused });
        }
        *busy += 1;
        Ok(Self { graph: &world.graph, mailbox: mailbox.to_owned() })
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(busy) = locked(&self.graph.busy).get_mut(&self.mailbox) {
            *busy -= 1;
        }
    }
}

impl Refusal {
    fn answer(&self, world: &World, headers: &HeaderMap) -> Response {
        let asked = headers.get("client-request-id").and_then(|id| id.to_str().ok());
        let id = tokens::guid();
        let body = json!({ "error": {
            "code": self.code,
            "message": self.message,
            "innerError": {
                "date": calendar::at(world.now(), Style::Graph),
                "request-id": id,
                "client-request-id": asked.unwrap_or(&id),
            },
        } });
        let mut response = json_answer(self.status, &body);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static(r#"Bearer realm="""#);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

fn refuse(status: u16, code: &'static str, message: impl Into<String>) -> Refusal {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    Refusal { status, code, message: message.into(), retry_after: None }
}

fn denied() -> Refusal {
    refuse(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again.")
}

fn json_answer(status: StatusCode, body: &Value) -> Response {
    let kind = (header::CONTENT_TYPE, "application/json; charset=utf-8");
    (status, [kind], body.to_string()).into_response()
}

/// A segment of a path without its percent-encoding (RFC 3986 section 2.1).
fn decoded(segment: &str) -> String {
    let mut parts = segment.split('%');
    let mut octets = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let plain = if code.is_some() { part.get(2..).unwrap_or_default() } else { part };
        octets.push(code.unwrap_or(b'%'));
        octets.extend_from_slice(plain.as_bytes());
    }
    String::from_utf8_lossy(&octets).into_owned()
}
