//! The courier that submits by SMTP with XOAUTH2.
//!
//! ```text
//! turn ─▶ token, log in ─▶ message ─▶ message … ─▶ QUIT
//! ```
//!
//! Invariant: a connection is opened in its turn only, and its turn is given back behind its end. Of a message no
//! more is in memory than two pieces.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Content;
use super::courier::{Courier, Message, Outcome};
use crate::config::Account;
use crate::explain::{self, Who};
use crate::net::Stream;
use crate::oauth::Tokens;
use crate::pace::{Pace, Turn};
use crate::protocol::{
    Dots, Encoding, Refusal, Rejection, Submission, SubmissionStep, Submitted, Verdict,
};
use crate::upstream::{NoSession, Server};
use crate::vocabulary::Protocol;

/// For a block of the content to be taken (RFC 5321 section 4.5.3.2.5). A command is less than that.
const BLOCK: Duration = Duration::from_secs(3 * 60);

/// For the last words of a server that takes no more: they have been sent already.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// For the answer to QUIT, which nothing depends on.
const QUIT: Duration = Duration::from_secs(2);

/// Messages on a connection that somebody else waits for. A login takes as long as a few small messages.
const FAIR: u32 = 10;

/// How often it is asked whether somebody waits.
const LOOK: Duration = Duration::from_millis(100);

/// What the couriers of one server share.
pub struct SmtpRoute {
    /// The server.
    pub server: Arc<Server>,
    /// With what they log in.
    pub tokens: Arc<Tokens>,
    /// When they may.
    pub pace: Arc<Pace>,
    /// When this is cancelled, no connection is opened any more.
    pub stop: CancellationToken,
}

/// See the module.
pub struct SmtpCourier {
    route: Arc<SmtpRoute>,
    account: Arc<Account>,
    live: Option<Live>,
}

/// A connection that is logged in.
struct Live {
    stream: Stream,
    unread: Vec<u8>,
    keywords: Arc<[String]>,
    messages: u32,
    // The last one: the turn is given back behind the connection's end.
    turn: Turn,
}

/// How a message ended on a connection.
struct Ended {
    submitted: Submitted,
    reusable: bool,
    /// The connection was over before the server saw anything of the message.
    untouched: bool,
}

/// Why the content does not go out.
enum Stuck {
    /// The spool's.
    Read(io::Error),
    /// The connection's.
    Write(io::Error),
}

impl SmtpCourier {
    /// For this account; nothing is opened before there is a message.
    pub fn new(route: Arc<SmtpRoute>, account: Arc<Account>) -> Self {
        Self { route, account, live: None }
    }

    async fn deliver(&mut self, message: &mut Message) -> Outcome {
        loop {
            let reused = self.live.is_some();
            let mut live = match self.live.take() {
                Some(live) => live,
                None => match self.connect().await {
                    Ok(live) => live,
                    Err(outcome) => return outcome,
                },
            };
            tokio::select! {
                () = live.turn.message() => {}
                () = self.route.stop.cancelled() => return stopping(),
            }
            if message.content.is_dropped() {
                live.turn.message_done();
                self.live = Some(live);
                return dropped();
            }
            let ended = live.submit(message).await;
            live.turn.message_done();
            if ended.untouched && reused {
                debug!("the connection was closed while it was idle: another one");
                message.content.rewind();
                continue;
            }
            let outcome = self.judge(ended.submitted, &live);
            let goes_on = matches!(outcome, Outcome::Answered(_));
            let fair = live.messages < FAIR || !live.turn.wanted();
            match ended.reusable {
                true if goes_on && fair => self.live = Some(live),
                true => live.quit().await,
                false => {}
            }
            return outcome;
        }
    }

    /// In its turn, with the freshest token that there is.
    async fn connect(&self) -> Result<Live, Outcome> {
        let SmtpRoute { server, tokens, pace, stop } = &*self.route;
        let open = async {
            let turn = pace.turn(&self.account).await;
            let session = server.log_in_as(&self.account, tokens).await;
            session.map(|session| Live {
                stream: session.stream,
                unread: session.unread,
                keywords: session.welcome.capabilities,
                messages: 0,
                turn,
            })
        };
        tokio::select! {
            live = open => live.map_err(|why| self.no_session(why)),
            () = stop.cancelled() => Err(stopping()),
        }
    }

    fn no_session(&self, why: NoSession) -> Outcome {
        let mailbox = &self.account.mailbox;
        let held = |reason, wait| Outcome::Held { reason, wait, remedy: None };
        match why {
            NoSession::NoToken(refusal @ Refusal::SignInNeeded { .. }) => Outcome::Held {
                reason: refusal.text(),
                wait: None,
                remedy: Some(format!(
                    "gatepost login {mailbox}; what is wrong tells: gatepost doctor {mailbox}"
                )),
            },
            NoSession::NoToken(Refusal::AppRefused { remedy }) => Outcome::Held {
                reason: "the provider refuses the app".into(),
                wait: None,
                remedy: Some(remedy),
            },
            NoSession::NoToken(Refusal::UpstreamDown { reason }) => held(reason, None),
            NoSession::NoToken(refusal) => held(refusal.text(), None),
            NoSession::Rejected(Rejection::Token { said } | Rejection::NotPermitted { said }) => {
                Outcome::Closed { said }
            }
            NoSession::Rejected(Rejection::Busy { said, wait }) => {
                self.route.pace.hold(&self.account, Protocol::Smtp, wait);
                held(said, wait)
            }
            NoSession::Rejected(Rejection::Broken { said }) => held(said, None),
        }
    }

