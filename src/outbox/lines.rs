//! Words on lines, as mail has them.
//!
//! Invariant: no line is longer than SMTP takes, and what went through [`one_line`] begins no line of its own.

/// Longest piece of others' words on a line; Exchange's replies have up to some 300 characters.
const MAX_WORDS: usize = 1000;

/// Longest line of the words for people, as in RFC 5322 section 2.1.1.
const WIDTH: usize = 76;

/// Words on lines that all have the same indent.
pub(super) fn line(text: &mut String, indent: &str, words: &str) {
    wrap(text, indent, indent, words);
}

/// Words on lines of up to [`WIDTH`]; what has no blanks is parted where a line would get too long for SMTP.
pub(super) fn wrap(text: &mut String, first: &str, indent: &str, words: &str) {
    /// RFC 5321 section 4.5.3.1.6: 1,000 octets with the line end, and a character has up to four.
    const LONGEST_WORD: usize = 200;
    text.push_str(first);
    let mut width = first.chars().count();
    let mut fresh = true;
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let letters: Vec<char> = word.chars().collect();
        for piece in letters.chunks(LONGEST_WORD) {
            if !fresh && width + 1 + piece.len() > WIDTH {
                text.push_str("\r\n");
                text.push_str(indent);
                width = indent.chars().count();
            } else if !fresh {
                text.push(' ');
                width += 1;
            }
            text.extend(piece);
            width += piece.len();
            fresh = false;
        }
    }
    text.push_str("\r\n");
}

/// Others' words: without line ends and other controls, and not endless.
pub(super) fn one_line(words: &str) -> String {
    let blank = |c: char| if c.is_control() || c.is_whitespace() { ' ' } else { c };
    let words: String = words.chars().map(blank).take(MAX_WORDS).collect();
    words.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}
