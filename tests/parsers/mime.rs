//! Messages cut for Microsoft Graph: nothing is lost, judged by mail-parser, which reads MIME by itself.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatepost::outbox::{self, CannotCut, Content, header_recipients};
use mail_parser::{Message, MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;
use proptest::sample::select;

/// A message in pieces, and all octets of these.
#[derive(Debug)]
struct Cut {
    rest: Vec<u8>,
    attachments: Vec<Attachment>,
}

#[derive(Debug, PartialEq, Eq)]
struct Attachment {
    name: String,
    content_type: String,
    inline: bool,
    content_id: Option<String>,
    octets: Vec<u8>,
}

fn cut(message: &[u8], limit: usize) -> Result<Cut, CannotCut> {
    let cut = outbox::cut(&Content::of_octets(message.to_vec()), limit)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let whole = |attachment: outbox::Attachment| {
        let (name, content_type) = (attachment.name.clone(), attachment.content_type.clone());
        let (inline, content_id) = (attachment.inline, attachment.content_id.clone());
        let size = attachment.size;
        let (octets, _) = runtime.block_on(attachment.next(size + 1)).unwrap();
        assert_eq!(octets.len(), size);
        Attachment { name, content_type, inline, content_id, octets }
    };
    Ok(Cut { rest: cut.rest, attachments: cut.attachments.into_iter().map(whole).collect() })
}

fn sealed(message: &[u8]) -> Option<&'static str> {
    outbox::sealed(&Content::of_octets(message.to_vec())).unwrap()
}

/// With MIME's line length.
fn base64(octets: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(octets);
    let lines = text.as_bytes().chunks(76).map(|line| str::from_utf8(line).unwrap());
    lines.collect::<Vec<_>>().join("\r\n")
}

fn scan(length: usize, seed: u8) -> Vec<u8> {
    (0..=u8::MAX)
        .cycle()
        .step_by(7)
        .zip((0..=250).cycle())
        .map(|(a, b)| a ^ b ^ seed)
        .take(length)
        .collect()
}

fn part(header: &str, body: &str) -> String {
    format!("{header}\r\n\r\n{body}")
}

fn pdf(name: &str, octets: &[u8]) -> String {
    let header = format!(
        "Content-Type: application/pdf\r\nContent-Disposition: attachment; {name}\r\n\
         Content-Transfer-Encoding: base64"
    );
    part(&header, &base64(octets))
}

fn multipart(kind: &str, boundary: &str, parts: &[String]) -> String {
    let mut text =
        format!("Content-Type: multipart/{kind}; boundary=\"{boundary}\"\r\n\r\npreamble\r\n");
    for part in parts {
        text += &format!("--{boundary}\r\n{part}\r\n");
    }
    text + &format!("--{boundary}--\r\nepilogue\r\n")
}

fn message(content: &str) -> Vec<u8> {
    format!("From: a@x.com\r\nTo: b@y.com\r\nSubject: scan\r\nMIME-Version: 1.0\r\n{content}")
        .into_bytes()
}

/// What mail-parser finds: kind and octets of each part that has no parts.
fn leaves(message: &[u8]) -> Vec<(String, Vec<u8>)> {
    let parsed: Message<'_> = MessageParser::default().parse(message).unwrap();
    let leaf = |part: &mail_parser::MessagePart<'_>| {
        let octets = match &part.body {
            PartType::Multipart(_) => return None,
            PartType::Message(_) => {
                message[part.offset_body as usize..part.offset_end as usize].to_vec()
            }
            _ => part.contents().to_vec(),
        };
        Some((part.content_type().map_or("text/plain".into(), kind), octets))
    };
    parsed.parts.iter().filter_map(leaf).collect()
}

fn kind(it: &mail_parser::ContentType<'_>) -> String {
    format!("{}/{}", it.ctype(), it.subtype().unwrap_or_default())
}

