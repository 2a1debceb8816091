//! Any file of the spool.

use std::io::Cursor;

use gatepost::outbox::{Entry, Progress};

use super::case::Case;
use super::wire::assert_words;

/// A file is a message with its envelope, and written again it is the same one; or it is damaged, in words.
pub fn check(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let mut file = case.wire.to_vec();
    if case.flag(0) {
        // A foot's length that fits: the fuzzer's octets are a message, then from the last NUL on the foot.
        let foot = file.iter().rposition(|&octet| octet == 0).unwrap_or(0);
        let length = file.len() - foot;
        file.extend_from_slice(format!("\n{length:08x}\n").as_bytes());
        file.get_mut(foot).into_iter().for_each(|octet| *octet = b' ');
    }
    match Entry::read("0123456789", Cursor::new(&file)).expect("it is in memory") {
        Err(why) => assert_words(&why, 2000),
        Ok(entry) => {
            assert!(usize::try_from(entry.size).is_ok_and(|size| size < file.len()));
            let foot = entry.foot().expect("it came from JSON");
            let size = usize::try_from(entry.size).expect("it is in memory");
            let again = [file.get(..size).expect("checked"), &foot].concat();
            let again = Entry::read("0123456789", Cursor::new(again)).expect("it is in memory");
            assert_eq!(again.as_ref(), Ok(&entry));
        }
    }
    if let Ok(progress) = serde_json::from_slice::<Progress>(case.wire) {
        let written = serde_json::to_vec(&progress).expect("it came from JSON");
        assert_eq!(serde_json::from_slice::<Progress>(&written).ok(), Some(progress));
    }
}
