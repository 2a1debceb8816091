//! XOAUTH2 at each mail server, for real, and each of its refusals told from the others.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::refusal::{in_words, of_mail_server, remedy};
use super::tokens::Tried;
use super::{Case, Code, Finding, Level};
use crate::clock::Clock;
use crate::config::{Account, Endpoint, Provider};
use crate::net::{ClientTls, Route};
use crate::oauth::Principal;
use crate::protocol::{Rejection, Xoauth2};
use crate::secret::Secret;
use crate::upstream::{Server, Session};
use crate::vocabulary::{Delivery, Protocol, Way};

/// For one answer behind the login.
const ANSWER: Duration = Duration::from_secs(15);

/// Longest answer that is read.
const LONGEST: usize = 16 * 1024;

/// Mailboxes of a pattern that are tried: those with an app password.
const MOST_OF_PATTERN: usize = 3;

/// A login to be tried, and where.
struct Attempt<'a> {
    account: Arc<Account>,
    protocol: Protocol,
    provider: &'a Provider,
    endpoint: Endpoint,
    tried: &'a Tried,
}

pub(super) async fn examine(
    case: &Case,
    tried: &HashMap<String, Tried>,
    unreachable: &HashSet<(Protocol, Endpoint)>,
) -> Vec<Finding> {
    let mut attempts = Vec::new();
    for account in mailboxes(case).await {
        let Some(tried) = tried.get(&Principal::of(&account).key()) else { continue };
        let mut seen = HashSet::new();
        for listener in &case.config.listeners {
            let place = (listener.protocol, listener.upstream.clone());
            let serves = listener.provider.shares_tokens_with(&account.app.provider);
            let needed = listener.protocol != Protocol::Smtp || account.goes_by(Way::Smtp);
            if serves && needed && !unreachable.contains(&place) && seen.insert(place) {
                let (account, provider) = (Arc::clone(&account), &*listener.provider);
                let (protocol, endpoint) = (listener.protocol, listener.upstream.clone());
                attempts.push(Attempt { account, protocol, provider, endpoint, tried });
            }
        }
    }
    let outcomes = join_all(
        attempts
            .iter()
            .map(|attempt| attempt.log_in(attempt.protocol, &attempt.endpoint, case.send)),
    )
    .await;
    let all: Vec<_> = attempts.iter().zip(outcomes).collect();
    let findings = all.iter().map(|(attempt, outcome)| async {
        match outcome {
            Ok(what) => Finding::ok(Code::Login, attempt.subject(), what.as_str()),
            Err(rejection) => {
                let finding = attempt.refused(rejection, &all).await;
                attempt.with_another_way(finding, case)
            }
        }
    });
    join_all(findings).await
}

/// A pattern by some of its mailboxes.
async fn mailboxes(case: &Case) -> Vec<Arc<Account>> {
    let records = case.store.passwords().await.unwrap_or_default();
    let mut mailboxes = Vec::new();
    for account in &case.accounts {
        if account.pattern().is_none() {
            mailboxes.push(Arc::clone(account));
            continue;
        }
        let mut known: Vec<_> = records.iter().map(|record| &record.mailbox).collect();
        known.dedup();
        let own = known.into_iter().filter(|mailbox| account.covers(mailbox)).take(MOST_OF_PATTERN);
        mailboxes.extend(own.map(|mailbox| {
            Arc::new(Account { mailbox: mailbox.clone(), ..Account::clone(account) })
        }));
    }
    mailboxes
}

type Outcome = Result<String, Rejection>;

