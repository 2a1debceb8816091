//! The messages that every new mailbox begins with.
//!
//! Invariant: each exercises something that a careless proxy or client gets wrong: lines that begin
//! with a dot, octets above 127, nested MIME parts.

use std::time::SystemTime;

use super::calendar::Moment;

/// Three messages for the inbox of `address`, with CRLF line ends.
pub(super) fn messages(address: &str) -> Vec<Vec<u8>> {
    let date = Moment::from(SystemTime::now()).mail();
    let message = |number: u8, from: &str, subject: &str, rest: &str| {
        let text = format!(
            "Message-ID: <sample-{number}@emulator.gatepost.example>\nDate: {date}\nFrom: {from}\nTo: <{address}>\n\
             Subject: {subject}\nMIME-Version: 1.0\n{rest}"
        );
        text.replace('\n', "\r\n").into_bytes()
    };
    vec![
        message(1, "The emulator <emulator@gatepost.example>", "Welcome", WELCOME),
        message(
            2,
            "\"Doe, Alice\" <alice@fabrikam.example>",
            "=?UTF-8?Q?Gr=C3=BC=C3=9Fe_und_Punkte?=",
            DOTS,
        ),
        message(3, "Bob <bob@fabrikam.example>", "Scan of an invoice", SCAN),
    ]
}

const WELCOME: &str = "Content-Type: text/plain; charset=us-ascii

You read this mailbox with a user name and a password.
The upstream saw an access token instead.
";

const DOTS: &str = "Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Schöne Grüße.
.
..two dots, and one alone above: dot-stuffing must leave them as they are.
.hidden
";

const SCAN: &str = "Content-Type: multipart/mixed; boundary=\"outer\"

A reader without MIME sees this line.
--outer
Content-Type: multipart/alternative; boundary=inner

--inner
Content-Type: text/plain; charset=utf-8

The invoice is attached.
--inner
Content-Type: text/html; charset=utf-8

<p>The invoice is <b>attached</b>.</p>
--inner--
--outer
Content-Type: application/octet-stream; name=\"invoice.bin\"
Content-Disposition: attachment; filename=\"invoice.bin\"
Content-Transfer-Encoding: base64

AAECAwQFBgcICQoLDA0ODw==
--outer--
";
