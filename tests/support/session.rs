//! Plays a dialogue of `tests/dialogues/` against a Frontend or an Upstream.
//!
//! Invariant: everything that gatepost does is an event, and every event must be expected.

use std::collections::VecDeque;
use std::time::Duration;

use gatepost::protocol::{
    Closing, Frontend, FrontendStep, Goal, LocalTls, Rejection, Upstream, UpstreamStep, Welcome,
    Xoauth2,
};
use gatepost::secret::Secret;
use gatepost::vocabulary::TlsMode;

use crate::transcript::{Dialogue, Item, Role, Settings};

/// Plays it; an error begins with the file and the line of the first difference.
pub(crate) fn play(dialogue: &Dialogue, split: Split) -> Result<(), String> {
    let mut session = Session::new(&dialogue.settings, split);
    dialogue.play(|item| match item {
        Some(item) => session.play(item),
        None => session.nothing_left(),
    })
}

/// How the peer's octets come in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Split {
    Whole,
    Octets,
    Random(u64),
}

impl Split {
    pub(crate) fn chunks(self, octets: &[u8]) -> VecDeque<Vec<u8>> {
        let mut state = match self {
            Self::Whole => return VecDeque::from([octets.to_vec()]),
            Self::Octets => return octets.iter().map(|&octet| vec![octet]).collect(),
            Self::Random(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        let mut chunks = VecDeque::new();
        let mut rest = octets;
        while !rest.is_empty() {
            // Knuth's MMIX generator: the same splits on each run.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let size = usize::try_from(state >> 33).unwrap() % 24 + 1;
            let (chunk, behind) = rest.split_at(size.min(rest.len()));
            chunks.push_back(chunk.to_vec());
            rest = behind;
        }
        chunks
    }
}

/// What gatepost does.
#[derive(Debug)]
enum Event {
    Line(Vec<u8>),
    Tls,
    Login { user: Vec<u8>, password: Vec<u8> },
    Device,
    Unread(Vec<u8>),
    Close(Closing),
    Ready(Vec<String>),
    Failed(Rejection),
}

/// The side of gatepost that is talking; `None` once it is over.
enum Machine {
    Frontend(Option<Frontend>),
    Upstream(Option<Upstream>),
}

/// A dialogue that is being played.
struct Session {
    machine: Machine,
    split: Split,
    greeting: Vec<u8>,
    /// Chunks that the peer has sent and gatepost has not read.
    unfed: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    /// The upstream's, which is given to it when its turn has come, if it was not from the beginning.
    login: Option<(Xoauth2, bool)>,
    /// A login waits for its answer.
    deciding: bool,
}

impl Session {
    fn new(settings: &Settings, split: Split) -> Self {
        let protocol = settings.protocol.unwrap();
        let (machine, greeting) = match settings.role {
            Role::Frontend => {
                let tls = LocalTls::from(settings.tls);
                let mut frontend = Frontend::new(protocol, tls, settings.keywords.clone().into());
                if settings.device {
                    frontend = frontend.open_to_device();
                }
                let greeting = frontend.greeting();
                (Machine::Frontend(Some(frontend)), greeting)
            }
            Role::Upstream | Role::Receiver => {
                let goal = goal(settings, split);
                assert_ne!(settings.tls, TlsMode::None, "an upstream always has TLS");
                let upstream =
                    Upstream::new(protocol, settings.tls, goal, "gatepost.local", settings.ask);
                (Machine::Upstream(Some(upstream)), Vec::new())
            }
        };
        let token = Secret::new(settings.token.clone());
        let login = Xoauth2::new(&settings.user, &token).map(|login| (login, settings.ask));
        Self {
            machine,
            split,
            greeting,
            unfed: VecDeque::new(),
            events: VecDeque::new(),
            login,
            deciding: false,
        }
    }

    fn play(&mut self, item: &Item) -> Result<(), String> {
        match item {
            Item::Send(octets) => {
                self.nothing_left()?;
                self.unfed = self.split.chunks(octets);
                return self.pump();
            }
            Item::Accept(capabilities) => return self.accept(capabilities),
            Item::Greeting => {
                let greeting = std::mem::take(&mut self.greeting);
                return self.say(&greeting);
            }
            Item::Refuse(refusal) => {
                let Machine::Frontend(Some(frontend)) = &mut self.machine else {
                    return Err("no session to refuse a login".into());
                };
                self.deciding = false;
                let answer = frontend.refuse(refusal);
                self.say(&answer)?;
                return self.pump();
            }
            _ => {}
        }
        let event = self.events.pop_front();
        match (item, &event) {
            (Item::Line(expected), Some(Event::Line(line))) if line == expected => Ok(()),
            (Item::Contains(part), Some(Event::Line(line))) if contains(line, part) => Ok(()),
            (Item::Tls, Some(Event::Tls)) => {
                match &mut self.machine {
                    Machine::Frontend(Some(frontend)) => frontend.tls_started(),
                    Machine::Upstream(Some(upstream)) => upstream.tls_started(),
                    _ => return Err("TLS on a session that is over".into()),
                }
                self.pump()
            }
            (
                Item::Login { user, password },
                Some(Event::Login { user: got_user, password: got }),
            ) if user == got_user && password == got => Ok(()),
            (Item::Device, Some(Event::Device)) => Ok(()),
            (Item::Unread(expected), Some(Event::Unread(unread))) if unread == expected => Ok(()),
            (Item::Close(reason), Some(Event::Close(closing)))
                if format!("{closing:?}") == *reason =>
            {
                Ok(())
            }
            (Item::Ready(expected), Some(Event::Ready(got))) if got == expected => Ok(()),
            (Item::Failed { kind, wait, text, exact }, Some(Event::Failed(rejection)))
                if describe(rejection) == (kind.as_str(), *wait, said(rejection))
                    && said(rejection).contains(text)
                    && (!exact || said(rejection) == text) =>
            {
                Ok(())
            }
            _ => Err(format!("expected the {}, came {}", shown(item), shown_event(event.as_ref()))),
        }
    }

    fn nothing_left(&self) -> Result<(), String> {
        match self.events.front() {
            Some(event) => {
                Err(format!("nothing more is expected, came {}", shown_event(Some(event))))
            }
            None if self.deciding => Err("waits for accept or refuse".into()),
            None => Ok(()),
        }
    }

    fn accept(&mut self, capabilities: &[String]) -> Result<(), String> {
        let Machine::Frontend(frontend) = &mut self.machine else {
            return Err("accept is for a frontend".into());
        };
        let frontend = frontend.take().filter(|_| self.deciding).ok_or("no login to accept")?;
        self.deciding = false;
        let (answer, mut unread) = frontend.accept(&Welcome { capabilities: capabilities.into() });
        unread.extend(self.unfed.drain(..).flatten());
        self.say(&answer)?;
        if !unread.is_empty() {
            self.events.push_back(Event::Unread(unread));
        }
        Ok(())
    }

    /// Lets gatepost run until it wants more than there is, or an answer.
    fn pump(&mut self) -> Result<(), String> {
        while !self.deciding && !matches!(self.events.back(), Some(Event::Tls)) {
            let goes_on = match &mut self.machine {
                Machine::Frontend(Some(frontend)) => {
                    let step = frontend.step();
                    self.frontend(step)?
                }
                Machine::Upstream(Some(upstream)) => {
                    let step = upstream.step();
                    self.upstream(step)?
                }
                _ => false,
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    fn frontend(&mut self, step: FrontendStep) -> Result<bool, String> {
        let Machine::Frontend(slot) = &mut self.machine else { return Ok(false) };
        let Some(frontend) = slot.as_mut() else { return Ok(false) };
        match step {
            FrontendStep::Read => match self.unfed.pop_front() {
                Some(chunk) => frontend.push(&chunk),
                None => return Ok(false),
            },
            FrontendStep::Write(octets) => self.say(&octets)?,
            FrontendStep::Login(login) => {
                self.deciding = true;
                assert!(!login.user.chars().any(char::is_control), "{:?}", login.user);
                let password = login.password.expose().clone();
                self.events.push_back(Event::Login { user: login.user.into_bytes(), password });
            }
            FrontendStep::Device => {
                self.events.push_back(Event::Device);
                let mut unread = slot.take().map(Frontend::into_unread).unwrap_or_default();
                unread.extend(self.unfed.drain(..).flatten());
                self.events.push_back(Event::Unread(unread));
            }
            FrontendStep::StartTls(reply) if self.unfed.is_empty() => {
                self.say(&reply)?;
                self.events.push_back(Event::Tls);
            }
            FrontendStep::StartTls(_) => return self.close(Closing::PlaintextBehindStartTls),
            FrontendStep::Close(closing) => return self.close(closing),
        }
        Ok(true)
    }

    fn close(&mut self, closing: Closing) -> Result<bool, String> {
        if let Machine::Frontend(slot) = &mut self.machine
            && let Some(mut frontend) = slot.take()
        {
            let goodbye = frontend.goodbye(closing);
            self.say(&goodbye)?;
        }
        self.events.push_back(Event::Close(closing));
        Ok(false)
    }

    fn upstream(&mut self, step: UpstreamStep) -> Result<bool, String> {
        let Machine::Upstream(slot) = &mut self.machine else { return Ok(false) };
        match step {
            UpstreamStep::Read => match (self.unfed.pop_front(), slot) {
                (Some(chunk), Some(upstream)) => upstream.push(&chunk),
                _ => return Ok(false),
            },
            UpstreamStep::Write(octets) => self.say(octets.expose())?,
            UpstreamStep::Rest => {
                let (login, ask) = self.login.take().expect("it rests once");
                slot.as_mut().unwrap().log_in(login, ask);
            }
            UpstreamStep::StartTls if self.unfed.is_empty() => self.events.push_back(Event::Tls),
            UpstreamStep::StartTls => {
                *slot = None;
                let said = "plain text behind its answer to STARTTLS".into();
                self.events.push_back(Event::Failed(Rejection::Broken { said }));
            }
            UpstreamStep::Ready(welcome) => {
                self.events.push_back(Event::Ready(welcome.capabilities.to_vec()));
                let mut unread = slot.take().map(Upstream::into_unread).unwrap_or_default();
                unread.extend(self.unfed.drain(..).flatten());
                if !unread.is_empty() {
                    self.events.push_back(Event::Unread(unread));
                }
            }
            UpstreamStep::Failed(rejection) => {
                *slot = None;
                self.events.push_back(Event::Failed(rejection));
            }
        }
        Ok(true)
    }

    /// Whatever gatepost says is whole lines of printable ASCII.
    fn say(&mut self, octets: &[u8]) -> Result<(), String> {
        let mut rest = octets;
        while !rest.is_empty() {
            let end = rest.windows(2).position(|pair| pair == b"\r\n");
            let (line, behind) = rest.split_at(end.ok_or("a line without its end")?);
            if let Some(octet) = line.iter().find(|octet| !(32..127).contains(*octet)) {
                return Err(format!("octet {octet:#04x} in what gatepost says"));
            }
            self.events.push_back(Event::Line(line.to_vec()));
            rest = behind.split_at(2).1;
        }
        Ok(())
    }
}

/// Some ways to split the octets also have the login come late: both must make no difference.
fn goal(settings: &Settings, split: Split) -> Goal {
    let token = Secret::new(settings.token.clone());
    match (settings.learn, split) {
        (true, _) => Goal::Learn,
        (false, Split::Whole) => Goal::Login(Xoauth2::new(&settings.user, &token).unwrap()),
        (false, Split::Octets | Split::Random(_)) => Goal::StandBy,
    }
}

fn contains(line: &[u8], part: &[u8]) -> bool {
    String::from_utf8_lossy(line).contains(&*String::from_utf8_lossy(part))
}

fn describe(rejection: &Rejection) -> (&'static str, Option<Duration>, &str) {
    match rejection {
        Rejection::Token { said } => ("token", None, said),
        Rejection::NotPermitted { said } => ("not_permitted", None, said),
        Rejection::Busy { said, wait } => ("busy", *wait, said),
        Rejection::Broken { said } => ("broken", None, said),
    }
}

fn said(rejection: &Rejection) -> &str {
    describe(rejection).2
}

/// Long runs are cut short.
fn short(text: &str) -> String {
    text.chars().take(300).collect()
}

fn shown(item: &Item) -> String {
    short(&match item {
        Item::Line(line) => format!("line {:?}", String::from_utf8_lossy(line)),
        Item::Contains(part) => format!("line with {:?}", String::from_utf8_lossy(part)),
        Item::Login { user, password } => shown_login(user, password),
        other => format!("{other:?}"),
    })
}

fn shown_event(event: Option<&Event>) -> String {
    short(&match event {
        None => "nothing".into(),
        Some(Event::Line(line)) => format!("the line {:?}", String::from_utf8_lossy(line)),
        Some(Event::Login { user, password }) => format!("the {}", shown_login(user, password)),
        Some(Event::Unread(octets)) => format!("unread {:?}", String::from_utf8_lossy(octets)),
        Some(other) => format!("{other:?}"),
    })
}

fn shown_login(user: &[u8], password: &[u8]) -> String {
    let (user, password) = (String::from_utf8_lossy(user), String::from_utf8_lossy(password));
    format!("login {user:?} {password:?}")
}
