//! The parameters of MAIL and RCPT: RFC 1870 (SIZE), RFC 6152 (BODY), RFC 3461 (notifications), RFC 6531
//! (SMTPUTF8), RFC 4954 (AUTH); and those of BDAT: RFC 3030.
//!
//! Invariant: what is kept is printable ASCII that the next server understands, as it was written.

use super::super::input::split_word;
use super::reply::Reply;

/// Longest value of ENVID (RFC 3461 section 4.4).
const MAX_ENVID: usize = 100;

/// Longest value of ORCPT (RFC 3461 section 4.2).
const MAX_ORCPT: usize = 500;

/// Names that can stand behind a path, of either command.
const KNOWN: [&str; 8] = ["SIZE", "AUTH", "BODY", "SMTPUTF8", "RET", "ENVID", "NOTIFY", "ORCPT"];

/// Whether the word is a parameter and no part of an address.
pub(super) fn is_known(word: &str) -> bool {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    KNOWN.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether the message may have addresses in UTF-8.
pub(super) fn has_smtputf8(parameters: &[String]) -> bool {
    parameters.iter().any(|parameter| parameter.eq_ignore_ascii_case("SMTPUTF8"))
}

/// Those of MAIL, without SIZE, which is checked here, and without AUTH, which nobody has to believe
/// (RFC 4954 section 5).
pub(super) fn of_mail(text: &str, max_size: u64) -> Result<Vec<String>, Reply> {
    each(text, |name, value| match (name, value) {
        ("SIZE", Some(size)) => fits(size, max_size).map(|()| false),
        ("AUTH", Some(_)) => Ok(false),
        ("BODY", Some(body)) if is_one_of(body, &["7BIT", "8BITMIME"]) => Ok(true),
        ("BODY", Some(body)) if body.eq_ignore_ascii_case("BINARYMIME") => {
            Err(Reply::new(504, "5.5.4 BODY=BINARYMIME is not offered here"))
        }
        ("SMTPUTF8", None) => Ok(true),
        ("RET", Some(what)) if is_one_of(what, &["FULL", "HDRS"]) => Ok(true),
        ("ENVID", Some(id)) if is_xtext(id, MAX_ENVID) => Ok(true),
        ("SIZE" | "AUTH" | "BODY" | "SMTPUTF8" | "RET" | "ENVID", _) => Err(bad_value(name)),
        _ => Err(unknown("MAIL FROM")),
    })
}

/// Those of RCPT.
pub(super) fn of_rcpt(text: &str) -> Result<Vec<String>, Reply> {
    each(text, |name, value| match (name, value) {
        ("NOTIFY", Some(when)) if is_notify(when) => Ok(true),
        ("ORCPT", Some(original)) if is_original(original) => Ok(true),
        ("NOTIFY" | "ORCPT", _) => Err(bad_value(name)),
        _ => Err(unknown("RCPT TO")),
    })
}

/// The octets of BDAT's chunk, and whether it is the last one: `1000 LAST` (RFC 3030 section 2).
pub(super) fn of_bdat(arguments: &[u8]) -> Option<(u64, bool)> {
    let (size, last) = split_word(arguments);
    let last = match last {
        b"" => false,
        word if word.eq_ignore_ascii_case(b"LAST") => true,
        _ => return None,
    };
    let digits = !size.is_empty() && size.iter().all(u8::is_ascii_digit);
    let size = str::from_utf8(size).ok().filter(|_| digits)?.parse().ok()?;
    Some((size, last))
}

/// Keeps the ones that `judge` says, which is told the name in capitals and the value.
fn each(
    text: &str,
    judge: impl Fn(&str, Option<&str>) -> Result<bool, Reply>,
) -> Result<Vec<String>, Reply> {
    let mut names: Vec<String> = Vec::new();
    let mut kept = Vec::new();
    for parameter in text.split_ascii_whitespace() {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (parameter, None),
        };
        let name = name.to_ascii_uppercase();
        if judge(&name, value)? {
            kept.push(parameter.to_owned());
        }
        if names.contains(&name) {
            return Err(Reply::new(501, format!("5.5.4 {name} is given twice")));
        }
        names.push(name);
    }
    Ok(kept)
}

fn bad_value(name: &str) -> Reply {
    Reply::new(501, format!("5.5.4 {name} can't have this value"))
}

fn unknown(command: &str) -> Reply {
    Reply::new(555, format!("5.5.4 a parameter of {command} that is not known here"))
}

/// RFC 1870 section 6.1: what will not fit is refused before it is sent.
fn fits(size: &str, max_size: u64) -> Result<(), Reply> {
    if size.is_empty() || !size.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(bad_value("SIZE"));
    }
    match size.parse::<u64>() {
        Ok(size) if size <= max_size => Ok(()),
        _ => Err(too_long(max_size)),
    }
}

/// The message has too many octets.
pub(super) fn too_long(max_size: u64) -> Reply {
    Reply::new(552, format!("5.3.4 the message is longer than {max_size} octets, the limit here"))
}

fn is_one_of(value: &str, words: &[&str]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(value))
}

fn is_notify(when: &str) -> bool {
    when.eq_ignore_ascii_case("NEVER")
        || when.split(',').all(|event| is_one_of(event, &["SUCCESS", "FAILURE", "DELAY"]))
}

/// `rfc822;jane+40contoso.com`.
fn is_original(original: &str) -> bool {
    let Some((kind, address)) = original.split_once(';') else { return false };
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
    !kind.is_empty() && kind.bytes().all(plain) && is_xtext(address, MAX_ORCPT)
}

/// RFC 3461 section 4, but for the digits behind a plus, which old senders leave out.
fn is_xtext(text: &str, longest: usize) -> bool {
    let plain = |octet: u8| octet.is_ascii_graphic() && octet != b'=';
    !text.is_empty() && text.len() <= longest && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks() {
        assert_eq!(of_bdat(b"12"), Some((12, false)));
        assert_eq!(of_bdat(b"0 last"), Some((0, true)));
        for bad in [&b""[..], b"LAST", b"-1", b"+1", b"1x", b"1 LAST x", b"99999999999999999999"] {
            assert_eq!(of_bdat(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
