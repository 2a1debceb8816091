//! Each grant, tried for real, and what the token that it brings says of itself.

use std::collections::HashMap;

use futures_util::future::join_all;
use url::Url;

use super::refusal::{in_words, of_token_endpoint};
use super::{Case, Code, Finding, Level, with_hint};
use crate::clock::Clock;
use crate::config::{Account, App};
use crate::oauth::{Claims, HttpEndpoint, Principal, TokenError, remedy, renew_once};
use crate::secret::Secret;
use crate::vocabulary::{Cause, Protocol, Resource};

/// Entra's names of resources that are not mail: Microsoft Graph and Azure AD Graph.
const NOT_MAIL: [&str; 2] =
    ["00000003-0000-0000-c000-000000000000", "00000002-0000-0000-c000-000000000000"];

/// A token that was granted, for the logins.
pub(super) struct Tried {
    pub(super) token: Secret<String>,
    pub(super) claims: Option<Claims>,
    /// Something is wrong with it, and was told: that a mail server refuses it is no news.
    pub(super) faulty: bool,
}

pub(super) struct Tokens {
    pub(super) findings: Vec<Finding>,
    /// By the principal's key.
    pub(super) tried: HashMap<String, Tried>,
}

pub(super) async fn examine(case: &Case) -> Tokens {
    let principals = case.principals();
    let outcomes = principals.iter().map(|(principal, account)| attempt(case, principal, account));
    let mut tokens = Tokens { findings: Vec::new(), tried: HashMap::new() };
    for ((principal, _), (findings, tried)) in principals.iter().zip(join_all(outcomes).await) {
        tokens.findings.extend(findings);
        tokens.tried.extend(tried.map(|tried| (principal.key(), tried)));
    }
    tokens
}

async fn attempt(
    case: &Case,
    principal: &Principal,
    account: &Account,
) -> (Vec<Finding>, Option<Tried>) {
    let (subject, mailbox) = (principal.to_string(), account.mailbox.as_str());
    let unasked = offline_access_unasked(principal, mailbox);
    let renewed = match HttpEndpoint::of(&principal.app) {
        Ok(endpoint) => renew_once(&case.store, &endpoint, principal, Resource::Mail).await,
        Err(error) => Err(TokenError::transient(error.to_string())),
    };
    let renewed = match renewed {
        Ok(renewed) => renewed,
        Err(error) => {
            let refused = refused(&principal.app, &subject, mailbox, &error);
            return (unasked.into_iter().chain([refused]).collect(), None);
        }
    };
    let claims = Claims::of(&renewed.access_token);
    let mut findings: Vec<_> = unasked.into_iter().collect();
    if !renewed.renewable && findings.is_empty() {
        findings.push(Finding::error(
            Code::NoRefreshToken,
            subject.as_str(),
            "the sign-in has no refresh token: access ends with this token, within the hour or so",
            format!(
                "put offline_access into the scopes of [app.{}], then `gatepost login {mailbox}`",
                principal.app.name
            ),
        ));
    }
    match &claims {
        None => findings.push(Finding::ok(
            Code::Token,
            subject,
            "granted; it does not say what it is for",
        )),
        Some(claims) => findings.extend(Inspection { case, principal, mailbox, claims }.findings()),
    }
    let faulty = findings.iter().any(|finding| finding.level == Level::Error);
    (findings, Some(Tried { token: renewed.access_token, claims, faulty }))
}

/// A sign-in by these scopes can't be renewed: the provider gives a refresh token for `offline_access`.
fn offline_access_unasked(principal: &Principal, mailbox: &str) -> Option<Finding> {
    const OFFLINE: &str = "offline_access";
    let App { name, grant, scopes, provider, .. } = &*principal.app;
    let has = |scopes: &[String]| scopes.iter().any(|scope| scope == OFFLINE);
    if !grant.is_delegated() || has(scopes) || !has(&provider.scopes) {
        return None;
    }
    let what = format!(
        "the scopes of [app.{name}] leave out {OFFLINE}: a sign-in by them ends within the hour"
    );
    let remedy =
        format!("put {OFFLINE} into scopes of [app.{name}], then `gatepost login {mailbox}`");
    Some(Finding::error(Code::NoRefreshToken, principal.to_string(), what, remedy))
}

