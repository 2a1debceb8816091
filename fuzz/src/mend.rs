//! Any header of a device's message.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use gatepost::clock::Timestamp;
use gatepost::config::SenderRule;
use gatepost::outbox::{Header, MendRules, Mended, header_recipients, mend};

use super::case::Case;
use super::wire::{assert_words, shown};

const MAILBOX: &str = "scan@contoso.com";

pub static RULES: LazyLock<[SenderRule; 3]> = LazyLock::new(|| {
    let map = BTreeMap::from([("*@x.com".into(), "x@contoso.com".into())]);
    [SenderRule::Keep, SenderRule::Mailbox, SenderRule::Map(map)]
});

/// Octets that a mend may add in all, besides what a From that is replaced leaves behind under other names.
const MOST_ADDED: usize = 1000;

/// One sender that is the rule's, a Date and a Message-ID, no Bcc, and nothing left to do by a second pass; the fields
/// that are not touched keep their octets.
pub fn check(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let rule = &RULES[usize::from(case.flags & 3) % 3];
    let sender = ["", "a@x.com", "scan", "<>"][usize::from(case.flags >> 2 & 3)];
    // As it comes from the receiver, with CRLF and no other CR or LF.
    let block = with_line_ends(case.wire);
    let done = mended(&block, sender, rule);
    let shown = || (shown(&block), shown(&done.header));
    assert!(done.sender.contains('@'), "{:?}", done.sender);
    let header = Header::read(&done.header);
    let count = |name: &str| header.fields().iter().filter(|field| field.is(name)).count();
    assert_eq!((count("From"), count("Bcc"), count("Resent-Bcc")), (1, 0, 0), "{:?}", shown());
    assert!(count("Date") > 0 && count("Message-ID") > 0, "{:?}", shown());
    done.mends.iter().for_each(|mend| assert_words(mend, 1000));
    let again = mended(&done.header, &done.sender, rule);
    assert_eq!(
        (&again.header, &again.sender),
        (&done.header, &done.sender),
        "{:?} {:?}",
        shown(),
        again.mends
    );
    if *rule == SenderRule::Mailbox {
        let from = header.field("From").map(|from| from.text().to_lowercase()).unwrap_or_default();
        assert!(from.contains(MAILBOX), "{from}");
    }
    assert!(done.header.len() <= 4 * block.len() + MOST_ADDED, "{:?}", shown());
    header_recipients(&block).iter().for_each(|address| {
        assert!(address.contains('@') && !address.contains(char::is_control), "{address:?}");
        assert!(!address.contains(['<', '>']), "{address:?}");
    });
    check_fields(&block);
}

pub fn mended(header: &[u8], sender: &str, rule: &SenderRule) -> Mended {
    let now = Timestamp::from_millis(1_800_000_000_000);
    mend(header, sender, &MendRules { mailbox: MAILBOX, sender: rule, now, queue_id: "q7" })
}

/// Fields stand one behind the other as they were written.
fn check_fields(block: &[u8]) {
    let header = Header::read(block);
    let raw: Vec<u8> = header.fields().iter().flat_map(|field| field.raw()).copied().collect();
    // Behind the line of an mbox, if there is one.
    let first = block.iter().position(|&octet| octet == b'\n').map_or(0, |at| at + 1);
    assert!([0, first].iter().any(|&at| block[at..].starts_with(&raw)), "{:?}", shown(block));
    for field in header.fields() {
        assert!(!field.name().is_empty() && field.name().is_ascii(), "{:?}", field.name());
    }
}

pub fn with_line_ends(octets: &[u8]) -> Vec<u8> {
    let mut block = Vec::with_capacity(octets.len() + 16);
    for &octet in octets.iter().filter(|&&octet| octet != b'\r') {
        if octet == b'\n' {
            block.push(b'\r');
        }
        block.push(octet);
    }
    block
}
