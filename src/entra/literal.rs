//! Names of a configuration in PowerShell: as values and in comments.
//!
//! PowerShell takes the typographic quotes U+2018 to U+201B for `'`, and Windows PowerShell 5.1 reads a file
//! without a byte order mark in the code page of the machine, where one octet of an innocent letter can be such
//! a quote. So a letter beyond ASCII is written by its number.
//!
//! Invariant: what is made here is printable ASCII on one line, whatever the name.

use std::fmt::Write;

/// An expression whose value is `text`: `'O''Brien'`, or `('M' + [char]0xFC + 'ller')`.
pub(super) fn literal(text: &str) -> String {
    let mut expression = String::from("'");
    let mut quoted = true;
    for c in text.chars() {
        if is_plain(c) != quoted {
            expression.push_str(if quoted { "'" } else { " + '" });
            quoted = !quoted;
        }
        match c {
            '\'' => expression.push_str("''"),
            c if is_plain(c) => expression.push(c),
            // A .NET character is a UTF-16 unit.
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(expression, " + [char]0x{unit:X}");
            }),
        }
    }
    if quoted {
        expression.push('\'');
    }
    match text.chars().all(is_plain) {
        true => expression,
        false => format!("({expression})"),
    }
}

/// `@('a', 'b')`.
pub(super) fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<_> = texts.into_iter().map(literal).collect();
    format!("@({})", texts.join(", "))
}

/// `text` for a comment in `<# #>`, which it can't end.
pub(super) fn comment(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '>' if shown.ends_with('#') => shown.push_str(" >"),
            c if is_plain(c) => shown.push(c),
            c => shown.extend(c.escape_unicode()),
        }
    }
    shown
}

fn is_plain(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What PowerShell makes of it, by the rules of its language: a string in single quotes, to which strings and
    /// characters are added. `None`: it is something else, and could run.
    fn value(expression: &str) -> Option<String> {
        let inner = expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let mut rest = inner.unwrap_or(expression);
        let mut units = Vec::new();
        loop {
            if let Some(quoted) = rest.strip_prefix('\'') {
                rest = quoted;
                loop {
                    let c = rest.chars().next()?;
                    rest = &rest[c.len_utf8()..];
                    match c {
                        '\'' if rest.starts_with('\'') => rest = &rest[1..],
                        '\'' => break,
                        '\u{2018}'..='\u{201B}' | '\r' | '\n' => return None,
                        _ => {}
                    }
                    units.extend(c.encode_utf16(&mut [0; 2]).iter());
                }
            } else {
                let number = rest.strip_prefix("[char]0x")?;
                let end = number.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(number.len());
                units.push(u16::from_str_radix(&number[..end], 16).ok()?);
                rest = &number[end..];
            }
            if rest.is_empty() {
                return String::from_utf16(&units).ok();
            }
            rest = rest.strip_prefix(" + ")?;
        }
    }

    #[test]
    fn names_as_they_are_written() {
        assert_eq!(literal(""), "''");
        assert_eq!(literal("O'Brien@contoso.com"), "'O''Brien@contoso.com'");
        assert_eq!(literal("$(calc)`\"#>"), "'$(calc)`\"#>'");
        assert_eq!(literal("Müller"), "('M' + [char]0xFC + 'ller')");
        assert_eq!(literal("\u{2019}"), "('' + [char]0x2019)");
        assert_eq!(literal("\u{1F4EC}\n"), "('' + [char]0xD83D + [char]0xDCEC + [char]0xA)");
        assert_eq!(list(["imap", "pop3"]), "@('imap', 'pop3')");
        assert_eq!(list([]), "@()");
        assert_eq!(comment("a#>b\n#\u{202E}"), "a# >b\\u{a}#\\u{202e}");
    }

    fn nasty() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            any::<String>(),
            any::<char>().prop_map(String::from),
            "['\"`$#>()@{};|&\u{2018}-\u{201F}\r\n\u{85}\u{2028}a ]{0,8}",
        ];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_literal_is_its_text(text in nasty()) {
            let written = literal(&text);
            prop_assert!(written.chars().all(is_plain), "{}", written);
            prop_assert_eq!(value(&written), Some(text), "{}", written);
        }

        #[test]
        fn a_comment_does_not_end(text in nasty()) {
            let written = comment(&text);
            prop_assert!(written.chars().all(is_plain) && !written.contains("#>"), "{}", written);
        }
    }
}