/// Everything is in the rest or in the attachments, and only texts without octets are new.
fn check_whole(message: &[u8], rest: &[u8], attachments: &[Attachment]) {
    let mut before = leaves(message);
    let mut after = leaves(rest);
    after.extend(attachments.iter().map(|it| (it.content_type.clone(), it.octets.clone())));
    before.sort();
    after.sort();
    let is_new = |leaf: &(String, Vec<u8>)| leaf.0 == "text/plain" && leaf.1.is_empty();
    before.retain(|leaf| !is_new(leaf));
    after.retain(|leaf| !is_new(leaf));
    let short = |leaves: &[(String, Vec<u8>)]| {
        leaves.iter().map(|(kind, octets)| (kind.clone(), octets.len())).collect::<Vec<_>>()
    };
    assert_eq!(short(&after), short(&before));
    assert!(after == before);
}

#[test]
fn the_largest_go_first_and_no_more_than_needed() {
    let scans = [scan(30_000, 1), scan(90_000, 2), scan(60_000, 3)];
    let mut parts = vec![part("Content-Type: text/plain", "See the scans.\r\n")];
    parts.extend(scans.iter().enumerate().map(|(n, it)| pdf(&format!("filename=\"{n}.pdf\""), it)));
    let message = message(&multipart("mixed", "=_b", &parts));
    for (limit, expected) in [
        (300_000, &[][..]),
        (150_000, &["1.pdf"]),
        (45_000, &["1.pdf", "2.pdf"]),
        (1000, &["1.pdf", "2.pdf", "0.pdf"]),
    ] {
        let cut = cut(&message, limit).unwrap();
        let names: Vec<_> = cut.attachments.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, expected);
        assert!(cut.rest.len() <= limit);
        check_whole(&message, &cut.rest, &cut.attachments);
        for it in &cut.attachments {
            assert_eq!(
                (it.content_type.as_str(), it.inline, &it.content_id),
                ("application/pdf", false, &None)
            );
        }
    }
    // What stays is the message without the lines of the parts.
    let text = String::from_utf8(cut(&message, 1000).unwrap().rest).unwrap();
    let expected = multipart("mixed", "=_b", &parts[..1]);
    assert!(text.ends_with(&expected), "{text}");
}

#[test]
fn a_message_that_is_an_attachment_leaves_an_empty_one() {
    let octets = scan(50_000, 9);
    let content = pdf("filename*0*=utf-8''B%C3%BCro; filename*1=\"-3.pdf\"", &octets);
    let content = format!("Content-Description: a\r\n folded\r\nX-Kept:\r\n folded\r\n{content}");
    let message = message(&content);
    let cut = cut(&message, 4000).unwrap();
    let expected = "From: a@x.com\r\nTo: b@y.com\r\nSubject: scan\r\nMIME-Version: 1.0\r\nX-Kept:\r\n folded\r\n\
        Content-Type: text/plain; charset=us-ascii\r\n\r\n";
    assert_eq!(String::from_utf8(cut.rest.clone()).unwrap(), expected);
    assert_eq!(cut.attachments[0].name, "B\u{fc}ro-3.pdf");
    check_whole(&message, &cut.rest, &cut.attachments);
}

