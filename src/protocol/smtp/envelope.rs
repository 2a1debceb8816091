//! What MAIL and RCPT say: RFC 5321 sections 4.1.1.2 and 4.1.2, and what old devices make of it.
//!
//! Invariant: an address that comes out has no control character, no space outside quotes and no angle
//! bracket, so that it can stand in `MAIL FROM:<…>` as it is; and what differs from the letter of the RFC is
//! told as a mend.

use serde::{Deserialize, Serialize};

use super::parameters;
use super::reply::Reply;

/// Longest address: a path has at most 256 octets with its brackets (RFC 5321 section 4.5.3.1.3).
const MAX_ADDRESS: usize = 254;

/// What a message is sent with (RFC 5321 section 3.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Empty: the null sender. Of a device it may be a name without a domain.
    pub sender: String,
    /// Of MAIL, as they were written, without SIZE and AUTH.
    pub parameters: Vec<String>,
    /// At least one in a message.
    pub recipients: Vec<Recipient>,
}

/// Whom a message is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// With its domain.
    pub address: String,
    /// NOTIFY and ORCPT (RFC 3461), as they were written.
    pub parameters: Vec<String>,
}

/// The recipients that a device may send to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedRecipients(Vec<String>);

impl AllowedRecipients {
    /// Addresses, or domains as `contoso.com`, `@contoso.com` or `*@contoso.com`. The case of ASCII letters does not
    /// matter. None at all: nobody is allowed.
    pub fn new(entries: Vec<String>) -> Self {
        let plain = |entry: &String| {
            let entry = entry.trim().trim_end_matches('.').to_ascii_lowercase();
            let domain = entry.strip_prefix("*@").or_else(|| entry.strip_prefix('@'));
            domain.map_or_else(|| entry.clone(), str::to_owned)
        };
        Self(entries.iter().map(plain).filter(|entry| !entry.is_empty()).collect())
    }

    /// Whether the address or its domain is in the list; a domain does not stand for its subdomains, nor for a local
    /// part in which old servers see another domain (`jane%evil.example@contoso.com`). Of other letters than ASCII's
    /// the case counts: in Unicode a Kelvin sign is a capital k.
    pub fn allows(&self, address: &str) -> bool {
        let address = address.to_ascii_lowercase();
        let Some((local, domain)) = address.rsplit_once('@') else { return false };
        let routes = local.contains(['%', '!', '@', ':', '"']);
        self.0.iter().any(|entry| *entry == address || !routes && entry == domain)
    }
}

/// What MAIL said.
pub(super) struct Mail {
    pub(super) sender: String,
    pub(super) parameters: Vec<String>,
    pub(super) mends: Vec<String>,
}

/// What RCPT said.
pub(super) struct Rcpt {
    pub(super) recipient: Recipient,
    pub(super) mends: Vec<String>,
}

/// Reads what stands behind MAIL.
pub(super) fn mail(arguments: &[u8], max_size: u64) -> Result<Mail, Reply> {
    let mut command = Command::new("MAIL FROM", "5.1.7");
    let text = command.text(arguments)?;
    let path = command.path(&text);
    let sender = match path.address {
        "" => String::new(),
        address => command.mailbox(address)?,
    };
    let mut parameters = parameters::of_mail(path.parameters, max_size)?;
    if !sender.is_empty() && !sender.contains('@') {
        command.mended("without a domain");
    }
    if !sender.is_ascii() && !parameters::has_smtputf8(&parameters) {
        parameters.push("SMTPUTF8".into());
        command.mended("without SMTPUTF8");
    }
    Ok(Mail { sender, parameters, mends: command.mends })
}

/// Reads what stands behind RCPT.
pub(super) fn rcpt(arguments: &[u8]) -> Result<Rcpt, Reply> {
    let mut command = Command::new("RCPT TO", "5.1.3");
    let text = command.text(arguments)?;
    let path = command.path(&text);
    let address = command.mailbox(path.address)?;
    if !address.contains('@') {
        return Err(Reply::new(
            501,
            format!("5.1.3 the recipient {address} has no domain: write name@domain"),
        ));
    }
    let parameters = parameters::of_rcpt(path.parameters)?;
    Ok(Rcpt { recipient: Recipient { address, parameters }, mends: command.mends })
}

