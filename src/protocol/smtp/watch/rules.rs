//! What a device that can't log in may do, and what it is told when it wants more.
//!
//! Invariant: what is judged is what the upstream will read: a command that two servers could read
//! differently is refused.

use super::super::envelope::AllowedRecipients;

/// A device's own rules.
#[derive(Clone, Debug, Default)]
pub struct DeviceRules {
    /// Whom it may write to; none: everybody.
    pub recipients: Option<AllowedRecipients>,
    /// Longest message, in octets; none: the upstream's limit alone.
    pub size: Option<u64>,
}

pub(super) const AUTH: &str =
    "503 5.5.1 no login is needed from this address, and none is possible now";
pub(super) const TLS: &str = "503 5.5.1 TLS can't begin any more";
pub(super) const UNKNOWN: &str = "502 5.5.1 command not known";
pub(super) const BAD_LINE: &str =
    "500 5.5.2 a command ends with CRLF and has no control characters";
pub(super) const TOO_LONG: &str = "500 5.5.2 line too long";
pub(super) const BAD_CHUNK: &str = "501 5.5.4 write BDAT, a size, and LAST with the last chunk";
pub(super) const TOO_LARGE: &str = "552 5.3.4 the message is larger than this device may send";
pub(super) const TOO_FAST: &str =
    "450 4.7.1 this device has sent its messages of this minute; try again in one";
pub(super) const BARE_LINE_END: &str = "550 5.6.11 a line ends with LF or CR alone; to take such mail, set \
                                        delivery = \"spool\" and bare_lf = \"accept\" on this listener";
pub(super) const OUT_OF_STEP: &str = "421 4.3.0 the mail server answers out of turn; try again";
const NO_ADDRESS: &str = "501 5.1.3 write RCPT TO:<name@domain>";
const NOT_ALLOWED: &str = "550 5.7.1 this device may not write to this recipient";

impl DeviceRules {
    /// Whether MAIL announces more than there may be (RFC 1870 section 6.1).
    pub(super) fn judge_mail(&self, arguments: &[u8]) -> Result<(), &'static str> {
        let words = arguments.split(|octet| *octet == b' ');
        let announced = words.filter_map(size_of).max();
        if self.is_larger(announced.unwrap_or(0)) { Err(TOO_LARGE) } else { Ok(()) }
    }

    /// Whether RCPT names somebody whom it may write to.
    pub(super) fn judge_rcpt(&self, arguments: &[u8]) -> Result<(), &'static str> {
        let Some(allowed) = &self.recipients else { return Ok(()) };
        let address = address(arguments).ok_or(NO_ADDRESS)?;
        if allowed.allows(address) { Ok(()) } else { Err(NOT_ALLOWED) }
    }

    pub(super) fn is_larger(&self, octets: u64) -> bool {
        self.size.is_some_and(|size| octets > size)
    }
}

fn size_of(word: &[u8]) -> Option<u64> {
    let (name, value) = word.split_at_checked(5)?;
    let value = std::str::from_utf8(value).ok().filter(|_| name.eq_ignore_ascii_case(b"SIZE="))?;
    value.trim_ascii().parse().ok()
}

/// Of `TO:<name@domain> NOTIFY=NEVER`, in the one form that all servers read alike: no quotes, no comments, no
/// route (RFC 5321 section 4.1.2).
fn address(arguments: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(arguments).ok()?;
    let (to, path) = text.split_at_checked(3)?;
    let path = Some(path).filter(|_| to.eq_ignore_ascii_case("TO:"))?;
    let (address, behind) = path.trim_start().strip_prefix('<')?.split_once('>')?;
    let odd = |octet: u8| !octet.is_ascii_graphic() || b"\"\\()[]<>:;,%!".contains(&octet);
    let (name, domain) = address.split_once('@')?;
    let whole = !name.is_empty() && !domain.is_empty() && !domain.contains('@');
    let clean = !address.bytes().any(odd) && (behind.is_empty() || behind.starts_with(' '));
    // A `>` behind it could be where another server ends the address.
    (whole && clean && !behind.contains(['<', '>'])).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients() {
        let allowed =
            AllowedRecipients::new(vec!["contoso.com".into(), "jane@fabrikam.com".into()]);
        let rules = DeviceRules { recipients: Some(allowed), size: None };
        for good in
            ["TO:<a@contoso.com>", "to: <A@Contoso.COM> NOTIFY=NEVER", "TO:<jane@fabrikam.com>"]
        {
            assert_eq!(rules.judge_rcpt(good.as_bytes()), Ok(()), "{good}");
        }
        for (bad, answer) in [
            ("TO:<joe@fabrikam.com>", NOT_ALLOWED),
            ("TO:<a@sub.contoso.com>", NOT_ALLOWED),
            ("TO:<a@evil.com@contoso.com>", NO_ADDRESS),
            ("TO:<a%evil.com@contoso.com>", NO_ADDRESS),
            ("TO:<@evil.com:a@contoso.com>", NO_ADDRESS),
            ("TO:<\"a@evil.com>\"@contoso.com>", NO_ADDRESS),
            ("TO:<a@contoso.com>x@evil.com", NO_ADDRESS),
            ("TO:<a@contoso.com> <a@evil.com>", NO_ADDRESS),
            ("TO:a@contoso.com", NO_ADDRESS),
            ("TO:<Postmaster>", NO_ADDRESS),
            ("<a@contoso.com>", NO_ADDRESS),
            ("", NO_ADDRESS),
        ] {
            assert_eq!(rules.judge_rcpt(bad.as_bytes()), Err(answer), "{bad}");
        }
        assert_eq!(DeviceRules::default().judge_rcpt(b"whatever"), Ok(()));
    }

    #[test]
    fn sizes() {
        let rules = DeviceRules { size: Some(100), recipients: None };
        assert_eq!(rules.judge_mail(b"FROM:<a@b> SIZE=100 BODY=8BITMIME"), Ok(()));
        assert_eq!(rules.judge_mail(b"FROM:<a@b> BODY=8BITMIME size=101"), Err(TOO_LARGE));
        assert_eq!(rules.judge_mail(b"FROM:<a@b>"), Ok(()));
    }
}