    fn judge(&self, submitted: Submitted, live: &Live) -> Outcome {
        let pace = &self.route.pace;
        match submitted {
            Submitted::Answered(verdicts) => {
                let taken =
                    verdicts.iter().filter(|it| matches!(it, Verdict::Delivered(_))).count();
                live.turn.recipients(u32::try_from(taken).unwrap_or(u32::MAX));
                Outcome::Answered(verdicts)
            }
            Submitted::Held { said, wait } => {
                // Direct sessions of the mailbox would hear the same; a quota they hear by themselves.
                if is_quota(&said) {
                    pace.recipients_used_up(&self.account, &said);
                } else if wait.is_some() || said.starts_with("432") || said.contains(" 4.3.2") {
                    pace.hold(&self.account, Protocol::Smtp, wait);
                } else {
                    return Outcome::Broken { reason: said };
                }
                let remedy = remedy(&said, &self.account.mailbox);
                Outcome::Held { reason: said, wait, remedy }
            }
            Submitted::Closed { said } => Outcome::Closed { said },
        }
    }
}

impl Courier for SmtpCourier {
    fn send<'a>(&'a mut self, message: &'a mut Message) -> BoxFuture<'a, Outcome> {
        Box::pin(self.deliver(message))
    }

    fn wanted(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            match &self.live {
                None => std::future::pending().await,
                Some(live) => {
                    while !live.turn.wanted() {
                        sleep(LOOK).await;
                    }
                }
            }
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(live) = self.live.take() {
                live.quit().await;
            }
        })
    }
}

impl Live {
    async fn submit(&mut self, message: &mut Message) -> Ended {
        self.messages += 1;
        let Message { envelope, content, .. } = message;
        let mut submission = Submission::new(envelope, content.size, &self.keywords);
        submission.push(&std::mem::take(&mut self.unread));
        let submitted = loop {
            match submission.step() {
                SubmissionStep::Read => {
                    if let Err(how) = self.read(&mut submission).await {
                        if submission.is_uncertain() {
                            warn!(
                                how,
                                "the connection broke before the answer to a message that was \
                                 sent: it is sent again and may arrive twice (RFC 1047)"
                            );
                        }
                        submission.lost(&how);
                    }
                }
                SubmissionStep::Write(bytes) => {
                    if let Err(error) = self.write(&bytes).await {
                        self.last_words(&mut submission, &error).await;
                    }
                }
                SubmissionStep::Content(encoding) => match self.send(content, encoding).await {
                    Ok(()) => submission.content_sent(),
                    Err(Stuck::Read(error)) => {
                        submission
                            .lost(&format!("the message can't be read from the spool: {error}"));
                    }
                    Err(Stuck::Write(error)) => self.last_words(&mut submission, &error).await,
                },
                SubmissionStep::Done(submitted) => break submitted,
            }
        };
        let (reusable, untouched) = (submission.is_reusable(), submission.is_untouched());
        self.unread = submission.into_unread();
        Ended { submitted, reusable, untouched }
    }

    async fn read(&mut self, submission: &mut Submission) -> Result<(), String> {
        let patience = submission.patience();
        let receive = self.stream.receive(|octets| submission.push(octets));
        match timeout(patience, receive).await {
            Ok(Ok(0)) => Err("the mail server has closed the connection".into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("the connection broke: {error}")),
            Err(_) => Err("the mail server does not answer".into()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(BLOCK, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// A server that takes no more may have said why.
    async fn last_words(&mut self, submission: &mut Submission, error: &io::Error) {
        let listen = async {
            while let Ok(1..) = self.stream.receive(|octets| submission.push(octets)).await {}
        };
        // Whatever has come until then counts.
        let _ = timeout(LAST_WORDS, listen).await;
        if matches!(submission.step(), SubmissionStep::Read | SubmissionStep::Write(_)) {
            submission.lost(&format!("the connection broke: {error}"));
        }
    }

    async fn send(&mut self, content: &mut Content, encoding: Encoding) -> Result<(), Stuck> {
        let (mut dots, mut out) = (Dots::default(), Vec::new());
        loop {
            let piece = content.piece().await.map_err(Stuck::Read)?;
            if piece.is_empty() {
                break;
            }
            match encoding {
                Encoding::Plain => self.write(piece).await.map_err(Stuck::Write)?,
                Encoding::Dots => {
                    out.clear();
                    dots.encode(piece, &mut out);
                    self.write(&out).await.map_err(Stuck::Write)?;
                }
            }
        }
        if encoding == Encoding::Dots {
            out.clear();
            dots.finish(&mut out);
            self.write(&out).await.map_err(Stuck::Write)?;
        }
        Ok(())
    }

    /// RFC 5321 section 4.1.1.10: the answer is waited for, so that the place is free when the turn is given back.
    async fn quit(mut self) {
        let quit = async {
            self.write(b"QUIT\r\n").await?;
            while self.stream.receive(|_| ()).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        let _ = timeout(QUIT, quit).await;
    }
}

fn stopping() -> Outcome {
    Outcome::Held { reason: Refusal::ShuttingDown.text(), wait: None, remedy: None }
}

/// Its turn may have taken hours. The spool knows that the message is gone, and so holds nothing.
fn dropped() -> Outcome {
    Outcome::Held { reason: "it was dropped meanwhile".into(), wait: None, remedy: None }
}

fn is_quota(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["submissionquotaexceeded", "submission quota", " 5.1.90"]
        .iter()
        .any(|words| said.contains(words))
}

/// What a person has to do, if it does not pass by itself.
pub(super) fn remedy(said: &str, mailbox: &str) -> Option<String> {
    let entry = explain::best(said)?;
    (!entry.transient && entry.who != Who::Nobody).then(|| entry.remedy_for(mailbox))
}
