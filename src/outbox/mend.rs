//! Senders and headers, put right as a submission server may (RFC 6409 section 8), so that Exchange takes them.
//!
//! Invariant: a field that needs no change keeps its octets, its place and its folds; a header that needs
//! none comes out octet for octet. Every change is told in words, and mending the same message twice gives
//! the same octets, so that Exchange knows a second copy by its Message-ID.

use std::collections::BTreeMap;

use super::address::{Mailbox, is_address, is_routable, mailboxes};
use super::header::{Field, Header};
use super::straighten::straighten;
use crate::clock::Timestamp;
use crate::config::SenderRule;

/// What a message is mended by.
#[derive(Clone, Copy, Debug)]
pub struct MendRules<'a> {
    /// The mailbox that the message goes out by; its domain is that of a Message-ID made here.
    pub mailbox: &'a str,
    /// What becomes of the sender.
    pub sender: &'a SenderRule,
    /// When the message was taken: a missing Date.
    pub now: Timestamp,
    /// Tells the message from all others of that millisecond: a missing Message-ID.
    pub queue_id: &'a str,
}

/// A mended message's head.
#[derive(Debug, PartialEq, Eq)]
pub struct Mended {
    /// In place of the header that was given.
    pub header: Vec<u8>,
    /// The envelope's sender.
    pub sender: String,
    /// What was changed, in words for the log.
    pub mends: Vec<String>,
}

/// Mends the header (up to and with the empty line; of a message without one, all of it) and the
/// envelope's sender (empty: `<>`).
pub fn mend(header: &[u8], envelope_sender: &str, rules: &MendRules<'_>) -> Mended {
    let mut mends = Vec::new();
    let block = straighten(header.to_vec(), &mut mends);
    let header = Header::read(&block);
    let mending = Mending {
        rules,
        from: header.field("From").map(|field| mailboxes(field.value())).unwrap_or_default(),
        header: &header,
        replaced: BTreeMap::new(),
        added: Vec::new(),
        mends,
    };
    mending.run(envelope_sender)
}

/// The work on a header of fields only.
struct Mending<'a> {
    rules: &'a MendRules<'a>,
    header: &'a Header<'a>,
    /// The mailboxes of the first From.
    from: Vec<Mailbox>,
    /// By the place in the header's fields; nothing: the field is left out.
    replaced: BTreeMap<usize, Vec<u8>>,
    added: Vec<u8>,
    mends: Vec<String>,
}

impl<'a> Mending<'a> {
    fn run(mut self, envelope_sender: &str) -> Mended {
        let target = self.target(envelope_sender);
        let sender = self.envelope(envelope_sender, target.as_deref());
        let has_sender_field = self.sender_field(target.as_deref());
        self.put_from(&sender, target.as_deref(), has_sender_field);
        self.blind_copies();
        self.date_and_id();
        Mended { header: self.write(), sender, mends: self.mends }
    }

    /// The address that the rule asks for.
    fn target(&self, envelope_sender: &str) -> Option<String> {
        match self.rules.sender {
            SenderRule::Keep => None,
            SenderRule::Mailbox => Some(self.rules.mailbox.to_owned()),
            SenderRule::Map(map) => {
                let from = self.from.iter().find_map(|mailbox| mailbox.address.as_deref());
                let known =
                    [from, Some(envelope_sender)].into_iter().flatten().map(str::to_lowercase);
                let keys = known.filter(|address| is_address(address)).flat_map(|address| {
                    let domain = address.rsplit_once('@').map(|(_, domain)| format!("*@{domain}"));
                    [Some(address), domain].into_iter().flatten()
                });
                let mut keys = keys.chain(["*".to_owned()]);
                keys.find_map(|key| map.get(&key)).cloned()
            }
        }
    }

    fn envelope(&mut self, given: &str, target: Option<&str>) -> String {
        let (sender, why) = match target {
            Some(target) if target.eq_ignore_ascii_case(given) => return given.to_owned(),
            Some(target) => (target, ""),
            None if is_address(given) => return given.to_owned(),
            // Exchange's submission takes no null sender.
            None if given.is_empty() => (self.rules.mailbox, ""),
            None => (self.rules.mailbox, ", which is no address with a domain"),
        };
        self.mends.push(format!("envelope sender {sender} instead of <{}>{why}", shown(given)));
        sender.to_owned()
    }

