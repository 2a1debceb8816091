//! What is known of a spooled message besides its octets, and how that stands in the message's file.
//!
//! A file is the message as it is sent, so that any mail program reads it; then one line of JSON, the foot; then
//! the foot's length in eight hexadecimal digits. The foot stands last because only then the size and the last mends
//! are known, and a file that was cut off has none.
//!
//! Invariant: a file never changes once it is in the queue. What changes is in a side file, the [`Progress`].

use std::io::{self, Read, Seek, SeekFrom};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::config::SenderRule;
use crate::protocol::{Envelope, Recipient};

/// Of the foot; another one is not read.
const VERSION: u32 = 1;

/// What stands behind the foot: its line end, and its length on a line.
const TAIL: u64 = 10;

/// Longest foot that is read: a thousand recipients with their parameters have a tenth of it.
const LONGEST_FOOT: u64 = 4 << 20;

/// Digits of an id: 45 bits of milliseconds, enough until the year 3084.
const ID_DIGITS: usize = 9;

/// Douglas Crockford's base 32: no I, L, O and U, so that an id can be read aloud.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Who hands a message over, and for whom.
#[derive(Clone, Debug)]
pub struct Source {
    /// By which mailbox it goes out.
    pub mailbox: String,
    /// For people: the device's name, or the login.
    pub device: String,
    /// From where it came.
    pub peer: Option<IpAddr>,
    /// In whose name it is sent.
    pub sender: SenderRule,
}

/// A message in the spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Sorts in order of arrival.
    pub id: String,
    /// By which mailbox it goes out.
    pub mailbox: String,
    /// For people: the device's name, or the login.
    pub device: String,
    /// From where it came.
    pub peer: Option<IpAddr>,
    /// When it was accepted.
    pub arrived: Timestamp,
    /// As it is sent: the sender is mended.
    pub envelope: Envelope,
    /// Octets of the message.
    pub size: u64,
    /// Whether it is gatepost's own report: if that fails, nobody is told by another one (RFC 5321 section 6.1).
    pub bounce: bool,
    /// What was changed, in words.
    pub mends: Vec<String>,
    /// How far its delivery is.
    pub progress: Progress,
}

/// How far the delivery of a message is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Attempts so far.
    pub attempts: u32,
    /// When it is tried again; none: now.
    pub next_try: Option<Timestamp>,
    /// What was last said, or happened.
    pub last_error: Option<String>,
    /// When it was last tried.
    pub last_try: Option<Timestamp>,
    /// Recipients that it was delivered to.
    pub done: Vec<String>,
    /// Recipients that were refused for good, with the provider's words.
    pub refused: Vec<(String, String)>,
    /// When a person had it tried again after it had failed: the time until it fails counts from then.
    pub renewed: Option<Timestamp>,
}

impl Progress {
    /// Whether forgetting it would send something twice, or tell somebody twice.
    pub(super) fn is_precious(&self) -> bool {
        !self.done.is_empty() || !self.refused.is_empty()
    }
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// It waits for its delivery.
    Queue,
    /// It is not tried again, unless a person wants it.
    Failed,
}

/// A file of the spool that can't be read as a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its name.
    pub id: String,
    /// Octets of the file.
    pub size: u64,
    /// What is wrong.
    pub why: String,
}

impl Entry {
    /// From when on the time counts after which it has failed.
    pub fn since(&self) -> Timestamp {
        self.progress.renewed.unwrap_or(self.arrived)
    }

    /// Whom it still has to go to.
    pub(super) fn remaining(&self) -> Vec<Recipient> {
        let Progress { done, refused, .. } = &self.progress;
        let is_settled = |address: &String| {
            done.contains(address) || refused.iter().any(|(who, _)| who == address)
        };
        let all = self.envelope.recipients.iter();
        all.filter(|recipient| !is_settled(&recipient.address)).cloned().collect()
    }

    /// What stands behind the message in its file.
    pub fn foot(&self) -> Result<Vec<u8>, serde_json::Error> {
        let Self { mailbox, device, peer, arrived, envelope, size, bounce, mends, .. } =
            self.clone();
        let version = VERSION;
        let foot = Foot { version, mailbox, device, peer, arrived, envelope, size, bounce, mends };
        let mut line = serde_json::to_vec(&foot)?;
        let length = line.len();
        line.extend_from_slice(format!("\n{length:08x}\n").as_bytes());
        Ok(line)
    }

