//! The pages that a browser ends on.
//!
//! Invariant: whatever comes from outside is text, never markup.

use maud::{DOCTYPE, Markup, html};

use super::{SignInError, SignedIn};
use crate::explain::split_hint;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:4em auto;padding:0 1em;\
color:#1d2733;background:#f7f8fa}main{background:#fff;border:1px solid #dde2e8;border-radius:8px;padding:1.5em 2em}\
h1{font-size:1.3em;margin-top:0}code{background:#eef1f4;border-radius:4px;padding:.1em .3em}\
.good{color:#17693a}.bad{color:#a02020}small{color:#5b6775}";

pub(super) fn signed_in(done: &SignedIn) -> String {
    page(
        "Signed in",
        &html! {
            h1.good { "Signed in: " (done.principal) }
            @if let Some(person) = &done.instead {
                p.bad {
                    "The browser signed in as " strong { (person) } ". If that is another person, sign in again in a \
                     private window. If it is the sign-in name of this mailbox's owner, all is well; you can write "
                    code { "signed_in_as = \"" (person) "\"" } " into the configuration."
                }
            }
            p { "gatepost can now open:" }
            ul { @for mailbox in &done.mailboxes { li { (mailbox) } } }
            p {
                "Next: make a password for the mail client with "
                code { "gatepost password add " (done.mailboxes.first().map_or("MAILBOX", String::as_str)) }
                ", unless it has one, and start " code { "gatepost run" } ", unless it is running."
            }
            p { small { "You can close this window. gatepost renews the sign-in by itself from now on." } }
        },
    )
}

pub(super) fn failed(error: &SignInError) -> String {
    let text = error.to_string();
    let (what, hint) = split_hint(&text);
    page(
        "Not signed in",
        &html! {
            h1.bad { "Not signed in" }
            p { (what) "." }
            @if let Some(hint) = hint { p { (hint) } }
            p {
                "Nothing was changed. Start again with " code { "gatepost login" }
                "; " code { "gatepost explain" } " tells what an error code means."
            }
        },
    )
}

pub(super) fn nothing_here() -> String {
    page(
        "gatepost",
        &html! {
            h1 { "gatepost waits for a sign-in" }
            p { "This address is where a browser comes back to. Open the address that " code { "gatepost login" } " shows." }
        },
    )
}

fn page(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " - gatepost" }
                style { (maud::PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    page.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::TokenError;
    use crate::vocabulary::Cause;

    #[test]
    fn what_comes_from_outside_is_text() {
        let script = "<script>alert(1)</script>";
        let done = SignedIn {
            principal: script.into(),
            mailboxes: vec![script.into()],
            instead: Some(script.into()),
        };
        let error = SignInError::Refused(TokenError::permanent(script, Cause::SignIn));
        for page in [signed_in(&done), failed(&error)] {
            assert!(!page.contains("<script") && page.contains("&lt;script&gt;"), "{page}");
        }
    }
}