#[test]
fn pictures_of_a_page_and_messages_in_messages() {
    let image = |name: &str, length, id: &str| {
        let header = format!(
            "Content-Type: image/png; name=\"{name}\"\r\nContent-ID: <{id}>\r\n\
             Content-Transfer-Encoding: base64\r\nContent-Disposition: inline"
        );
        part(&header, &base64(&scan(length, 5)))
    };
    let page = part(
        "Content-Type: text/html; name=page.html",
        &format!("<img src=cid:a@b>{}", "x".repeat(5000)),
    );
    let related = multipart(
        "related",
        "r",
        &[
            page,
            image("=?iso-2022-jp?B?GyRCJTklLSVjJXMbKEI=?=.png", 20_000, "a@b"),
            image("", 10_000, "c@d"),
        ],
    );
    let alternative = multipart(
        "alternative",
        "a",
        &[part("Content-Type: text/plain; name=x", "hello"), related],
    );
    let inner = String::from_utf8(message(&multipart(
        "mixed",
        "inner",
        &[pdf("filename=in.pdf", &scan(9000, 8))],
    )))
    .unwrap();
    let forwarded = part("Content-Type: message/rfc822", &inner);
    let only = multipart(
        "mixed",
        "only",
        &[part(
            "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: 8bit",
            &"\u{fc}\r\n".repeat(1000),
        )],
    );
    let message = message(&multipart("mixed", "m", &[alternative, forwarded, only]));
    let cut = cut(&message, 7000).unwrap();
    check_whole(&message, &cut.rest, &cut.attachments);
    let told: Vec<_> = cut
        .attachments
        .iter()
        .map(|it| (&*it.name, &*it.content_type, it.inline, it.content_id.as_deref()))
        .collect();
    let expected = [
        ("\u{30b9}\u{30ad}\u{30e3}\u{30f3}.png", "image/png", true, Some("a@b")),
        ("attachment-2.png", "image/png", true, Some("c@d")),
        ("attachment-3.eml", "message/rfc822", false, None),
        ("attachment-4.bin", "application/octet-stream", false, None),
    ];
    assert_eq!(told, expected);
    assert_eq!(cut.attachments[2].octets, inner.as_bytes());
    assert_eq!(cut.attachments[3].octets, "\u{fc}\r\n".repeat(1000).as_bytes());
    let rest = String::from_utf8(cut.rest).unwrap();
    assert!(
        rest.contains("--only\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\r\n--only--"),
        "{rest}"
    );
    assert!(rest.contains("src=cid:a@b") && rest.contains("hello"));
}

#[test]
fn file_names_and_ways_of_encoding() {
    let long = "x=3D\u{e4}".replace('\u{e4}', "=E4=\r\n") + "  \r\n.";
    let cases: [(String, &str, Vec<u8>); 8] = [
        (pdf("filename=\"C:\\\\scans\\\\a b.pdf\"", &scan(3000, 1)), "a b.pdf", scan(3000, 1)),
        (pdf("filename=\"../../etc/passwd\"", &scan(3000, 1)), "passwd", scan(3000, 1)),
        (
            pdf("filename=\"=?utf-8?Q?R=C3=A9sum=C3=A9.pdf?=\"", &scan(3000, 1)),
            "R\u{e9}sum\u{e9}.pdf",
            scan(3000, 1),
        ),
        (pdf("filename=\"..\"", &scan(3001, 1)), "attachment-1.pdf", scan(3001, 1)),
        (
            part(
                "Content-Type: application/x-log; name=a.log\r\nContent-Transfer-Encoding: Quoted-Printable",
                &long.repeat(300),
            ),
            "a.log",
            b"x=\xe4\r\n.".repeat(300),
        ),
        // Padding in the middle, stray characters, none at the end.
        (
            part(
                "Content-Type: image/tiff\r\nContent-Transfer-Encoding: base64",
                &("YQ==\r\n!".repeat(500) + "YWI"),
            ),
            "attachment-1.tif",
            [b"a".repeat(500), b"ab".to_vec()].concat(),
        ),
        (
            part("Content-Type: text/csv", &"a;b\r\n".repeat(500)),
            "attachment-1.csv",
            b"a;b\r\n".repeat(500),
        ),
        (
            part("Content-Type: pdf\r\nContent-Disposition: ATTACHMENT", &"a;b\r\n".repeat(500)),
            "attachment-1.bin",
            b"a;b\r\n".repeat(500),
        ),
    ];
    for (content, name, octets) in cases {
        let text = part("Content-Type: text/plain", "x");
        let cut = cut(&message(&multipart("mixed", "b", &[text, content.clone()])), 1000).unwrap();
        assert_eq!(
            (cut.attachments[0].name.as_str(), cut.attachments.len()),
            (name, 1),
            "{}",
            &content[..80]
        );
        assert!(cut.attachments[0].octets == octets, "{name}");
        let alone = self::cut(&message(&content), 1000).unwrap();
        assert_eq!(alone.attachments, cut.attachments);
    }
}

