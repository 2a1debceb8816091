//! Reads the wire transcripts of `tests/dialogues/`; `tests/parsers/dialogues.rs` describes their format.
//!
//! Invariant: what can't be understood is an error with its file and line, and so is a dialogue without
//! an expectation: a test that can't fail is no test.

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use gatepost::protocol::{Refusal, Reply};
use gatepost::vocabulary::{BareLf, Protocol, TlsMode};

/// One dialogue, from the accepted connection to its end.
#[derive(Clone, Debug)]
pub(crate) struct Dialogue {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) settings: Settings,
    pub(crate) items: Vec<(usize, Item)>,
}

impl Dialogue {
    /// Has each item played, then its end (`None`); an error begins with the file and the line.
    pub(crate) fn play(
        &self,
        mut play: impl FnMut(Option<&Item>) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut last = self.line;
        for (line, item) in &self.items {
            last = *line;
            play(Some(item)).map_err(|error| format!("{}:{line}: {error}", self.file))?;
        }
        play(None).map_err(|error| format!("{}:{}: {error}", self.file, last + 1))
    }
}

/// The header of a file, or of one dialogue.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) protocol: Option<Protocol>,
    pub(crate) role: Role,
    pub(crate) tls: TlsMode,
    pub(crate) keywords: Vec<String>,
    pub(crate) device: bool,
    pub(crate) learn: bool,
    pub(crate) ask: bool,
    pub(crate) user: String,
    pub(crate) token: String,
    pub(crate) max_size: u64,
    pub(crate) bare_lf: BareLf,
    pub(crate) recipients: Option<Vec<String>>,
}

/// Which side of gatepost is talking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Frontend,
    Upstream,
    Receiver,
}

/// A line of a dialogue.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// The peer says this.
    Send(Vec<u8>),
    /// What gatepost says first is looked at too.
    Greeting,
    /// gatepost says exactly this line.
    Line(Vec<u8>),
    /// gatepost says a line with this in it.
    Contains(Vec<u8>),
    Tls,
    Login {
        user: Vec<u8>,
        password: Vec<u8>,
    },
    Accept(Vec<String>),
    Refuse(Refusal),
    Device,
    Unread(Vec<u8>),
    Close(String),
    /// Receiver: what it does besides talking, in words.
    Told(Vec<u8>),
    GoOn,
    RefuseContent(Reply),
    Finish(Reply),
    Ready(Vec<String>),
    Failed {
        kind: String,
        wait: Option<Duration>,
        text: String,
        /// The text is all that is said, not a part.
        exact: bool,
    },
}

impl Dialogue {
    /// Whether the client is let in at the end.
    pub(crate) fn logs_in(&self) -> bool {
        self.items.iter().any(|(_, item)| matches!(item, Item::Accept(_)))
    }

    fn check(self) -> Result<Self, String> {
        let expects = |item: &Item| {
            use Item::{Finish, GoOn, Refuse, RefuseContent, Send};
            !matches!(item, Send(_) | Refuse(_) | GoOn | RefuseContent(_) | Finish(_))
        };
        if self.settings.protocol.is_none() {
            return Err(format!("{}:{}: no protocol", self.file, self.line));
        }
        if !self.items.iter().any(|(_, item)| expects(item)) {
            return Err(format!("{}:{}: expects nothing", self.file, self.line));
        }
        Ok(self)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            protocol: None,
            role: Role::Frontend,
            tls: TlsMode::None,
            keywords: Vec::new(),
            device: false,
            learn: false,
            ask: false,
            user: "jane@contoso.com".into(),
            token: "tok".into(),
            max_size: 1000,
            bare_lf: BareLf::Refuse,
            recipients: None,
        }
    }
}

/// All dialogues of all files.
pub(crate) fn load(folder: &Path) -> Result<Vec<Dialogue>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let mut dialogues = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
        dialogues.extend(parse(&name, &text)?);
    }
    Ok(dialogues)
}

/// The dialogues of one file.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Dialogue>, String> {
    let mut common = Settings::default();
    let mut dialogues: Vec<Dialogue> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let at = |error: String| format!("{file}:{number}: {error}");
        match dialogues.last_mut() {
            _ if line.trim().is_empty() || line.starts_with('#') => {}
            _ if line.starts_with("=== ") => dialogues.push(Dialogue {
                file: file.into(),
                line: number,
                settings: common.clone(),
                items: Vec::new(),
            }),
            None => setting(&mut common, line).map_err(at)?,
            Some(dialogue) if !["C", "S", "-"].iter().any(|mark| line.starts_with(mark)) => {
                setting(&mut dialogue.settings, line).map_err(at)?;
            }
            Some(dialogue) => {
                let item = item(dialogue.settings.role, line).map_err(at)?;
                push(&mut dialogue.items, number, item);
            }
        }
    }
    dialogues.into_iter().map(Dialogue::check).collect()
}

