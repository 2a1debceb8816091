//! The messages that every new mailbox begins with, one of them with what a careless proxy or client
//! gets wrong: lines that begin with a dot, and octets above 127.

use super::calendar::{self, Style};

const WELCOME: &str = "You read this mailbox with a user name and a password.
The upstream saw an access token instead.
";

const DOTS: &str = "Schöne Grüße.
.
..two dots, and one alone above: dot-stuffing must leave them as they are.
.hidden
";

/// The messages for the inbox of `address`, with CRLF line ends.
pub(super) fn messages(address: &str) -> Vec<Vec<u8>> {
    let date = calendar::now(Style::Mail);
    let samples = [
        ("The emulator <emulator@gatepost.example>", "Welcome", WELCOME),
        ("\"Doe, Alice\" <alice@fabrikam.example>", "=?UTF-8?Q?Gr=C3=BC=C3=9Fe?=", DOTS),
        ("Bob <bob@fabrikam.example>", "An invoice", "Please pay.\n"),
    ];
    let message = |(number, (from, subject, text)): (usize, (&str, &str, &str))| {
        let text = format!(
            "Message-ID: <sample-{number}@emulator.gatepost.example>\nDate: {date}\nFrom: {from}\n\
             To: <{address}>\nSubject: {subject}\nMIME-Version: 1.0\n\
             Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{text}"
        );
        text.replace('\n', "\r\n").into_bytes()
    };
    samples.into_iter().enumerate().map(message).collect()
}