#[test]
fn what_cannot_be_cut() {
    let big = "many words\r\n".repeat(1000);
    let text = part("Content-Type: text/plain; name=body.txt", &big);
    let small = pdf("filename=a.pdf", &scan(100, 1));
    let too_large = |content: &str| match cut(&message(content), 2000) {
        Err(CannotCut::TextTooLarge { octets }) => octets > 2000,
        other => panic!("{other:?}"),
    };
    assert!(
        too_large(&text)
            && too_large(&format!("\r\n{big}"))
            && too_large(&multipart("alternative", "b", &[text]))
    );
    assert!(too_large(&multipart("mixed", "b", &[part("X-Y: z", &big), small.clone()])));
    assert!(too_large(&multipart(
        "report",
        "b",
        &[small.clone(), pdf("filename=a.pdf", &scan(9000, 1))]
    )));
    // Damaged, or encoded by who knows what.
    assert!(too_large(&part(
        "Content-Type: a/b\r\nContent-Transfer-Encoding: base64",
        &(big.clone() + "=a")
    )));
    assert!(too_large(&part(
        "Content-Type: a/b\r\nContent-Transfer-Encoding: quoted-printable",
        &(big.clone() + "=zz")
    )));
    assert!(too_large(&part("Content-Type: a/b\r\nContent-Transfer-Encoding: x-uuencode", &big)));
    let many = multipart("mixed", "b", &vec![small; 1200]);
    assert!(matches!(cut(&message(&many), 2000), Err(CannotCut::TooComplex)));
    let signed = multipart("signed", "b", &[pdf("filename=a.pdf", &scan(9000, 1))]);
    assert!(matches!(cut(&message(&signed), 2000), Err(CannotCut::Sealed(_))));
}

#[test]
fn signatures_and_encryptions_are_known() {
    let pgp = "\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA256\r\n";
    let text = part("Content-Type: text/plain", "x");
    for (content, word) in [
        (multipart("signed; micalg=sha-256", "b", std::slice::from_ref(&text)), "multipart/signed"),
        (
            multipart("mixed", "m", &[multipart("Signed", "b", std::slice::from_ref(&text))]),
            "multipart/signed",
        ),
        (multipart("encrypted", "b", &[]), "multipart/encrypted"),
        (
            part(
                "content-type: application/x-pkcs7-mime;\r\n smime-type=signed-data; name=smime.p7m",
                "",
            ),
            "pkcs7-mime",
        ),
        (part("Content-Type: Application/PKCS7-mime", ""), "pkcs7-mime"),
        (part("Content-Type: application/pgp; format=text", ""), "pgp"),
        (part("Content-Type: text/plain", pgp), "PGP"),
        (format!("\r\n{pgp}"), "PGP"),
    ] {
        assert!(sealed(&message(&content)).is_some_and(|seal| seal.contains(word)), "{content}");
    }
    let attached = part("Content-Type: application/pkcs7-mime; name=smime.p7m", "MIAG");
    let forwarded = part(
        "Content-Type: message/rfc822",
        &multipart("signed", "b", std::slice::from_ref(&text)),
    );
    for content in
        [text.clone(), multipart("mixed", "b", &[text, attached, forwarded]), String::new()]
    {
        assert_eq!(sealed(&message(&content)), None, "{content}");
    }
}

