//! Messages as devices send them, and what becomes of their senders and headers.

use std::collections::BTreeMap;

use gatepost::clock::Timestamp;
use gatepost::config::SenderRule;
use gatepost::outbox::{Header, MendRules, Mended, mend};
use mail_parser::MessageParser;
use proptest::prelude::*;
use proptest::sample::select;

const MAILBOX: &str = "scan@contoso.com";
const DATE: &str = "Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n";
const ID: &str = "Message-ID: <1800000000000.q7.gatepost@contoso.com>\r\n";
const WHOLE: &str = "Date: x\r\nMessage-ID: <a@b>\r\n";

fn mended(header: &[u8], sender: &str, rule: &SenderRule) -> Mended {
    let now = Timestamp::from_millis(1_800_000_000_000);
    mend(header, sender, &MendRules { mailbox: MAILBOX, sender: rule, now, queue_id: "q7" })
}

fn text(mended: &Mended) -> &str {
    str::from_utf8(&mended.header).unwrap()
}

/// The header that comes of one that lacks neither Date nor Message-ID.
fn after(fields: &str, sender: &str, rule: &SenderRule) -> (String, Mended) {
    let done = mended(format!("{WHOLE}{fields}\r\n").as_bytes(), sender, rule);
    let rest = text(&done).replace(WHOLE, "");
    (rest.strip_suffix("\r\n").unwrap().to_owned(), done)
}

fn map(rules: &[(&str, &str)]) -> SenderRule {
    let rules = rules.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned()));
    SenderRule::Map(rules.collect::<BTreeMap<_, _>>())
}

#[test]
fn what_needs_nothing_keeps_every_octet() {
    let odd = b"Received: from x\r\n\tby y;\r\n  z\r\nDATE:\tyesterday, I think\r\nmessage-id:<no-domain>\r\n\
        FROM:\r\n =?iso-8859-1?q?B=FCro?=\r\n\t<Scan@Contoso.com> (3rd \xfcber floor)\r\nTo: a@b, \xff <c@d>;,\r\n\
        Subject: \xc3\x28 8-bit \xe4 \r\nX-Empty:\r\nX-Folded:\r\n \r\n\tx\r\n\
        Content-Type: multipart/signed; boundary=\"=_ b\"\r\n ;micalg=sha-256\r\nMIME-Version: (x) 1.0\r\n";
    let ways = [SenderRule::Keep, SenderRule::Mailbox, map(&[("*", "SCAN@contoso.com")])];
    for end in ["\r\n", ""] {
        let block = [odd.as_slice(), end.as_bytes()].concat();
        for rule in &ways {
            let done = mended(&block, "scan@contoso.com", rule);
            assert_eq!(done.mends, [""; 0]);
            assert_eq!(done.header, block, "{}", String::from_utf8_lossy(&done.header));
            assert_eq!(done.sender, "scan@contoso.com");
        }
    }
    // Nor is anything else than the senders to be mended under keep.
    let foreign = b"Sender: y@z.local\r\nDate: x\r\nMessage-ID: <a@b>\r\nFrom: x@printer\r\n\r\n";
    let done = mended(foreign, "x@y.local", &SenderRule::Keep);
    assert_eq!(
        (done.header.as_slice(), done.sender.as_str(), done.mends.len()),
        (&foreign[..], "x@y.local", 0)
    );
}

#[test]
fn what_is_missing_is_added_once_behind_the_trace() {
    let done =
        mended(b"Received: x\r\n\ty\r\nSubject: a\r\n\r\n", "mfp@x.local", &SenderRule::Keep);
    let expected =
        format!("Received: x\r\n\ty\r\nFrom: mfp@x.local\r\n{DATE}{ID}Subject: a\r\n\r\n");
    assert_eq!((text(&done), done.mends.len()), (expected.as_str(), 3));
    let again = mended(&done.header, &done.sender, &SenderRule::Keep);
    assert_eq!((again.header, again.mends.len()), (done.header, 0));
    let done =
        mended(b"From: a@b.de\r\nDate:\r\nMessage-ID: \r\n\r\n", "a@b.de", &SenderRule::Keep);
    assert_eq!(text(&done), format!("{ID}From: a@b.de\r\nDate:\r\n\r\n"));
}

