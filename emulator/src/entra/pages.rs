//! The pages that people see: plain HTML without scripts, everything that came in escaped by maud.
//!
//! Invariant: no page is stored, framed or runs anything.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{Request, failure::Failure};
use crate::World;

/// No `form-action` here: it would also forbid the redirect that a sign-in ends with.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

const STYLE: &str = "body{font:16px sans-serif;max-width:26em;margin:4em auto;padding:0 1em}\
    input{display:block;width:100%;box-sizing:border-box;margin:.3em 0 1em;padding:.5em;font:inherit}\
    button{padding:.5em 1.5em;font:inherit;margin-right:.5em}.error{color:#a00}";

/// A form that signs somebody in.
#[derive(Default)]
pub(super) struct SignIn<'a> {
    /// The user name to begin with.
    pub(super) user: &'a str,
    /// The user code to begin with, on a device's page.
    pub(super) code: Option<&'a str>,
    /// What was wrong the last time.
    pub(super) error: Option<String>,
}

impl SignIn<'_> {
    /// The page; its form comes back to the URL that it was got from. Its buttons are `answer`
    /// `sign-in` and `cancel`, its fields `user`, `password` and, on a device's page, `code`.
    pub(super) fn page(&self) -> Response {
        let form = html! {
            @if let Some(error) = &self.error { p.error id="error" { (error) } }
            form method="post" {
                @if let Some(code) = self.code {
                    label for="code" { "Code that the device shows" }
                    input id="code" name="code" value=(code) autocomplete="off";
                }
                label for="user" { "User name" }
                input id="user" name="user" value=(self.user) autocomplete="username";
                label for="password" { "Password (any will do)" }
                input id="password" name="password" type="password" autocomplete="off";
                button id="sign-in" name="answer" value="sign-in" { "Sign in" }
                button id="cancel" name="answer" value="cancel" { "Cancel" }
            }
        };
        page(StatusCode::OK, "Sign in", &form)
    }
}

/// An error that must not be told to the app, since it is not known to be one.
pub(super) fn failure(world: &World, request: &Request, failure: &Failure) -> Response {
    let description = failure.description(world, &request.correlation);
    let body = html! { p.error id="error" { (description) } };
    page(failure.status(), "The sign-in failed", &body)
}

/// The last page on a device's way.
pub(super) fn done(text: &str) -> Response {
    page(StatusCode::OK, "Done", &html! { p id="done" { (text) } })
}

fn page(status: StatusCode, title: &str, body: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { (title) } style { (PreEscaped(STYLE)) } }
            body { h1 { (title) } (body) }
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store, no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (status, headers, page.into_string()).into_response()
}