pub(super) fn refused(app: &App, subject: &str, mailbox: &str, error: &TokenError) -> Finding {
    let trace = error.trace().map(|trace| format!("; for support: {trace}")).unwrap_or_default();
    match error {
        TokenError::Transient { reason, .. } => {
            let (what, hint) = with_hint(reason);
            let otherwise = "try again in some minutes; `gatepost run` does so by itself";
            let hint = if hint.is_empty() { otherwise.into() } else { hint };
            Finding::error(
                Code::TokenEndpoint,
                subject,
                format!("no token for now: {what}{trace}"),
                hint,
            )
        }
        TokenError::Permanent { reason, cause, .. } => {
            let code = of_token_endpoint(reason);
            let code = if error.trace().is_none() && *cause == Cause::SignIn {
                Code::SignIn
            } else {
                code
            };
            let what = format!("no token: {}{trace}", in_words(reason));
            Finding::error(code, subject, what, remedy(app, mailbox, reason, *cause))
        }
    }
}

/// A token under the glass.
struct Inspection<'a> {
    case: &'a Case,
    principal: &'a Principal,
    mailbox: &'a str,
    claims: &'a Claims,
}

impl Inspection<'_> {
    fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = [self.audience(), self.identity(), self.person()]
            .into_iter()
            .flatten()
            .chain(self.permissions())
            .collect();
        if findings.is_empty() {
            let end = self.claims.expires().map(|end| format!(" until {}", end.text()));
            let what = format!(
                "granted for {}{}, with {}",
                self.claims.audiences().join(" "),
                end.unwrap_or_default(),
                listed(&self.claims.permissions())
            );
            findings.push(Finding::ok(Code::Token, self.subject(), what));
        }
        findings
    }

    fn subject(&self) -> String {
        self.principal.to_string()
    }

    fn app(&self) -> &App {
        &self.principal.app
    }

    /// A token for Graph opens no mailbox.
    fn audience(&self) -> Option<Finding> {
        let provider = &self.app().provider;
        let asked = provider.scopes.iter().chain(&provider.app_scopes);
        let wanted: Vec<_> = asked.filter_map(|scope| origin(scope)).collect();
        let audiences = self.claims.audiences();
        let fits = |audience: &String| match origin(audience) {
            Some(audience) => wanted.contains(&audience),
            None => !NOT_MAIL.contains(&audience.as_str()),
        };
        if wanted.is_empty() || audiences.is_empty() || audiences.iter().any(fits) {
            return None;
        }
        let what = format!(
            "the token is for {}, which is not the mail server: it will be refused there",
            audiences.join(" ")
        );
        let scopes =
            if self.app().grant.is_delegated() { &provider.scopes } else { &provider.app_scopes };
        let remedy = format!(
            "leave scopes out of [app.{}], or write {scopes:?}; then `gatepost login {}`",
            self.app().name,
            self.mailbox
        );
        Some(Finding::error(Code::TokenAudience, self.subject(), what, remedy))
    }

    /// What each listener's protocol needs, where the provider tells permissions by protocol.
    fn permissions(&self) -> Vec<Finding> {
        let held = self.claims.permissions();
        let app_only = !self.app().grant.is_personal();
        let lacks = |protocol: &Protocol| {
            let needed = needed(self.app(), *protocol, app_only)?;
            (!held.iter().any(|held| held.eq_ignore_ascii_case(&needed)))
                .then_some((*protocol, needed))
        };
        let protocols = self.case.protocols(self.app());
        let lacking = protocols.iter().filter_map(lacks);
        lacking.map(|(protocol, needed)| self.lacks(protocol, &needed, &held, app_only)).collect()
    }

    fn lacks(&self, protocol: Protocol, needed: &str, held: &[&str], app_only: bool) -> Finding {
        let App { name, provider, scopes, .. } = self.app();
        let what =
            format!("{protocol} needs the permission {needed}; the token has {}", listed(held));
        let portal = provider.portal.as_deref().unwrap_or("the provider's portal");
        let asked =
            scopes.iter().any(|scope| scope.ends_with(needed) || scope.ends_with("/.default"));
        let remedy = match (app_only, asked) {
            (true, _) => format!(
                "add the application permission {needed} (Office 365 Exchange Online) at {portal}: App \
                 registrations, the app, API permissions; then \"Grant admin consent\". \
                 `gatepost entra script` does both"
            ),
            (false, false) => format!(
                "put the scope that ends with {needed} into scopes of [app.{name}], or leave scopes out; then \
                 `gatepost login {}`",
                self.mailbox
            ),
            (false, true) => format!(
                "add the delegated permission {needed} at {portal}: App registrations, the app, API permissions; \
                 consent to it; then `gatepost login {}`",
                self.mailbox
            ),
        };
        Finding::error(Code::TokenPermission, self.subject(), what, remedy)
    }

    /// Of another app or tenant, or at its end already.
    fn identity(&self) -> Option<Finding> {
        let App { name, client_id, tenant, .. } = self.app();
        let remedy = format!(
            "check client_id and tenant of [app.{name}], then `gatepost login {}`",
            self.mailbox
        );
        let error = |what: String, remedy: String| {
            Some(Finding::error(Code::TokenIdentity, self.subject(), what, remedy))
        };
        if let Some(end) = self.claims.expires().filter(|end| *end <= Clock::system().now()) {
            let what = format!(
                "a new token that has ended already, at {}: the clock is wrong",
                end.text()
            );
            return error(what, "`timedatectl set-ntp true`".into());
        }
        if let Some(app) =
            self.claims.app().filter(|app| is_id(client_id) && !app.eq_ignore_ascii_case(client_id))
        {
            return error(
                format!("the token was issued to the app {app}, not to {client_id}"),
                remedy,
            );
        }
        let other = |tid: &&String| is_id(tenant) && !tid.eq_ignore_ascii_case(tenant);
        let tid = self.claims.tid.as_ref().filter(other)?;
        error(format!("the token is of the tenant {tid}, not of {tenant}"), remedy)
    }

    /// Often it is the same person under another name; sometimes somebody took the wrong account.
    fn person(&self) -> Option<Finding> {
        let expected = self.principal.user.as_deref()?;
        let person =
            self.claims.person().filter(|person| !person.eq_ignore_ascii_case(expected))?;
        let what = format!("the person who signed in is {person}, not {expected}");
        let remedy = format!(
            "if that is another person: `gatepost login {}`, in a private window; else write signed_in_as = \
             {person:?} into the account",
            self.mailbox
        );
        Some(Finding::warning(Code::TokenIdentity, self.subject(), what, remedy))
    }
}

/// `IMAP.AccessAsUser.All` of the provider's own scopes, or its counterpart for apps.
fn needed(app: &App, protocol: Protocol, app_only: bool) -> Option<String> {
    let (prefix, role) = match protocol {
        Protocol::Imap => ("IMAP.", "IMAP.AccessAsApp"),
        Protocol::Pop3 => ("POP.", "POP.AccessAsApp"),
        Protocol::Smtp => ("SMTP.", "SMTP.SendAsApp"),
    };
    let names = app.provider.scopes.iter().filter_map(|scope| scope.rsplit('/').next());
    let delegated = names.filter(|name| name.starts_with(prefix)).map(str::to_owned).next()?;
    Some(if app_only { role.to_owned() } else { delegated })
}

pub(super) fn listed(permissions: &[&str]) -> String {
    if permissions.is_empty() { "none".into() } else { permissions.join(", ") }
}

/// `https://outlook.office.com` of a scope or an audience.
pub(super) fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok().filter(|url| url.has_host())?;
    Some(url.origin().ascii_serialization())
}

/// A GUID: names of tenants and apps that a token spells in the same way.
fn is_id(text: &str) -> bool {
    uuid::Uuid::try_parse(text).is_ok()
}