/// What a peer says without being answered in between is one segment.
fn push(items: &mut Vec<(usize, Item)>, number: usize, item: Item) {
    match (items.last_mut(), item) {
        (Some((_, Item::Send(said))), Item::Send(more)) => said.extend(more),
        (_, item) => items.push((number, item)),
    }
}

fn setting(settings: &mut Settings, line: &str) -> Result<(), String> {
    let (name, value) = line.split_once(':').ok_or("neither a header nor a line of a dialogue")?;
    let value = value.trim();
    match name {
        "protocol" => settings.protocol = Some(value.parse()?),
        "role" => {
            settings.role = match value {
                "frontend" => Role::Frontend,
                "upstream" => Role::Upstream,
                "receiver" => Role::Receiver,
                _ => return Err(format!("role {value:?}")),
            }
        }
        "tls" => {
            settings.tls = match value {
                "none" => TlsMode::None,
                "starttls" => TlsMode::StartTls,
                "implicit" => TlsMode::Implicit,
                _ => return Err(format!("tls {value:?}")),
            }
        }
        "keywords" => settings.keywords = list(value),
        "device" => settings.device = value == "open",
        "goal" => settings.learn = value == "learn",
        "capabilities" => settings.ask = value == "ask",
        "user" => settings.user = value.into(),
        "max_size" => settings.max_size = value.parse().map_err(|_| format!("size {value:?}"))?,
        "bare_lf" => {
            settings.bare_lf = match value {
                "refuse" => BareLf::Refuse,
                "accept" => BareLf::Accept,
                _ => return Err(format!("bare_lf {value:?}")),
            }
        }
        "recipients" => settings.recipients = Some(list(value)),
        "token" => settings.token = text(value)?,
        _ => return Err(format!("header {name:?}")),
    }
    Ok(())
}

fn item(role: Role, line: &str) -> Result<Item, String> {
    if let Some(directive) = line.strip_prefix("-- ") {
        return match role {
            Role::Receiver => receiving(directive),
            Role::Frontend | Role::Upstream => self::directive(directive),
        };
    }
    let peer = if role == Role::Upstream { "S" } else { "C" };
    let (mark, rest) = line.split_at_checked(2).ok_or("a line of one character")?;
    let octets = octets(rest.strip_prefix(' ').unwrap_or(rest))?;
    match (mark.starts_with(peer), mark.get(1..)) {
        (true, Some(":")) => Ok(Item::Send([octets.as_slice(), b"\r\n"].concat())),
        (true, Some("-")) => Ok(Item::Send(octets)),
        (false, Some(":")) => Ok(Item::Line(octets)),
        (false, Some("~")) => Ok(Item::Contains(octets)),
        _ => Err(format!("mark {mark:?}")),
    }
}

fn directive(text: &str) -> Result<Item, String> {
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    Ok(match name {
        "greeting" => Item::Greeting,
        "tls" => Item::Tls,
        "login" => {
            let (user, password) = rest.split_once(' ').unwrap_or((rest, ""));
            Item::Login { user: octets(user)?, password: octets(password)? }
        }
        "accept" => Item::Accept(rest.split_ascii_whitespace().map(str::to_owned).collect()),
        "refuse" => Item::Refuse(refusal(rest)?),
        "device" => Item::Device,
        "unread" => Item::Unread(octets(rest)?),
        "close" => Item::Close(rest.into()),
        "ready" => Item::Ready(list(rest)),
        "failed" => failed(rest)?,
        _ => return Err(format!("directive {name:?}")),
    })
}

fn receiving(text: &str) -> Result<Item, String> {
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    Ok(match name {
        "go_on" => Item::GoOn,
        "refuse" => Item::RefuseContent(reply(rest)?),
        "finish" => Item::Finish(reply(rest)?),
        "content" | "mend" | "chunk" | "end" | "abort" | "close" => Item::Told(octets(text)?),
        _ => return Err(format!("directive {name:?}")),
    })
}

