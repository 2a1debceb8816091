//! Every way to log in, over every transport on both sides, each followed by real work.

use std::sync::Arc;

use crate::support::{Cells, House, LOCAL_TLS, MAILBOX, Settings, UPSTREAM_TLS, Wire, plain};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatepost::vocabulary::{Protocol, TlsMode};

/// A password that a person chose, with all that quoting can break.
const ODD: &str = r#"p "q" \ w\\ü} "#;

/// A way to log in: what the client sends, and how the answers begin.
struct Form {
    protocol: Protocol,
    name: &'static str,
    script: &'static [(&'static str, &'static str)],
}

const fn imap(name: &'static str, script: &'static [(&'static str, &'static str)]) -> Form {
    Form { protocol: Protocol::Imap, name, script }
}

const fn pop3(name: &'static str, script: &'static [(&'static str, &'static str)]) -> Form {
    Form { protocol: Protocol::Pop3, name, script }
}

const fn smtp(name: &'static str, script: &'static [(&'static str, &'static str)]) -> Form {
    Form { protocol: Protocol::Smtp, name, script }
}

/// `<user>`, `<password>`, `<odd>` and their kin are filled in by [`Blanks`].
const FORMS: &[Form] = &[
    imap("LOGIN, atoms", &[("1 LOGIN <user> <password>", "1 OK")]),
    imap("LOGIN, quoted", &[(r#"1 LOGIN "<user>" "<password>""#, "1 OK")]),
    imap("LOGIN, quoted with escapes", &[(r#"1 LOGIN "<user>" "<odd-quoted>""#, "1 OK")]),
    imap(
        "LOGIN, synchronising literals",
        &[("1 LOGIN {<user#>}", "+"), ("<user> {<odd#>}", "+"), ("<odd>", "1 OK")],
    ),
    imap(
        "LOGIN, non-synchronising literals",
        &[("1 LOGIN {<user#>+}\r\n<user> {<odd#>+}\r\n<odd>", "1 OK")],
    ),
    imap(
        "LOGIN, literal and quoted",
        &[("1 LOGIN {<user#>}", "+"), (r#"<user> "<password>""#, "1 OK")],
    ),
    imap("LOGIN, atom and literal", &[("1 LOGIN <user> {<odd#>}", "+"), ("<odd>", "1 OK")]),
    imap("LOGIN, lower case, odd tag", &[("2.12 login <user> <password>", "2.12 OK")]),
    imap(
        "LOGIN, after CAPABILITY, ID and NOOP",
        &[
            ("1 CAPABILITY", "1 OK"),
            ("2 ID (\"name\" \"test\")", "2 OK"),
            ("3 NOOP", "3 OK"),
            ("4 LOGIN <user> <password>", "4 OK"),
        ],
    ),
    imap("PLAIN, initial response", &[("1 AUTHENTICATE PLAIN <plain>", "1 OK")]),
    imap("PLAIN, own line", &[("1 authenticate plain", "+"), ("<plain>", "1 OK")]),
    imap("PLAIN, authzid", &[("1 AUTHENTICATE PLAIN", "+"), ("<plain-authzid>", "1 OK")]),
    imap(
        "PLAIN, cancelled, then again",
        &[
            ("1 AUTHENTICATE PLAIN", "+"),
            ("*", "1 BAD"),
            ("2 AUTHENTICATE PLAIN", "+"),
            ("<plain-odd>", "2 OK"),
        ],
    ),
    imap(
        "LOGIN mechanism",
        &[
            ("1 AUTHENTICATE LOGIN", "+ VXNlcm5hbWU6"),
            ("<user64>", "+ UGFzc3dvcmQ6"),
            ("<password64>", "1 OK"),
        ],
    ),
    imap(
        "LOGIN mechanism, initial response",
        &[("1 AUTHENTICATE LOGIN <user64>", "+ UGFzc3dvcmQ6"), ("<password64>", "1 OK")],
    ),
    pop3("USER and PASS", &[("USER <user>", "+OK"), ("PASS <password>", "+OK")]),
    pop3("USER and PASS, lower case", &[("user <user>", "+OK"), ("pass <password>", "+OK")]),
    pop3("PASS with spaces", &[("USER <user>", "+OK"), ("PASS <odd>", "+OK")]),
    pop3("PLAIN, initial response", &[("AUTH PLAIN <plain>", "+OK")]),
    pop3("PLAIN, own line", &[("AUTH PLAIN", "+ "), ("<plain>", "+OK")]),
    pop3("PLAIN, authzid", &[("auth plain", "+ "), ("<plain-authzid>", "+OK")]),
    pop3(
        "PLAIN, cancelled, then again",
        &[("AUTH PLAIN", "+"), ("*", "-ERR"), ("AUTH PLAIN <plain-odd>", "+OK")],
    ),
    pop3(
        "LOGIN mechanism",
        &[
            ("AUTH LOGIN", "+ VXNlcm5hbWU6"),
            ("<user64>", "+ UGFzc3dvcmQ6"),
            ("<password64>", "+OK"),
        ],
    ),
    pop3(
        "LOGIN mechanism, initial response",
        &[("AUTH LOGIN <user64>", "+ UGFzc3dvcmQ6"), ("<password64>", "+OK")],
    ),
    smtp("PLAIN, initial response", &[("EHLO test", "250 "), ("AUTH PLAIN <plain>", "235 ")]),
    smtp(
        "PLAIN, own line",
        &[("EHLO test", "250 "), ("AUTH PLAIN", "334 "), ("<plain-odd>", "235 ")],
    ),
    smtp(
        "PLAIN, authzid, lower case",
        &[("ehlo test", "250 "), ("auth plain <plain-authzid>", "235 ")],
    ),
    smtp(
        "PLAIN, cancelled, then again",
        &[
            ("EHLO test", "250 "),
            ("AUTH PLAIN", "334"),
            ("*", "501 "),
            ("AUTH PLAIN <plain>", "235 "),
        ],
    ),
    smtp(
        "LOGIN mechanism",
        &[
            ("EHLO test", "250 "),
            ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
            ("<user64>", "334 UGFzc3dvcmQ6"),
            ("<password64>", "235 "),
        ],
    ),
    smtp(
        "LOGIN mechanism, initial response",
        &[
            ("EHLO test", "250 "),
            ("auth login <user64>", "334 UGFzc3dvcmQ6"),
            ("<password64>", "235 "),
        ],
    ),
    smtp(
        "after HELO, NOOP and RSET",
        &[
            ("HELO test", "250 "),
            ("NOOP", "250 "),
            ("RSET", "250 "),
            ("AUTH PLAIN <plain>", "235 "),
        ],
    ),
    smtp(
        "a second EHLO behind AUTH",
        &[("EHLO test", "250 "), ("AUTH PLAIN <plain>", "235 "), ("EHLO test", "250 ")],
    ),
];

/// What is filled into a [`Form`].
struct Blanks(Vec<(&'static str, String)>);

impl Blanks {
    fn new(password: &str) -> Self {
        let base64 = |text: &str| BASE64_STANDARD.encode(text);
        Self(vec![
            ("<user>", MAILBOX.into()),
            ("<user#>", MAILBOX.len().to_string()),
            ("<user64>", base64(MAILBOX)),
            ("<password>", password.into()),
            ("<password64>", base64(password)),
            ("<odd>", ODD.into()),
            ("<odd#>", ODD.len().to_string()),
            ("<odd-quoted>", ODD.replace('\\', r"\\").replace('"', "\\\"")),
            ("<plain>", plain(MAILBOX, password)),
            ("<plain-odd>", plain(MAILBOX, ODD)),
            ("<plain-authzid>", base64(&format!("{MAILBOX}\0{MAILBOX}\0{password}"))),
        ])
    }

    fn fill(&self, text: &str) -> String {
        let fill = |text: String, (blank, value): &(&str, String)| text.replace(blank, value);
        self.0.iter().fold(text.to_owned(), fill)
    }
}

/// How the commands of a login are cut into writes.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// A write for each command, and its answer is awaited.
    Whole,
    /// A segment for each octet.
    Bytewise,
    /// The login and the work behind it in one write.
    Pipelined,
}

async fn log_in(client: &mut Wire, form: &Form, blanks: &Blanks, pace: Pace) {
    for (send, expected) in form.script {
        let line = blanks.fill(send) + "\r\n";
        match pace {
            Pace::Bytewise => client.send_bytewise(line).await,
            _ => client.send(line).await,
        }
        let answer = client.answer(form.protocol).await;
        assert!(answer.starts_with(expected), "{send:?} is answered by {answer:?}");
    }
}

/// The commands of some work behind a login, up to where the client must wait.
fn work_commands(protocol: Protocol) -> String {
    match protocol {
        Protocol::Imap => "a1 SELECT INBOX\r\na2 LOGOUT\r\n".into(),
        Protocol::Pop3 => "STAT\r\nQUIT\r\n".into(),
        Protocol::Smtp => {
            format!("MAIL FROM:<{MAILBOX}>\r\nRCPT TO:<{MAILBOX}>\r\nDATA\r\n")
        }
    }
}

/// Reads the answers to [`work_commands`], and ends the session.
async fn check_work(client: &mut Wire, house: &House, protocol: Protocol, subject: &str) {
    match protocol {
        Protocol::Imap => {
            let selected = client.until("a1 ").await;
            assert!(selected.last().unwrap().starts_with("a1 OK"), "{selected:?}");
            assert!(selected.iter().any(|line| line.ends_with(" EXISTS")), "{selected:?}");
            client.until("a2 OK").await;
        }
        Protocol::Pop3 => {
            let statistics = client.expect("+OK ").await;
            assert!(statistics.split(' ').nth(1).unwrap().parse::<u32>().unwrap() >= 3);
            client.expect("+OK").await;
        }
        Protocol::Smtp => {
            for expected in ["250 ", "250 ", "354 "] {
                client.expect(expected).await;
            }
            client.send(format!("Subject: {subject}\r\n\r\n..dot\r\n.\r\nQUIT\r\n")).await;
            client.expect("250 ").await;
            client.expect("221 ").await;
            let wanted = format!("Subject: {subject}\r\n\r\n.dot\r\n");
            let inbox = house.control().messages(MAILBOX, "INBOX");
            let found = |octets: &Vec<u8>| String::from_utf8_lossy(octets).contains(&wanted);
            assert!(inbox.iter().any(found), "{subject} is not in the inbox");
        }
    }
    client.expect_end().await;
}

/// A login of this form at this pace, and the work behind it.
async fn visit(house: &House, form: &Form, tls: TlsMode, pace: Pace, subject: &str) {
    let blanks = Blanks::new(&house.password);
    let mut client = house.open(form.protocol, tls).await;
    if let Pace::Pipelined = pace {
        let lines: Vec<_> = form.script.iter().map(|(send, _)| blanks.fill(send)).collect();
        client.send(lines.join("\r\n") + "\r\n" + &work_commands(form.protocol)).await;
        for (send, expected) in form.script {
            let answer = client.answer(form.protocol).await;
            assert!(answer.starts_with(expected), "{send:?} is answered by {answer:?}");
        }
    } else {
        log_in(&mut client, form, &blanks, pace).await;
        client.send(work_commands(form.protocol)).await;
    }
    check_work(&mut client, house, form.protocol, subject).await;
}

async fn forms(upstream_tls: TlsMode) {
    let house = House::start(Settings { upstream_tls, ..Settings::default() }).await;
    house.add_chosen("odd", ODD).await;
    let house = Arc::new(house);
    let mut cells = Cells::default();
    for form in FORMS {
        for tls in LOCAL_TLS {
            let name = format!(
                "{} {}, local TLS {tls}, upstream TLS {upstream_tls}",
                form.protocol, form.name
            );
            let (house, subject) = (Arc::clone(&house), name.clone());
            let visit = async move { visit(&house, form, tls, Pace::Whole, &subject).await };
            cells.run(name, visit).await;
        }
    }
    cells.finish(32 * 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_with_implicit_tls_upstream() {
    forms(TlsMode::Implicit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_with_starttls_upstream() {
    forms(TlsMode::StartTls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_bytewise_and_pipelined() {
    let house = House::start(Settings { upstream_tls: UPSTREAM_TLS[1], ..Settings::default() });
    let house = Arc::new(house.await);
    let mut cells = Cells::default();
    let quick = ["LOGIN, quoted", "USER and PASS", "PLAIN, initial response"];
    for form in FORMS.iter().filter(|form| quick.contains(&form.name)) {
        for tls in LOCAL_TLS {
            for pace in [Pace::Whole, Pace::Bytewise, Pace::Pipelined] {
                let name = format!("{} {}, {tls}, {pace:?}", form.protocol, form.name);
                let (house, subject) = (Arc::clone(&house), name.clone());
                let visit = async move { visit(&house, form, tls, pace, &subject).await };
                cells.run(name, visit).await;
            }
        }
    }
    cells.finish(5 * 3 * 3);
}