    /// A Sender beside a From that the rule sets would name a second sender, for which Exchange asks another
    /// permission; one without an address says nothing. Gives whether one stays.
    fn sender_field(&mut self, target: Option<&str>) -> bool {
        let mut stays = false;
        for (place, field) in self.all("Sender") {
            let address = mailboxes(field.value()).into_iter().find_map(|mailbox| mailbox.address);
            let why = match (address, target) {
                (None, _) => "it has no address".to_owned(),
                (Some(address), Some(target)) if !address.eq_ignore_ascii_case(target) => {
                    format!("it was {}, and From alone names the sender", shown(&address))
                }
                _ => {
                    stays = true;
                    continue;
                }
            };
            self.replaced.insert(place, Vec::new());
            self.mends.push(format!("Sender removed: {why}"));
        }
        stays
    }

    fn put_from(&mut self, sender: &str, target: Option<&str>, has_sender_field: bool) {
        let all = self.all("From");
        let Some(&(place, field)) = all.first() else {
            self.add("From", sender);
            self.mends.push(format!("From was missing: {sender}"));
            return;
        };
        for &(later, field) in all.iter().skip(1) {
            // RFC 5322 section 3.6: exactly one.
            self.replaced.insert(later, Vec::new());
            self.mends
                .push(format!("a second From removed: {}", shown(&addresses_of(field).join(", "))));
        }
        let from = std::mem::take(&mut self.from);
        let named: Vec<_> = from.iter().filter(|it| it.address.is_some()).collect();
        let is_single = from.len() == 1 && named.len() == 1;
        let Some(first) = named.first() else {
            return self.replace_from(place, field, from.first(), sender, "it had no address");
        };
        let address = first.address.as_deref().unwrap_or_default();
        match target {
            Some(target) if !is_single || !address.eq_ignore_ascii_case(target) => {
                self.replace_from(place, field, Some(first), target, "");
            }
            _ if is_single && !first.well_formed => {
                self.replaced.insert(place, from_line(&first.words, address));
                self.mends.push(format!(
                    "From written anew: {} with its name in its place",
                    shown(address)
                ));
            }
            // RFC 5322 section 3.6.2; Exchange refuses several without it.
            _ if named.len() > 1 && !has_sender_field => {
                self.add("Sender", sender);
                self.mends.push(format!("Sender {sender} added: From has several addresses"));
            }
            _ => {}
        }
    }

    /// Puts one address into From; what was there is kept for an answer, or to be seen.
    fn replace_from(
        &mut self,
        place: usize,
        field: &Field<'_>,
        first: Option<&Mailbox>,
        address: &str,
        why: &str,
    ) {
        let line = match first {
            Some(first) if first.well_formed && mailboxes(field.value()).len() == 1 => {
                let value = field.value();
                let before = value.get(..first.place.start).unwrap_or_default();
                let behind = value.get(first.place.end..).unwrap_or_default();
                let name = field.raw().get(..field.value_range().start).unwrap_or_default();
                [name, before, address.as_bytes(), behind, b"\r\n"].concat()
            }
            _ => from_line(first.map_or(&[], |first| &first.words), address),
        };
        self.replaced.insert(place, line);
        let old = addresses_of(field);
        let was = if why.is_empty() { shown(&old.join(", ")) } else { why.to_owned() };
        self.mends.push(format!("From {address} instead: {was}"));

        let (routable, local): (Vec<_>, Vec<_>) = old.iter().partition(|it| is_routable(it));
        let answer = !routable.is_empty() && self.header.field("Reply-To").is_none();
        if answer {
            let list: Vec<_> = routable.iter().map(|address| format!("<{address}>")).collect();
            self.add("Reply-To", &list.join(",\r\n "));
            self.mends.push(format!("Reply-To added: {}", shown(&list.join(", "))));
        }
        if (!answer || !local.is_empty()) && !field.text().is_empty() {
            self.added.extend([b"X-Original-From:".as_slice(), field.value(), b"\r\n"].concat());
            self.mends.push("X-Original-From added: From as it was".into());
        }
    }