/// A path and what stands behind it.
struct Path<'a> {
    address: &'a str,
    parameters: &'a str,
}

/// A command that is being read.
struct Command {
    /// `MAIL FROM`
    name: &'static str,
    /// The enhanced code for an address that is none (RFC 3463 section 3.2).
    bad_address: &'static str,
    mends: Vec<String>,
}

impl Command {
    fn new(name: &'static str, bad_address: &'static str) -> Self {
        Self { name, bad_address, mends: Vec::new() }
    }

    fn mended(&mut self, how: &str) {
        self.mends.push(format!("{} {how}", self.name));
    }

    fn no_address(&self) -> Reply {
        let Self { name, bad_address, .. } = self;
        Reply::new(501, format!("{bad_address} that is no address: write {name}:<name@domain>"))
    }

    /// What stands behind `FROM:` or `TO:`. Octets that are not UTF-8 may stand in a display name, which is
    /// thrown away.
    fn text(&mut self, arguments: &[u8]) -> Result<String, Reply> {
        let text = String::from_utf8_lossy(arguments).replace('\t', " ");
        if text.chars().any(char::is_control) {
            return Err(Reply::new(501, "5.5.2 a control character in the command"));
        }
        let keyword = self.name.split(' ').next_back().unwrap_or_default();
        let syntax = || Reply::new(501, format!("5.5.4 write {}:<name@domain>", self.name));
        let (word, rest) = text.trim().split_at_checked(keyword.len()).ok_or_else(syntax)?;
        if !word.eq_ignore_ascii_case(keyword) {
            return Err(syntax());
        }
        match rest.trim_start().strip_prefix(':') {
            Some(path) => {
                if rest.starts_with(' ') {
                    self.mended("with a space in front of the colon");
                }
                Ok(path.to_owned())
            }
            None if rest.trim_start().is_empty() || !rest.starts_with([' ', '<']) => Err(syntax()),
            None => {
                self.mended("without a colon");
                Ok(rest.to_owned())
            }
        }
    }

    /// Tells the address, which may still have faults, from the parameters behind it.
    fn path<'a>(&mut self, text: &'a str) -> Path<'a> {
        if text.starts_with(' ') && !text.trim().is_empty() {
            self.mended("with a space behind the colon");
        }
        let text = text.trim();
        let Some((before, behind)) = split_at_bracket(text, '<') else {
            self.mended(if text.is_empty() {
                "without an address"
            } else {
                "without angle brackets"
            });
            return bare_path(text);
        };
        let before = before.trim();
        let Some((inside, parameters)) = split_at_bracket(behind, '>') else {
            self.mended("without the closing bracket");
            return bare_path(behind.trim());
        };
        let parameters = self.behind(parameters.trim_start_matches(['>', ' ']));
        let address = inside.trim_start_matches(['<', ' ']).trim_end();
        if address.len() < inside.len() {
            self.mended("with spaces or brackets inside the brackets");
        }
        if before.is_empty() {
            return Path { address, parameters };
        }
        if before.contains('@') && !address.contains('@') && !address.is_empty() {
            self.mended("with a display name in place of the address");
            return Path { address: before, parameters };
        }
        self.mended("with a display name");
        Path { address, parameters }
    }

    /// The parameters, without a display name in front of them. A parameter that is not known here is none: it has
    /// a value, or is written in capitals (`REQUIRETLS`), and to overlook it would be to break a promise.
    fn behind<'a>(&mut self, text: &'a str) -> &'a str {
        let known = text.split(' ').take_while(|word| !parameters::is_known(word));
        let length: usize = known.map(|word| word.len() + 1).sum();
        let (name, parameters) = text.split_at_checked(length).unwrap_or((text, ""));
        if name.contains(['=', '@', '<', '>']) || !name.contains(char::is_lowercase) {
            return text;
        }
        self.mended("with a display name");
        parameters
    }

    /// An address without the faults that can be mended.
    fn mailbox(&mut self, raw: &str) -> Result<String, Reply> {
        let mut address = raw.trim();
        for quote in ['"', '\''] {
            let inside = address.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
            if let Some(inside) = inside.filter(|inside| !inside.contains(quote)) {
                self.mended("with quotes around the address");
                address = inside.trim();
            }
        }
        // As directories list them for address books.
        let kind = ["mailto:", "smtp:"].iter().find_map(|kind| {
            address
                .split_at_checked(kind.len())
                .filter(|(start, _)| start.eq_ignore_ascii_case(kind))
        });
        if let Some((_, target)) = kind {
            self.mended("with the kind of the address");
            address = target.trim();
        }
        // RFC 5321 section 4.1.1.3: a source route is thrown away.
        if let Some((_, target)) = address.split_once(':').filter(|_| address.starts_with('@')) {
            self.mended("with a source route");
            address = target.trim();
        }
        if !is_quoted(address) && address.contains(' ') {
            let mut addresses = address.split(' ').filter(|word| word.contains('@'));
            let (Some(only), None) = (addresses.next(), addresses.next()) else {
                return Err(self.no_address());
            };
            self.mended("with a display name");
            address = only;
        }
        let trimmed = address.trim_end_matches(['.', ',', ';']);
        if trimmed.len() < address.len() {
            self.mended("with punctuation behind the address");
            address = trimmed;
        }
        if address.contains(char::REPLACEMENT_CHARACTER) {
            return Err(Reply::new(553, "5.6.7 the address is neither ASCII nor UTF-8"));
        }
        if address.len() > MAX_ADDRESS {
            let code = self.bad_address;
            return Err(Reply::new(501, format!("{code} the address is longer than 254 octets")));
        }
        if is_address(address) { Ok(address.to_owned()) } else { Err(self.no_address()) }
    }
}

