//! What anything that gatepost says on a wire has to be.

/// Longest line of an SMTP reply (RFC 5321 section 4.5.3.1.5); those of the other protocols have no more to say, but
/// for IMAP's capabilities.
const LONGEST_LINE: usize = 512;

/// Whole lines of printable ASCII that are no longer than any client takes.
pub fn assert_clean(said: &[u8]) {
    let Some(lines) = said.strip_suffix(b"\r\n") else {
        assert!(said.is_empty(), "half a line: {:?}", shown(said));
        return;
    };
    let mut line = 0;
    let mut octets = lines.iter();
    while let Some(&octet) = octets.next() {
        line += 1;
        if octet == b'\r' {
            assert_eq!(octets.next(), Some(&b'\n'), "a bare CR in {:?}", shown(said));
            line = 0;
        } else {
            assert!((32..127).contains(&octet), "octet {octet:#04x} in {:?}", shown(said));
        }
        assert!(line <= LONGEST_LINE - 2, "a long line in {:?}", shown(said));
    }
}

/// One line of words for people, without anything that could forge another line of a log.
pub fn assert_words(words: &str, longest: usize) {
    assert!(!words.contains(char::is_control), "a control character in {words:?}");
    assert!(words.chars().count() <= longest, "{} characters: {words:?}", words.chars().count());
}

pub fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}

pub fn shown(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}