#[test]
fn a_sender_that_exchange_cannot_take_becomes_the_mailbox() {
    let broken =
        ["", "scan", "scan@", "@x.de", "a b@x.de", "<a@x.de>", "a@x.de\r\nBcc: b@x.de", "a@b@c"];
    for sender in broken {
        let (from, done) = after("From: a@b.de\r\n", sender, &SenderRule::Keep);
        assert_eq!(
            (from.as_str(), done.sender.as_str()),
            ("From: a@b.de\r\n", MAILBOX),
            "{sender}"
        );
        assert_eq!(done.mends.len(), 1);
        assert!(
            done.mends[0].contains(MAILBOX) && !done.mends[0].contains('\n'),
            "{:?}",
            done.mends
        );
        let (from, _) = after("", sender, &SenderRule::Keep);
        assert_eq!(from, "From: scan@contoso.com\r\n");
    }
    let done = mended(b"Subject: a\r\n\r\n", "", &SenderRule::Keep);
    assert!(text(&done).starts_with("From: scan@contoso.com\r\n"));
}

#[test]
fn the_mailbox_is_the_sender_and_the_original_gets_the_answers() {
    let cases = [
        // From, and what comes of it behind the added fields.
        (
            "From: \"Floor 3, A\" <a@fabrikam.com> (x)\r\n",
            "Reply-To: <a@fabrikam.com>\r\n",
            "From: \"Floor 3, A\" <scan@contoso.com> (x)\r\n",
        ),
        ("From:a@fabrikam.com\r\n", "Reply-To: <a@fabrikam.com>\r\n", "From:scan@contoso.com\r\n"),
        (
            "from: =?utf-8?b?w7w=?=\r\n <u@mfp.local>\r\n",
            "X-Original-From: =?utf-8?b?w7w=?=\r\n <u@mfp.local>\r\n",
            "from: =?utf-8?b?w7w=?=\r\n <scan@contoso.com>\r\n",
        ),
        (
            "From: a@fabrikam.com\r\nReply-To: b@x.de\r\n",
            "X-Original-From: a@fabrikam.com\r\n",
            "From: scan@contoso.com\r\nReply-To: b@x.de\r\n",
        ),
        (
            "From: a@[10.0.0.1]\r\n",
            "X-Original-From: a@[10.0.0.1]\r\n",
            "From: scan@contoso.com\r\n",
        ),
        (
            "From: Scanner 3 a@fabrikam.com\r\n",
            "Reply-To: <a@fabrikam.com>\r\n",
            "From: \"Scanner 3\" <scan@contoso.com>\r\n",
        ),
        (
            "From: Big \"Scanner\r\n",
            "X-Original-From: Big \"Scanner\r\n",
            "From: \"Big Scanner\" <scan@contoso.com>\r\n",
        ),
        ("From: <>\r\n", "X-Original-From: <>\r\n", "From: <scan@contoso.com>\r\n"),
        ("From:\r\n", "", "From: <scan@contoso.com>\r\n"),
        (
            "From: a@x.com, B <b@mfp.lan>\r\n",
            "Reply-To: <a@x.com>\r\nX-Original-From: a@x.com, B <b@mfp.lan>\r\n",
            "From: <scan@contoso.com>\r\n",
        ),
        (
            "From: Staff: a@x.com, b@y.com;\r\n",
            "Reply-To: <a@x.com>,\r\n <b@y.com>\r\n",
            "From: <scan@contoso.com>\r\n",
        ),
        (
            "From: a@x.com\r\nSender: b@y.com\r\n",
            "Reply-To: <a@x.com>\r\n",
            "From: scan@contoso.com\r\n",
        ),
        (
            "Sender: SCAN@contoso.com\r\nFrom: a@x.com\r\n",
            "Reply-To: <a@x.com>\r\n",
            "Sender: SCAN@contoso.com\r\nFrom: scan@contoso.com\r\n",
        ),
        (
            "From: a@x.com\r\nFrom: b@y.com\r\n",
            "Reply-To: <a@x.com>\r\n",
            "From: scan@contoso.com\r\n",
        ),
    ];
    for (fields, added, rest) in cases {
        let block = format!("{fields}{WHOLE}\r\n");
        let done = mended(block.as_bytes(), "a@mfp.local", &SenderRule::Mailbox);
        assert_eq!(text(&done), format!("{added}{rest}{WHOLE}\r\n"));
        assert_eq!(done.sender, MAILBOX);
        assert!(done.mends.len() >= 2, "{:?}", done.mends);
        // An independent reader finds one sender.
        let message = MessageParser::default().parse(&done.header).unwrap();
        let from = message.from().unwrap();
        assert_eq!(
            from.iter().filter_map(|it| it.address()).collect::<Vec<_>>(),
            [MAILBOX],
            "{fields}"
        );
        // Another pass changes nothing.
        let again = mended(&done.header, &done.sender, &SenderRule::Mailbox);
        assert_eq!((again.header, again.mends.len()), (done.header, 0), "{fields}");
    }
}