#[test]
fn recipients_that_the_header_names() {
    let header = b"To: A <A@x.com>, Group: \"b, c\" <b@Y.com>, d@z.com;\r\ncc:\r\n e@x.com (f@x.com)\r\n\
        Bcc: <g@x.com>\r\nX-To: h@x.com\r\nSubject: i@x.com\r\nTo: undisclosed, J@x.com\r\n\r\nTo: k@x.com\r\n";
    let found: Vec<_> = header_recipients(header).into_iter().collect();
    assert_eq!(found, ["a@x.com", "b@y.com", "d@z.com", "e@x.com", "g@x.com", "j@x.com"]);
}

/// Messages of any nesting, with the size of a limit beside.
fn tree() -> impl Strategy<Value = String> {
    let octets = prop::collection::vec(any::<u8>(), 0..600);
    let leaf = (0..7_usize, octets).prop_map(|(way, octets)| {
        let text: String = octets.iter().map(|it| char::from(b'a' + it % 26)).collect();
        match way {
            0 => part("Content-Type: text/plain", &text),
            1 => part("Content-Type: text/html; charset=us-ascii", &text),
            2 => part("Content-Type: application/x-a\r\nContent-Transfer-Encoding: 8bit", &text),
            3 => pdf("filename=a.pdf", &octets),
            4 => part("Content-Type: text/plain\r\nContent-Disposition: attachment", &text),
            5 => part(
                "Content-Type: image/png\r\nContent-Transfer-Encoding: quoted-printable",
                &octets.iter().map(|it| format!("={it:02X}")).collect::<Vec<_>>().join("=\r\n"),
            ),
            _ => part("Content-Type: message/rfc822", &part("Subject: x", &text)),
        }
    });
    let kinds = select(vec!["mixed", "mixed", "related", "alternative"]);
    leaf.prop_recursive(4, 24, 5, move |inner| {
        (kinds.clone(), prop::collection::vec(inner, 1..5), any::<u64>())
            .prop_map(|(kind, parts, number)| multipart(kind, &format!("=_{number:016x}="), &parts))
    })
}

fn odd() -> impl Strategy<Value = Vec<u8>> {
    let piece = select(vec![
        "Content-Type: multipart/mixed; boundary=b\r\n",
        "Content-Type: multipart/digest; boundary=\"b1\"\r\n",
        "\r\n",
        "\r\n",
        "\n",
        "--b",
        "--b1",
        "--",
        "\r\n--b\r\n",
        "\r\n--b1--\r\n",
        "Content-Type: ",
        "application/pdf",
        "; name*0*=utf-8''%",
        "; name*1=",
        "; filename=\"=?utf-8?b?w7w=?=\"",
        "*4294967296*=x",
        "'",
        "Content-Disposition: attachment",
        "Content-Transfer-Encoding: base64\r\n",
        "Content-Transfer-Encoding: quoted-printable\r\n",
        "=",
        "=E4",
        "YWJj",
        "begin 644 a\r\n#\r\nend\r\n",
        "Content-ID: <a>\r\n",
        "\"",
        "\\",
        ";",
        "(",
        "message/rfc822",
        "text/plain\r\n",
        "x",
        " ",
        "Subject: y\r\n",
        "=?iso-2022-jp?b?",
        "?=",
        "%C3",
    ]);
    let known = piece.prop_map(|piece| piece.as_bytes().to_vec());
    let piece = prop_oneof![9 => known, 1 => prop::collection::vec(any::<u8>(), 0..6)];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost(content in tree(), limit in 0..6000_usize) {
        let message = message(&content);
        if let Ok(cut) = cut(&message, limit) {
            prop_assert!(cut.rest.len() <= limit);
            check_whole(&message, &cut.rest, &cut.attachments);
        }
    }

    #[test]
    fn any_octets(message in odd(), limit in 0..200_usize) {
        sealed(&message);
        header_recipients(&message);
        if let Ok(cut) = cut(&message, limit) {
            prop_assert!(cut.rest.len() <= limit);
            for it in cut.attachments {
                prop_assert!(!it.name.is_empty() && !it.name.contains(|c: char| c.is_control()), "{:?}", it.name);
            }
        }
    }
}