impl Attempt<'_> {
    fn subject(&self) -> String {
        format!("{} by {}", self.account.mailbox, self.protocol)
    }

    /// Logs in, and does the first thing that needs the mailbox: Exchange lets a good token in before it looks
    /// whose mailbox it is.
    async fn log_in(&self, protocol: Protocol, endpoint: &Endpoint, send: bool) -> Outcome {
        let mut session = self.open(protocol, endpoint).await?;
        let refused = match protocol {
            Protocol::Imap => {
                let status = "d1 STATUS INBOX (MESSAGES)\r\n";
                let last = |line: &str| line.starts_with("d1 ") || line.starts_with("* BYE");
                let answer = ask(&mut session, status, last).await;
                answer.map(|answer| (!answer.starts_with("d1 OK")).then_some(answer))
            }
            Protocol::Pop3 => {
                let answer = ask(&mut session, "STAT\r\n", |_| true).await;
                answer.map(|answer| (!answer.starts_with("+OK")).then_some(answer))
            }
            Protocol::Smtp => self.submit(&mut session, send).await,
        };
        match refused {
            Ok(None) => Ok(self.success(send)),
            Ok(Some(said)) => Err(rejection_of(said)),
            Err(error) => {
                Err(Rejection::Broken { said: format!("broken off behind the login: {error}") })
            }
        }
    }

    fn success(&self, send: bool) -> String {
        match (self.protocol, send) {
            (Protocol::Smtp, false) => {
                "the login works, and its sender is taken so far (gatepost doctor --send sends a message to the \
                 mailbox itself: a missing \"Send As\" shows only then)"
                    .into()
            }
            (Protocol::Smtp, true) => "the login works, and a message was taken".into(),
            _ => "the login works, and the inbox opens".into(),
        }
    }

    async fn open(&self, protocol: Protocol, endpoint: &Endpoint) -> Result<Session, Rejection> {
        let tls = ClientTls::new(self.provider.ca_file.as_deref());
        let tls = tls.map_err(|error| Rejection::Broken { said: error.to_string() })?;
        let login = Xoauth2::new(self.account.xoauth2_user(protocol), &self.tried.token);
        let login =
            login.ok_or(Rejection::NotPermitted { said: "no user name or no token".into() })?;
        let route = Route::new(&self.provider.proxy)
            .map_err(|error| Rejection::Broken { said: error.to_string() })?;
        Server::new(protocol, endpoint.clone(), tls, route).log_in(login).await
    }

    /// From the mailbox to itself; nothing is sent unless that was asked for. The last words if it is refused.
    async fn submit(&self, session: &mut Session, send: bool) -> io::Result<Option<String>> {
        let mailbox = &self.account.mailbox;
        let mut steps =
            vec![format!("MAIL FROM:<{mailbox}>\r\n"), format!("RCPT TO:<{mailbox}>\r\n")];
        match send {
            true => steps.extend(["DATA\r\n".to_owned(), test_message(mailbox)]),
            false => steps.push("RSET\r\n".to_owned()),
        }
        for step in steps {
            let answer = ask(session, &step, |line| line.as_bytes().get(3) != Some(&b'-')).await?;
            if !answer.starts_with(['2', '3']) {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    async fn refused(&self, rejection: &Rejection, all: &[(&Attempt<'_>, Outcome)]) -> Finding {
        let (Rejection::Token { said }
        | Rejection::NotPermitted { said }
        | Rejection::Busy { said, .. }
        | Rejection::Broken { said }) = rejection;
        let mailbox = self.account.mailbox.as_str();
        let code = match of_mail_server(rejection) {
            Some(code) => code,
            None if self.tried.faulty => Code::Login,
            None if self.protocol == Protocol::Smtp && self.opens_otherwise(all) => Code::Login,
            None if self.protocol == Protocol::Smtp => Code::MailboxPermission,
            None if self.other_protocol_works(all).await => Code::ProtocolOff,
            None => Code::MailboxPermission,
        };
        let (protocol, server) = (self.protocol, &self.endpoint);
        let finding =
            |what: String, remedy: String| Finding::error(code, self.subject(), what, remedy);
        match code {
            Code::ProtocolOff => finding(
                format!(
                    "{protocol} is switched off for this mailbox: {server} said {said:?}, while the mailbox opens \
                     by the other protocol"
                ),
                format!("in Exchange Online PowerShell: {}", switch_on(protocol, mailbox)),
            ),
            Code::MailboxPermission => finding(self.no_permission(said), self.permission_remedy()),
            Code::Login if self.tried.faulty => finding(
                format!("{server} refuses the login, as was to be expected of this token: {said}"),
                "mend what is wrong with the token, then run the doctor again".into(),
            ),
            _ => {
                let otherwise = "`gatepost explain` tells more of the server's words";
                let what = format!("{server} refuses the login: {}", in_words(said));
                finding(what, remedy(said, mailbox, otherwise))
            }
        }
    }

    /// Mail that gatepost delivers itself goes by Microsoft Graph then; a client that talks through has no other way.
    fn with_another_way(&self, finding: Finding, case: &Case) -> Finding {
        let is_off = matches!(finding.code, Code::SmtpAuthTenant | Code::SmtpAuthMailbox);
        let talks_through = case.config.listeners.iter().any(|listener| {
            listener.protocol == Protocol::Smtp
                && listener.delivery == Delivery::Direct
                && listener.provider.shares_tokens_with(&self.account.app.provider)
        });
        if !is_off || talks_through || !self.account.goes_by(Way::Graph) {
            return finding;
        }
        let what = format!("{}. Its mail goes by Microsoft Graph", finding.what);
        Finding { level: Level::Warning, what, ..finding }
    }

    fn no_permission(&self, said: &str) -> String {
        let who = match self.tried.claims.as_ref().and_then(|claims| claims.person()) {
            Some(person) => format!("{person}'s sign-in"),
            None => format!("app {}", self.account.app.name),
        };
        format!(
            "{} said {said:?}: the token is as it should be, but {who} may not open this mailbox",
            self.endpoint
        )
    }

    fn permission_remedy(&self) -> String {
        let mailbox = &self.account.mailbox;
        let switch = switch_on(self.protocol, mailbox);
        match (self.account.app.grant.is_personal(), &self.account.signed_in_as) {
            (false, _) => {
                let object = self.tried.claims.as_ref().and_then(|claims| claims.oid.as_deref());
                let object = object.unwrap_or("OBJECT-ID-OF-THE-ENTERPRISE-APPLICATION");
                format!(
                    "in Exchange Online PowerShell: `New-ServicePrincipal -AppId {} -ObjectId {object}` (the object \
                     id of the enterprise application, not of the app registration), then `Add-MailboxPermission \
                     -Identity {mailbox} -User {object} -AccessRights FullAccess`; `gatepost entra script` does it \
                     all. If that is in order: {switch}",
                    self.account.app.client_id
                )
            }
            (true, Some(person)) => format!(
                "in Exchange Online PowerShell: `Add-MailboxPermission -Identity {mailbox} -User {person} \
                 -AccessRights FullAccess` (it takes up to an hour); check signed_in_as = {person:?}"
            ),
            (true, None) => format!(
                "if it is a shared mailbox, write signed_in_as = \"PERSON\" into the account; if somebody else \
                 signed in: `gatepost login {mailbox}`; if neither: {switch}"
            ),
        }
    }

    /// Whether the mailbox opens by any other protocol.
    fn opens_otherwise(&self, all: &[(&Attempt<'_>, Outcome)]) -> bool {
        let same = |attempt: &Attempt<'_>| attempt.account.mailbox == self.account.mailbox;
        all.iter().any(|(attempt, outcome)| same(attempt) && outcome.is_ok())
    }

    /// IMAP and POP3 open the same mailbox with the same user. SMTP proves nothing: it asks for other rights.
    async fn other_protocol_works(&self, all: &[(&Attempt<'_>, Outcome)]) -> bool {
        let other = if self.protocol == Protocol::Imap { Protocol::Pop3 } else { Protocol::Imap };
        let known = all.iter().find(|(attempt, _)| {
            attempt.protocol == other && attempt.account.mailbox == self.account.mailbox
        });
        match (known, self.provider.endpoint(other)) {
            (Some((_, outcome)), _) => outcome.is_ok(),
            (None, Some(endpoint)) => self.log_in(other, endpoint, false).await.is_ok(),
            (None, None) => false,
        }
    }
}

/// Sends a command and reads up to its last line, which is what comes back.
async fn ask(
    session: &mut Session,
    command: &str,
    is_last: impl Fn(&str) -> bool,
) -> io::Result<String> {
    let exchange = async {
        session.stream.write_all(command.as_bytes()).await?;
        session.stream.flush().await?;
        let mut unread = Secret::new(std::mem::take(&mut session.unread));
        loop {
            let text = String::from_utf8_lossy(unread.expose()).into_owned();
            let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = lines.find(|line| is_last(line)) {
                return Ok(line.trim_end().chars().filter(|c| !c.is_control()).collect());
            }
            if text.len() > LONGEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let take = |octets: &[u8]| unread = Secret::new([unread.expose(), octets].concat());
            if session.stream.receive(take).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    timeout(ANSWER, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What an answer behind the login means; the words tell the rest.
fn rejection_of(said: String) -> Rejection {
    let lower = said.to_lowercase();
    let busy = ["throttled", "backoff time", "concurrent connections", "432 "];
    match busy.iter().any(|words| lower.contains(words)) || lower.starts_with('4') {
        true => Rejection::Busy { said, wait: None },
        false => Rejection::NotPermitted { said },
    }
}

fn switch_on(protocol: Protocol, mailbox: &str) -> String {
    let switch = match protocol {
        Protocol::Imap => "-ImapEnabled $true",
        Protocol::Pop3 => "-PopEnabled $true",
        Protocol::Smtp => "-SmtpClientAuthenticationDisabled $false",
    };
    format!("`Set-CASMailbox -Identity {mailbox} {switch}`")
}

/// RFC 5322, with what it needs and no more.
fn test_message(mailbox: &str) -> String {
    let date = Clock::system().now().mail_date();
    let id = uuid::Uuid::new_v4();
    format!(
        "From: <{mailbox}>\r\nTo: <{mailbox}>\r\nSubject: gatepost doctor\r\nDate: {date}\r\n\
         Message-ID: <{id}@gatepost.invalid>\r\n\r\n\
         gatepost's doctor has sent this from the mailbox to itself. Nothing needs to be done.\r\n.\r\n"
    )
}