fn reply(rest: &str) -> Result<Reply, String> {
    let (code, text) = rest.split_once(' ').ok_or("a reply wants a code and words")?;
    Ok(Reply::new(code.parse().map_err(|_| format!("code {code:?}"))?, text))
}

fn failed(rest: &str) -> Result<Item, String> {
    let (kind, mut text) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut wait = None;
    if let Some(waiting) = text.strip_prefix("wait=") {
        let (millis, behind) = waiting.split_once(' ').unwrap_or((waiting, ""));
        let millis = millis.parse().map_err(|_| format!("wait {millis:?}"))?;
        wait = Some(Duration::from_millis(millis));
        text = behind;
    }
    let exact = text.strip_prefix("is ");
    Ok(Item::Failed {
        kind: kind.into(),
        wait,
        text: exact.unwrap_or(text).into(),
        exact: exact.is_some(),
    })
}

fn refusal(rest: &str) -> Result<Refusal, String> {
    let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let text = self::text(text)?;
    Ok(match name {
        "bad_credentials" => Refusal::BadCredentials,
        "not_allowed_from_here" => Refusal::NotAllowedFromHere,
        "sign_in_needed" => Refusal::SignInNeeded { mailbox: text },
        "app_refused" => Refusal::AppRefused { remedy: text },
        "throttled" => Refusal::Throttled { wait: Duration::from_secs(60) },
        "upstream_busy" => Refusal::UpstreamBusy { said: text },
        "no_turn" => Refusal::NoTurn { reason: text },
        "upstream_down" => Refusal::UpstreamDown { reason: text },
        "not_permitted" => Refusal::NotPermitted { said: text },
        "shutting_down" => Refusal::ShuttingDown,
        _ => return Err(format!("refusal {name:?}")),
    })
}

fn list(text: &str) -> Vec<String> {
    text.split('|').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn text(escaped: &str) -> Result<String, String> {
    String::from_utf8(octets(escaped)?).map_err(|error| error.to_string())
}

/// Resolves the escapes: `\r \n \t \0 \\ \xff`, `<65536*A>`, `<b64:…>`, `<b64-:…>`.
fn octets(escaped: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut rest = escaped;
    while let Some(next) = rest.chars().next() {
        let behind = rest.split_at(next.len_utf8()).1;
        rest = match next {
            '\\' => backslash(behind, &mut octets)?,
            '<' => match bracket(behind)? {
                Some((inside, behind)) => {
                    octets.extend(inside);
                    behind
                }
                None => {
                    octets.push(b'<');
                    behind
                }
            },
            _ => {
                octets.extend(next.to_string().as_bytes());
                behind
            }
        };
    }
    Ok(octets)
}

fn backslash<'a>(behind: &'a str, octets: &mut Vec<u8>) -> Result<&'a str, String> {
    let (escape, rest) = behind.split_at_checked(1).ok_or("a backslash at the end")?;
    octets.push(match escape {
        "r" => b'\r',
        "n" => b'\n',
        "t" => b'\t',
        "0" => 0,
        "\\" => b'\\',
        "x" => {
            let (digits, rest) = rest.split_at_checked(2).ok_or("\\x wants two digits")?;
            octets.push(u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?);
            return Ok(rest);
        }
        _ => return Err(format!("escape \\{escape}")),
    });
    Ok(rest)
}

/// `65536*A>`, `b64:…>` or `b64-:…>`, from behind the bracket; `None`: just a bracket.
fn bracket(text: &str) -> Result<Option<(Vec<u8>, &str)>, String> {
    let Some(end) = matching(text) else { return Ok(None) };
    let (inside, behind) = text.split_at(end);
    let behind = behind.strip_prefix('>').unwrap_or(behind);
    if let Some(message) = inside.strip_prefix("b64:") {
        return Ok(Some((BASE64_STANDARD.encode(octets(message)?).into_bytes(), behind)));
    }
    if let Some(message) = inside.strip_prefix("b64-:") {
        return Ok(Some((BASE64_STANDARD_NO_PAD.encode(octets(message)?).into_bytes(), behind)));
    }
    let Some((count, what)) = inside.split_once('*') else { return Ok(None) };
    let Ok(count) = count.parse() else { return Ok(None) };
    Ok(Some((octets(what)?.repeat(count), behind)))
}

/// Where the bracket closes, with brackets inside it left out.
fn matching(text: &str) -> Option<usize> {
    let mut open = 1;
    for (at, next) in text.char_indices() {
        match next {
            '<' => open += 1,
            '>' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}