    /// RFC 5322 section 3.6.3: who gets a blind copy stands in the envelope.
    fn blind_copies(&mut self) {
        for name in ["Bcc", "Resent-Bcc"] {
            for (place, _) in self.all(name) {
                self.replaced.insert(place, Vec::new());
                self.mends.push(format!("{name} removed: the envelope has the recipients"));
            }
        }
    }

    /// RFC 6409 sections 8.2 and 8.3.
    fn date_and_id(&mut self) {
        if self.header.field("Date").is_none() {
            let date = self.rules.now.mail_date();
            self.add("Date", &date);
            self.mends.push(format!("Date was missing: {date}"));
        }
        let ids = self.all("Message-ID");
        if ids.iter().any(|(_, field)| !field.text().is_empty()) {
            return;
        }
        for (place, _) in ids {
            self.replaced.insert(place, Vec::new());
        }
        let id = message_id(self.rules.now, self.rules.queue_id, self.rules.mailbox);
        self.add("Message-ID", &id);
        self.mends.push(format!("Message-ID was missing: {id}"));
    }

    fn all(&self, name: &str) -> Vec<(usize, &'a Field<'a>)> {
        self.header.fields().iter().enumerate().filter(|(_, field)| field.is(name)).collect()
    }

    fn add(&mut self, name: &str, value: &str) {
        self.added.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }

    /// New fields stand behind those of the way so far, which RFC 5321 section 4.4 has at the top.
    fn write(&self) -> Vec<u8> {
        let fields = self.header.fields();
        let is_trace = |field: &&Field<'_>| field.is("Received") || field.is("Return-Path");
        let trace = fields.iter().take_while(is_trace).count();
        let mut octets = Vec::new();
        for place in 0..=fields.len() {
            if place == trace {
                if octets.last().is_some_and(|&last| last != b'\n') && !self.added.is_empty() {
                    octets.extend_from_slice(b"\r\n");
                }
                octets.extend_from_slice(&self.added);
            }
            let Some(field) = fields.get(place) else { break };
            octets.extend_from_slice(self.replaced.get(&place).map_or(field.raw(), Vec::as_slice));
        }
        octets.extend_from_slice(self.header.behind());
        octets
    }
}

fn addresses_of(field: &Field<'_>) -> Vec<String> {
    mailboxes(field.value()).into_iter().filter_map(|mailbox| mailbox.address).collect()
}

/// A From with the words as display name (RFC 5322 section 3.4).
fn from_line(words: &[u8], address: &str) -> Vec<u8> {
    /// A line has 998 octets (RFC 5322 section 2.1.1); the rest is for the address and the escapes.
    const LONGEST: usize = 300;
    let words: Vec<u8> =
        words.iter().copied().filter(|octet| !octet.is_ascii_control()).take(LONGEST).collect();
    let words = words.trim_ascii();
    let mut line = b"From: ".to_vec();
    // An encoded word within quotes would be shown as it stands (RFC 2047 section 5).
    let is_encoded = words.starts_with(b"=?")
        && words.ends_with(b"?=")
        && words.iter().all(u8::is_ascii_graphic);
    if is_encoded {
        line.extend_from_slice(words);
        line.push(b' ');
    } else if !words.is_empty() {
        line.push(b'"');
        for &octet in words {
            if octet == b'"' || octet == b'\\' {
                line.push(b'\\');
            }
            line.push(octet);
        }
        line.extend_from_slice(b"\" ");
    }
    line.extend_from_slice(format!("<{address}>\r\n").as_bytes());
    line
}

/// The same for the same message, and for no other.
pub(super) fn message_id(time: Timestamp, queue_id: &str, mailbox: &str) -> String {
    let id: String = queue_id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let domain = mailbox.rsplit_once('@').map_or("gatepost", |(_, domain)| domain);
    format!("<{}.{id}.gatepost@{domain}>", time.as_millis())
}

/// For the log: on one line, and not longer than anybody reads.
pub(super) fn shown(text: &str) -> String {
    /// Some more than the longest address that is in use.
    const LONGEST: usize = 120;
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    if text.chars().count() > LONGEST {
        shown.push('…');
    }
    shown
}
