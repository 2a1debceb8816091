//! The dialogue of a login, both roles, without a socket: what is parsed and said for one session.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a benchmark ends by panicking")]

use std::hint::black_box;

use criterion::Criterion;
use gatepost::protocol::{
    Frontend, FrontendStep, Goal, LocalTls, Upstream, UpstreamStep, Welcome, Xoauth2,
};
use gatepost::secret::Secret;
use gatepost::vocabulary::{Protocol, TlsMode};

/// What a client says, and what the upstream answers by implicit TLS; SMTP's upstream would need STARTTLS and is
/// spoken to in the same way.
const DIALOGUES: [(Protocol, &[&str], &[&str]); 3] = [
    (
        Protocol::Imap,
        &[
            "a CAPABILITY\r\n",
            "b LOGIN \"support@contoso.example\" \"abcde-fghij-kmnpq-rstuv\"\r\n",
        ],
        &[
            "* OK The Microsoft Exchange IMAP4 service is ready.\r\n",
            "g2 OK AUTHENTICATE completed.\r\n",
        ],
    ),
    (
        Protocol::Pop3,
        &["CAPA\r\n", "USER support@contoso.example\r\n", "PASS abcde-fghij-kmnpq-rstuv\r\n"],
        &[
            "+OK The Microsoft Exchange POP3 service is ready.\r\n",
            "+\r\n",
            "+OK User successfully authenticated.\r\n",
        ],
    ),
    (
        Protocol::Smtp,
        &[
            "EHLO client.example\r\n",
            "AUTH PLAIN AHN1cHBvcnRAY29udG9zby5leGFtcGxlAGFiY2RlLWZnaGlqLWttbnBxLXJzdHV2\r\n",
        ],
        &[
            "220 outlook.office365.com Microsoft ESMTP MAIL Service ready\r\n",
            "250-outlook.office365.com Hello\r\n250-SIZE 157286400\r\n250-PIPELINING\r\n250-DSN\r\n250-8BITMIME\r\n250 AUTH LOGIN XOAUTH2\r\n",
            "334 \r\n",
            "235 2.7.0 Authentication successful\r\n",
        ],
    ),
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (protocol, client, upstream) in DIALOGUES {
        criterion.bench_function(&format!("frontend/{protocol}"), |bencher| {
            bencher.iter(|| greet_and_accept(protocol, black_box(client)));
        });
        let token = Secret::new("t".repeat(1800));
        criterion.bench_function(&format!("upstream/{protocol}"), |bencher| {
            bencher.iter(|| log_in(protocol, &token, black_box(upstream)));
        });
    }
    criterion.final_summary();
}

/// From the greeting to the answer to the login.
fn greet_and_accept(protocol: Protocol, commands: &[&str]) -> usize {
    let keywords = ["SIZE 157286400".to_owned(), "PIPELINING".to_owned()].into();
    let mut frontend = Frontend::new(protocol, LocalTls::Never, keywords);
    let mut said = frontend.greeting().len();
    let mut commands = commands.iter();
    loop {
        match frontend.step() {
            FrontendStep::Read => frontend.push(commands.next().unwrap().as_bytes()),
            FrontendStep::Write(answer) => said += answer.len(),
            FrontendStep::Login(login) => {
                black_box(login);
                let (answer, _) = frontend.accept(&Welcome::default());
                return said + answer.len();
            }
            other => panic!("{protocol}: {other:?}"),
        }
    }
}

/// From the upstream's greeting to its answer to the token.
fn log_in(protocol: Protocol, token: &Secret<String>, answers: &[&str]) -> Welcome {
    let login = Xoauth2::new("support@contoso.example", token).unwrap();
    let goal = Goal::Login(login);
    let mut upstream = Upstream::new(protocol, TlsMode::Implicit, goal, "[127.0.0.1]", false);
    let mut answers = answers.iter();
    loop {
        match upstream.step() {
            UpstreamStep::Read => upstream.push(answers.next().unwrap().as_bytes()),
            UpstreamStep::Write(bytes) => drop(black_box(bytes)),
            UpstreamStep::Ready(welcome) => return welcome,
            other => panic!("{protocol}: {other:?}"),
        }
    }
}