#[test]
fn a_map_is_asked_from_the_narrow_to_the_wide() {
    let rule = map(&[
        ("mfp@printer.local", "scan@contoso.com"),
        ("*@printer.local", "print@contoso.com"),
        ("ups@x", "ups@contoso.com"),
    ]);
    let of = |from: &str, sender: &str| after(&format!("From: {from}\r\n"), sender, &rule).1;
    for (from, sender, target) in [
        ("MFP@printer.LOCAL", "other@printer.local", "scan@contoso.com"),
        ("new@printer.local", "mfp@printer.local", "print@contoso.com"),
        ("a@b.de", "mfp@printer.local", "scan@contoso.com"),
        ("a@b.de", "UPS@x", "ups@contoso.com"),
        ("nobody", "z@printer.local", "print@contoso.com"),
    ] {
        let done = of(from, sender);
        assert_eq!(done.sender, target, "{from} {sender}");
        assert!(text(&done).contains(target), "{from} {sender}: {}", text(&done));
    }
    let kept = of("a@b.de", "c@d.de");
    assert_eq!((kept.sender.as_str(), kept.mends.len()), ("c@d.de", 0));
    let wide = map(&[("*", "all@contoso.com"), ("*@b.de", "b@contoso.com")]);
    assert_eq!(after("From: a@b.de\r\n", "", &wide).1.sender, "b@contoso.com");
    assert_eq!(after("From: a@c.de\r\n", "", &wide).1.sender, "all@contoso.com");
    // The From is right already, the envelope is not.
    let (from, done) = after("From: B <b@contoso.com>\r\n", "mfp@b.de", &wide);
    assert_eq!(
        (from.as_str(), done.sender.as_str()),
        ("From: B <b@contoso.com>\r\n", "b@contoso.com")
    );
}

#[test]
fn keep_mends_only_what_is_invalid() {
    let cases = [
        ("From: a@x.com, b@y.com\r\n", "Sender: e@x.com\r\nFrom: a@x.com, b@y.com\r\n"),
        (
            "From: a@x.com, b@y.com\r\nSender: a@x.com\r\n",
            "From: a@x.com, b@y.com\r\nSender: a@x.com\r\n",
        ),
        ("From: a@x.com\r\nSender: Scanner\r\n", "From: a@x.com\r\n"),
        ("From: <a@x.com> \"A\" B\r\n", "From: \"A B\" <a@x.com>\r\n"),
        ("From: Floor \\ 3\r\n", "X-Original-From: Floor \\ 3\r\nFrom: \"Floor  3\" <e@x.com>\r\n"),
        (
            "From: a@x.com\r\nBcc: secret@x.com\r\nBCC: more@x.com,\r\n n@x.com\r\n",
            "From: a@x.com\r\n",
        ),
        ("From : a@x.com\r\nSubject \t: b : c\r\n", "From: a@x.com\r\nSubject: b : c\r\n"),
    ];
    for (fields, expected) in cases {
        let done = mended(format!("{fields}{WHOLE}\r\n").as_bytes(), "e@x.com", &SenderRule::Keep);
        assert_eq!(text(&done), format!("{expected}{WHOLE}\r\n"));
        assert!(!done.mends.iter().any(|mend| mend.contains("secret")), "{:?}", done.mends);
        assert_eq!(done.mends.is_empty(), fields == expected, "{:?}", done.mends);
    }
}

#[test]
fn text_without_a_header_keeps_all_its_lines() {
    let made = format!("From: a@x.com\r\n{DATE}{ID}\r\n");
    for body in [
        "UPS on battery\r\n",
        "UPS on battery\r\nSubject: x\r\n\r\nmore\r\n",
        "Warning: no paper\r\nTray: 2\r\n\r\nRefill it.\r\n",
        " indented\r\n\r\n",
        "http://printer/status\r\n",
        "",
    ] {
        let done = mended(body.as_bytes(), "a@x.com", &SenderRule::Keep);
        assert_eq!(text(&done), format!("{made}{body}"), "{body:?}");
        assert!(done.mends[0].starts_with("there was no header"), "{:?}", done.mends);
    }
    let done = mended(b"\r\n", "a@x.com", &SenderRule::Keep);
    assert_eq!((text(&done), done.mends.len()), (made.as_str(), 3));
}

