//! User names that stand for others: patterns, and shared mailboxes as old clients name them.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::site::{APP, Settings, Site, eventually};
use crate::{JANE, JOHN, SHARED};

const BY_ITSELF: &str = "grant = \"client_credentials\"\nclient_secret = { file = \"secret\" }";

async fn of_a_domain() -> Site {
    let site = Site::new(Settings::new(BY_ITSELF, &["*@contoso.example"]));
    let site = site.await;
    site.write("secret", "emulated-secret");
    site
}

fn is_wrong_password(answer: &str) -> bool {
    answer.starts_with("a NO [AUTHENTICATIONFAILED]")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_opens_what_has_a_password_of_its_own() {
    let site = of_a_domain().await;
    let proxy = site.start().await;
    for password in ["", "x", "emulated-secret"] {
        let answer = proxy.log_in(JANE, &format!("\"{password}\"")).await;
        assert!(!answer.starts_with("a OK"), "{answer}");
    }
    let password = site.password("Jane@Contoso.Example").await;
    proxy.admits(JANE, &password).await;
    proxy.admits("JANE@CONTOSO.EXAMPLE", &password).await;
    for other in [
        JOHN,
        SHARED,
        "*@contoso.example",
        "@contoso.example",
        "contoso.example",
        "jane",
        "jane@fabrikam.example",
        "jane@contoso.example@contoso.example",
        "jane@sub.contoso.example",
        "jane@contoso.example.",
    ] {
        let answer = proxy.log_in(other, &password).await;
        assert!(is_wrong_password(&answer), "{other}: {answer}");
    }
    let list = site.good(&["password", "list"]).await;
    assert!(list.contains(JANE) && !list.contains('*'), "{list}");
    assert_eq!(site.status("*@contoso.example").await["passwords"], 1);
    site.good(&["password", "revoke", JANE]).await;
    eventually("a refusal", async || {
        is_wrong_password(&proxy.log_in(JANE, &password).await).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_is_no_mailbox() {
    let site = of_a_domain().await;
    for command in [&["password", "add"][..], &["password", "list"], &["login"], &["logout"]] {
        let done = site.run(&[command, &["*@contoso.example"]].concat()).await;
        assert_eq!(done.code, Some(2), "{command:?}: {}", done.err);
        let words = "\"*@contoso.example\" stands for all mailboxes of contoso.example";
        assert!(done.err.contains(words), "{command:?}: {}", done.err);
        assert!(done.err.contains("hint: name one of them"), "{command:?}: {}", done.err);
        assert!(done.out.is_empty());
    }
    let done = site.run(&["password", "add", "jane@fabrikam.example"]).await;
    assert!(done.err.contains("hint: the configuration has *@contoso.example"), "{}", done.err);
    // One of them is as good as any to try the app with.
    site.good(&["login", JANE]).await;
}

/// A mailbox that stands there itself is not the pattern's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_there_goes_before_a_pattern() {
    let site = of_a_domain().await;
    let mut body = Settings::new(BY_ITSELF, &["*@contoso.example", JOHN]).body;
    body += "aliases = [\"j@contoso.example\"]\n";
    site.configure("", &body, "");
    let passwords = [site.password(JANE).await, site.password("j@contoso.example").await];
    assert_eq!(site.status("*@contoso.example").await["passwords"], 1);
    assert_eq!(site.status(JOHN).await["passwords"], 1);
    let proxy = site.start().await;
    proxy.admits("j@contoso.example", &passwords[1]).await;
    proxy.admits(JOHN, &passwords[1]).await;
    assert!(is_wrong_password(&proxy.log_in(JANE, &passwords[1]).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_that_can_not_be() {
    let site = of_a_domain().await;
    let account = |mailbox: &str, more: &str| {
        format!("[[account]]\nmailbox = \"{mailbox}\"\napp = \"lab\"\n{more}")
    };
    let own = format!("{APP}{BY_ITSELF}\n");
    let cases = [
        (
            format!("{APP}{}", account("*@contoso.example", "")),
            "account[0].mailbox",
            "client_credentials",
        ),
        (
            format!("{APP}grant = \"device_code\"\n{}", account("*@contoso.example", "")),
            "account[0].mailbox",
            "client_credentials",
        ),
        (
            format!("{own}{}", account("*@contoso.example", "aliases = [\"x\"]\n")),
            "account[0].mailbox",
            "leave the aliases out",
        ),
        (format!("{own}{}", account("*", "")), "account[0].mailbox", "\"*@DOMAIN\""),
        (format!("{own}{}", account("*@", "")), "account[0].mailbox", "\"*@DOMAIN\""),
        (
            format!("{own}{}", account("j*@contoso.example", "")),
            "account[0].mailbox",
            "\"*@DOMAIN\"",
        ),
        (format!("{own}{}", account("*@*.example", "")), "account[0].mailbox", "\"*@DOMAIN\""),
        (
            format!(
                "{own}{}{}",
                account("*@contoso.example", ""),
                account("*@Contoso.Example", "")
            ),
            "account[1].mailbox",
            "names of its own",
        ),
    ];
    for (body, key, remedy) in cases {
        site.configure("", &body, "");
        let done = site.run(&["check"]).await;
        assert_eq!(done.code, Some(2), "{body}: {}", done.err);
        let line = |words| done.err.contains(words);
        assert!(line(key) && line(remedy) && line("hint:") && line("line "), "{}", done.err);
    }
}

/// How many messages the mailbox has that this login opens; or the answer to it.
async fn messages(port: u16, user: &str, password: &str) -> Result<usize, String> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    let user = user.replace('\\', "\\\\");
    let mut found = 0;
    for (tag, command) in [
        ("*", String::new()),
        ("a", format!("a LOGIN \"{user}\" {password}\r\n")),
        ("b", "b SELECT INBOX\r\n".into()),
    ] {
        stream.write_all(command.as_bytes()).await.unwrap();
        let mut line = String::new();
        while !line.starts_with(tag) || (tag != "*" && line.starts_with("* ")) {
            line.clear();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "it closes");
            if let Some(count) = line.trim_end().strip_suffix(" EXISTS") {
                found = count.trim_start_matches("* ").parse().unwrap();
            }
        }
        if !line.starts_with(&format!("{tag} OK")) {
            return Err(line);
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_mailboxes_as_old_clients_name_them() {
    let mut settings = Settings::new("", &[JANE, SHARED]);
    settings.body += &format!("signed_in_as = \"{JANE}\"\n");
    let body = settings.body.clone();
    let site = Site::new(settings).await;
    // So that the two can be told apart.
    let own = site.control().messages(JANE, "INBOX").len();
    assert!(site.control().deliver(SHARED, b"Subject: to the team\r\n\r\nHello\r\n"));
    site.sign_in(JANE, JANE).await;
    let password = site.password(SHARED).await;
    let of_jane = site.password(JANE).await;
    let proxy = site.start().await;
    proxy.admits(SHARED, &password).await;
    assert_eq!(messages(proxy.port, JANE, &of_jane).await, Ok(own));
    for user in [
        SHARED,
        r"jane@contoso.example\support",
        r"jane@contoso.example\support@contoso.example",
        "jane@contoso.example/support",
        "jane@contoso.example/support@contoso.example",
        r"Jane@Contoso.Example\SUPPORT",
    ] {
        assert_eq!(messages(proxy.port, user, &password).await, Ok(own + 1), "{user}");
    }
    for user in [
        r"john@contoso.example\support",
        r"jane@contoso.example\sales",
        r"jane@contoso.example\jane",
        r"jane@contoso.example\",
        r"jane\support",
        r"support@contoso.example\jane@contoso.example",
        r"jane@contoso.example\support\",
    ] {
        for password in [&password, &of_jane] {
            let refused = messages(proxy.port, user, password).await.unwrap_err();
            assert!(is_wrong_password(&refused), "{user}: {refused}");
        }
    }
    let wrong = messages(proxy.port, r"jane@contoso.example\support", &of_jane).await;
    assert!(is_wrong_password(&wrong.unwrap_err()), "the password is the shared mailbox's own");
    proxy.stop().await;

    // Two of that name: only the whole name tells them apart.
    let another = format!(
        "[[account]]\nmailbox = \"support@fabrikam.example\"\napp = \"lab\"\nsigned_in_as = \"{JANE}\"\n"
    );
    site.configure("", &format!("{body}{another}"), "");
    let proxy = site.start().await;
    let whole = "jane@contoso.example/support@contoso.example";
    assert_eq!(messages(proxy.port, whole, &password).await, Ok(own + 1));
    let refused = messages(proxy.port, r"jane@contoso.example\support", &password).await;
    assert!(is_wrong_password(&refused.unwrap_err()));
}