/// A path without brackets: what is no parameter. The first word with an at sign ends it.
fn bare_path(text: &str) -> Path<'_> {
    let mut end = 0;
    for word in text.split(' ') {
        if parameters::is_known(word) {
            break;
        }
        end += word.len() + 1;
        if word.contains('@') {
            break;
        }
    }
    let (address, parameters) = text.split_at_checked(end).unwrap_or((text, ""));
    Path { address: address.trim_end(), parameters }
}

/// Splits at the first bracket that is not in quotes; if the quotes don't match, at the first one.
fn split_at_bracket(text: &str, bracket: char) -> Option<(&str, &str)> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, next) in text.char_indices() {
        match next {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if next == bracket && !quoted => {
                let (before, behind) = text.split_at(at);
                return Some((before, behind.strip_prefix(bracket).unwrap_or(behind)));
            }
            _ => {}
        }
    }
    if quoted { text.split_once(bracket) } else { None }
}

/// Whether the local part is a quoted string.
fn is_quoted(address: &str) -> bool {
    address.starts_with('"') && address.contains("\"@")
}

/// As lenient as devices need it and as strict as `MAIL FROM:<…>` needs it; with a domain or without.
fn is_address(address: &str) -> bool {
    if is_quoted(address) {
        let Some((local, domain)) = address.rsplit_once("\"@") else { return false };
        let local = local.strip_prefix('"');
        return local.is_some_and(is_quoted_local) && is_domain(domain);
    }
    match address.rsplit_once('@') {
        Some((local, domain)) => is_local(local) && is_domain(domain),
        None => is_local(address),
    }
}

/// Angle brackets are legal in quotes, but a server that overlooks the quotes would see the path's end.
fn is_quoted_local(local: &str) -> bool {
    let mut escaped = false;
    for next in local.chars() {
        match next {
            '<' | '>' => return false,
            _ if next.is_control() => return false,
            _ if escaped => escaped = false,
            '"' => return false,
            _ => escaped = next == '\\',
        }
    }
    !escaped
}

fn is_local(local: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "\"()<>@,:;[]\\".contains(c);
    !local.is_empty() && !local.contains(odd)
}

fn is_domain(domain: &str) -> bool {
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(literal) = literal {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".:-".contains(c);
        return !literal.is_empty() && literal.chars().all(plain);
    }
    // Host names of devices have underscores.
    let plain = |c: char| match c.is_ascii() {
        true => c.is_ascii_alphanumeric() || c == '-' || c == '_',
        false => !c.is_whitespace() && !c.is_control(),
    };
    domain.split('.').all(|label| !label.is_empty() && label.chars().all(plain))
}