#[test]
fn lines_that_are_no_fields() {
    let cases = [
        // Text without its empty line.
        (
            "From: a@x.com\r\nSubject: x\r\nfan failed\r\nTemp: 40\r\n\r\nmore\r\n",
            "From: a@x.com\r\nSubject: x\r\n\r\nfan failed\r\nTemp: 40\r\n\r\nmore\r\n",
            1,
        ),
        ("From: a@x.com\r\n \r\nfan failed\r\n", "From: a@x.com\r\n \r\n\r\nfan failed\r\n", 1),
        // A subject folded wrongly, before what the attachment needs.
        (
            "Subject: a long\r\none of many\r\nwords\r\nContent-Type: a/b\r\nFrom: a@x.com\r\n\r\n",
            "Subject: a long\r\n one of many\r\n words\r\nContent-Type: a/b\r\nFrom: a@x.com\r\n\r\n",
            1,
        ),
        (
            "Subject: a\r\nstray\r\nFrom: a@x.com\r\ntext\r\nStatus: b\r\n\r\n",
            "Subject: a\r\n stray\r\nFrom: a@x.com\r\n\r\ntext\r\nStatus: b\r\n\r\n",
            2,
        ),
        // An mbox.
        ("From jane Thu Jan  1 00:00:00 1970\r\nFrom: a@x.com\r\n\r\n", "From: a@x.com\r\n\r\n", 1),
        (">From jane Thu Jan  1\r\nFrom: a@x.com\r\n\r\n", "From: a@x.com\r\n\r\n", 1),
    ];
    for (block, expected, mends) in cases {
        let done = mended(block.as_bytes(), "a@x.com", &SenderRule::Keep);
        assert_eq!(text(&done).replace(DATE, "").replace(ID, ""), expected);
        assert_eq!(done.mends.len(), mends + 2, "{:?}", done.mends);
    }
    let hostile = format!("X-A: b\r\n{}From: a@x.com\r\n\r\n", "stray\r\n".repeat(50_000));
    assert!(
        text(&mended(hostile.as_bytes(), "a@x.com", &SenderRule::Keep))
            .contains(" stray\r\n stray\r\nFrom: a@x.com\r\n\r\n")
    );
}

fn block() -> impl Strategy<Value = Vec<u8>> {
    let piece = select(vec![
        "From: ",
        "From ",
        "from : ",
        "Sender: ",
        "Reply-To:",
        "Bcc: ",
        "Date: x",
        "Message-ID: <a@b>",
        "Subject: ",
        "Content-Type: a/b",
        "X-Original-From: ",
        "Received: ",
        "\r\n",
        "\r\n",
        "\r\n",
        "\r\n ",
        "\n",
        "\r",
        "a@x.com",
        "b@y.local",
        "scan@contoso.com",
        "<",
        ">",
        "\"",
        "\\",
        "(",
        ")",
        ",",
        ";",
        ":",
        "@",
        "=?utf-8?q?=C3=BC?=",
        " ",
        "\t",
        "\0",
        "text",
        "[",
    ]);
    let known = piece.prop_map(|piece| piece.as_bytes().to_vec());
    let piece = prop_oneof![9 => known, 1 => prop::collection::vec(any::<u8>(), 0..4)];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes: no panic, one sender that is the rule's, a Date and a Message-ID, nothing said twice,
    /// no Bcc; and a second pass finds nothing to do.
    #[test]
    fn any_block(block in block(), sender in "(a@x\\.com|scan|<>|)", way in 0..3_usize) {
        let rule = [SenderRule::Keep, SenderRule::Mailbox, map(&[("*@x.com", "x@contoso.com")])][way].clone();
        let done = mended(&block, &sender, &rule);
        prop_assert!(done.sender.contains('@'));
        let header = Header::read(&done.header);
        let count = |name: &str| header.fields().iter().filter(|field| field.is(name)).count();
        prop_assert_eq!((count("From"), count("Bcc")), (1, 0), "{:?}", String::from_utf8_lossy(&done.header));
        prop_assert!(count("Date") > 0 && count("Message-ID") > 0);
        for mend in &done.mends {
            prop_assert!(!mend.contains(|c: char| c.is_control()), "{:?}", mend);
        }
        let again = mended(&done.header, &done.sender, &rule);
        prop_assert_eq!(&again.header, &done.header, "{:?} {:?}", String::from_utf8_lossy(&done.header), again.mends);
        prop_assert_eq!(again.sender, done.sender);
        if rule == SenderRule::Mailbox {
            let from = header.field("From").unwrap().text().to_lowercase();
            prop_assert!(from.contains(MAILBOX), "{}", from);
        }
    }
}