    /// Reads the foot of a file; `Ok(Err(why))`: it is damaged.
    pub fn read(id: &str, mut file: impl Read + Seek) -> io::Result<Result<Self, String>> {
        let length = file.seek(SeekFrom::End(0))?;
        let Some(tail_at) = length.checked_sub(TAIL) else {
            return Ok(Err("it is cut off".into()));
        };
        let tail = read_at(&mut file, tail_at, TAIL)?;
        let digits = str::from_utf8(&tail).ok().and_then(|tail| tail.trim_matches('\n').get(..));
        let foot = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let foot = foot.filter(|&foot| foot <= LONGEST_FOOT.min(tail_at));
        let Some(foot) = foot else { return Ok(Err("its end is missing".into())) };
        let size = tail_at - foot;
        let line = read_at(&mut file, size, foot)?;
        Ok(match serde_json::from_slice::<Foot>(&line) {
            Err(error) => Err(format!("its last line can't be read: {error}")),
            Ok(foot) if foot.version != VERSION => {
                Err(format!("it is of version {}, of a newer gatepost", foot.version))
            }
            Ok(foot) if foot.size != size => Err(format!("it has {size} octets of {}", foot.size)),
            Ok(foot) => Ok(foot.into_entry(id)),
        })
    }
}

fn read_at(file: &mut (impl Read + Seek), at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    file.take(length).read_to_end(&mut octets)?;
    Ok(octets)
}

#[derive(Serialize, Deserialize)]
struct Foot {
    version: u32,
    mailbox: String,
    device: String,
    peer: Option<IpAddr>,
    arrived: Timestamp,
    envelope: Envelope,
    size: u64,
    bounce: bool,
    mends: Vec<String>,
}

impl Foot {
    fn into_entry(self, id: &str) -> Entry {
        let Self { mailbox, device, peer, arrived, envelope, size, bounce, mends, .. } = self;
        let (id, progress) = (id.to_owned(), Progress::default());
        Entry { id, mailbox, device, peer, arrived, envelope, size, bounce, mends, progress }
    }
}

/// The id of a millisecond.
pub(super) fn id_of(millis: u64) -> String {
    let digits = (0..ID_DIGITS).rev().map(|place| (millis >> (5 * place)) & 31);
    let digit = |digit: u64| usize::try_from(digit).ok().and_then(|digit| ALPHABET.get(digit));
    digits.filter_map(digit).map(|&digit| char::from(digit)).collect()
}

/// The millisecond of an id; `None`: it is none.
pub(super) fn millis_of(id: &str) -> Option<u64> {
    let value = |digit: u8| ALPHABET.iter().position(|&known| known == digit);
    let add = |sum: u64, digit| Some((sum << 5) | u64::try_from(value(digit)?).ok()?);
    let known = (id.len() == ID_DIGITS).then(|| id.bytes().try_fold(0, add));
    known.flatten()
}

/// An id, or a part of one, as a person wrote it: letter case does not matter, and O, I and L are digits.
pub(super) fn normalized(written: &str) -> String {
    let plain = |c: char| match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        c => c,
    };
    written.trim().chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_their_times_and_can_be_read_aloud() {
        let times = [0, 31, 32, 1_800_000_000_000, 1_800_000_000_001, (1 << 45) - 1];
        let ids: Vec<_> = times.into_iter().map(id_of).collect();
        assert!(ids.is_sorted() && ids.iter().all(|id| id.len() == ID_DIGITS), "{ids:?}");
        for (time, id) in times.into_iter().zip(&ids) {
            assert_eq!(millis_of(id), Some(time));
            assert_eq!(millis_of(&normalized(&id.to_lowercase().replace('0', "o"))), Some(time));
        }
        for none in ["", "0123", "../../etc", "01234567U", "0123456789", "01234567é"] {
            assert_eq!(millis_of(none), None, "{none}");
        }
    }
}
