//! App registrations, and the accounts that name them.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::value::Datetime;

use super::super::directory::Directory;
use super::super::error::ConfigError;
use super::super::{Account, App, Grant, RedirectUri, raw};
use super::pieces::read_all;
use super::{ANY_TENANT, Apps, Checker, Providers};
use crate::clock::Timestamp;
use crate::vocabulary::Way;

/// What people register for a program on their machine; Entra takes any port for it.
const DEFAULT_REDIRECT_URI: &str = "http://localhost";

impl Checker<'_> {
    pub(super) fn apps(
        &self,
        written: BTreeMap<String, Spanned<raw::App>>,
        providers: &Providers,
    ) -> Result<Apps, ConfigError> {
        written
            .into_iter()
            .map(|(name, app)| {
                let place = app.span();
                let app = self.app(&name, &place, app.into_inner(), providers)?;
                Ok((name, Arc::new(app)))
            })
            .collect()
    }

    fn app(
        &self,
        name: &str,
        place: &Range<usize>,
        mut written: raw::App,
        providers: &Providers,
    ) -> Result<App, ConfigError> {
        let key = |key: &str| format!("app.{name}.{key}");
        let provider = self.named(&key("provider"), place, written.provider.take(), providers)?;
        let grant = written.grant;
        let tenant = match &written.tenant {
            Some(tenant) => self.clean(key("tenant"), tenant)?,
            None if grant == Grant::ClientCredentials
                && provider.token_url.contains("{tenant}") =>
            {
                let problem = "grant \"client_credentials\" needs the tenant";
                let remedy = "add tenant = \"YOURS.onmicrosoft.com\" or the directory (tenant) id";
                return Err(self.error(place, key("tenant"), problem, remedy));
            }
            None => ANY_TENANT.to_owned(),
        };
        let url = |url: &str| {
            self.url(&key("tenant"), &Spanned::new(place.clone(), url.to_owned()), &tenant)
        };
        let optional_url = |written: &Option<String>| written.as_deref().map(url).transpose();
        let client_id = match &written.client_id {
            Some(id) => self.clean(key("client_id"), id)?,
            // A system-assigned identity has none.
            None if grant == Grant::ManagedIdentity => String::new(),
            None => {
                let problem = "it is missing";
                let remedy = "add client_id = \"…\": the application (client) id in the portal";
                return Err(self.error(place, key("client_id"), problem, remedy));
            }
        };
        if grant == Grant::ManagedIdentity && provider.identity_url.is_none() {
            let problem = format!("provider {:?} has no managed identities", provider.name);
            let remedy = format!("set identity_url in [provider.{}]", provider.name);
            return Err(self.error(place, key("grant"), problem, remedy));
        }
        let redirect_uri = written.redirect_uri.take();
        let redirect_uri = redirect_uri
            .unwrap_or_else(|| Spanned::new(place.clone(), DEFAULT_REDIRECT_URI.to_owned()));
        let scopes = if grant.is_delegated() { &provider.scopes } else { &provider.app_scopes };
        Ok(App {
            name: name.to_owned(),
            token_url: url(&provider.token_url)?,
            authorize_url: optional_url(&provider.authorize_url)?,
            device_url: optional_url(&provider.device_url)?,
            revoke_url: optional_url(&provider.revoke_url)?,
            client_id,
            secret_expires: self
                .date(&key("client_secret_expires"), &written.client_secret_expires)?,
            redirect_uri: self.redirect_uri(&key("redirect_uri"), redirect_uri)?,
            grant,
            scopes: written.scopes.take().map_or_else(|| scopes.clone(), Spanned::into_inner),
            credential: self.credential(name, place, written)?,
            tenant,
            provider,
        })
    }

    /// Where a browser is sent back to: it need not be on this machine, its URL can be pasted.
    fn redirect_uri(
        &self,
        key: &str,
        written: Spanned<String>,
    ) -> Result<RedirectUri, ConfigError> {
        let url = self.url(key, &written, ANY_TENANT)?;
        if url.fragment().is_some() {
            let problem = "it has a fragment (RFC 6749 section 3.1.2)";
            return Err(self.error(&written.span(), key, problem, "write it without #…"));
        }
        Ok(RedirectUri::new(written.into_inner(), url))
    }

    fn date(
        &self,
        key: &str,
        written: &Option<Spanned<Datetime>>,
    ) -> Result<Option<Timestamp>, ConfigError> {
        let Some(written) = written else { return Ok(None) };
        let midnight = written
            .get_ref()
            .date
            .and_then(|date| Timestamp::of_date(i32::from(date.year), date.month, date.day));
        midnight.map(Some).ok_or_else(|| {
            let remedy = "write the day on which the secret ends, without quotes: 2027-01-31";
            self.error(&written.span(), key, "it is no day", remedy)
        })
    }

    pub(super) fn accounts(
        &self,
        written: Vec<Spanned<raw::Account>>,
        apps: &Apps,
    ) -> Result<(Vec<Arc<Account>>, Directory), ConfigError> {
        let (mut accounts, mut directory) = (Vec::new(), Directory::default());
        for (index, account) in written.into_iter().enumerate() {
            let account = account.into_inner();
            let names: Vec<_> =
                std::iter::once(&account.mailbox).chain(&account.aliases).cloned().collect();
            let account = Arc::new(self.account(index, account, apps)?);
            directory.add(&account).map_err(|taken| {
                let key = if taken.index == 0 { "mailbox" } else { "aliases" };
                let name = &names[taken.index];
                let problem = format!("{:?} means {} already", name.get_ref(), taken.by);
                let remedy = "give each account names of its own";
                self.error(&name.span(), format!("account[{index}].{key}"), problem, remedy)
            })?;
            accounts.push(account);
        }
        Ok((accounts, directory))
    }

    /// The same of a file that is cut; an error does not tell its place.
    pub(super) fn accounts_in_pieces(
        &self,
        pieces: &[&str],
        apps: &Apps,
    ) -> Result<(Vec<Arc<Account>>, Directory), ConfigError> {
        let accounts = read_all(pieces, |text| {
            let checker = Checker { text, ..*self };
            let raw: raw::Accounts = checker.parse(text)?;
            let written = raw.account.into_iter().map(Spanned::into_inner).enumerate();
            let checked = written.map(|(index, account)| checker.account(index, account, apps));
            checked.map(|account| account.map(Arc::new)).collect::<Result<Vec<_>, _>>()
        });
        let accounts = accounts?.concat();
        let mut directory = Directory::with_capacity(accounts.len());
        for account in &accounts {
            directory.add(account).map_err(|taken| {
                let problem = format!("a name of {} means {} already", account.mailbox, taken.by);
                let remedy = "give each account names of its own";
                ConfigError::new(self.file, None, "account", problem, remedy)
            })?;
        }
        Ok((accounts, directory))
    }

    fn account(
        &self,
        index: usize,
        written: raw::Account,
        apps: &Apps,
    ) -> Result<Account, ConfigError> {
        // Written only for an error: there may be a hundred thousand accounts.
        let key = |key| fmt::from_fn(move |f| write!(f, "account[{index}].{key}"));
        let aliases = written.aliases.iter().map(|alias| self.clean(key("aliases"), alias));
        let app = self.app_named(key("app"), &written.app, apps)?;
        let (signed_in_as, notify) = (written.signed_in_as.as_ref(), written.notify.as_ref());
        self.has_graph(key("via"), written.via.as_ref(), &app)?;
        let account = Account {
            mailbox: self.clean(key("mailbox"), &written.mailbox)?,
            aliases: aliases.collect::<Result<_, _>>()?,
            signed_in_as: signed_in_as
                .map(|person| self.clean(key("signed_in_as"), person))
                .transpose()?,
            via: self.via(key("via"), written.via)?,
            notify: notify.map(|notify| self.clean(key("notify"), notify)).transpose()?,
            sender: self.sender(key("sender"), written.sender)?.unwrap_or_default(),
            limits: self.limits(key("limits"), &written.limits, &app.provider.limits)?,
            app,
        };
        self.pattern(key("mailbox"), &written.mailbox.span(), &account)?;
        Ok(account)
    }

    fn has_graph(
        &self,
        key: impl Display,
        via: Option<&Spanned<Vec<Way>>>,
        app: &App,
    ) -> Result<(), ConfigError> {
        let provider = &app.provider;
        match via {
            Some(via) if via.get_ref().contains(&Way::Graph) && provider.graph.is_none() => {
                let problem = format!("provider {:?} has no Microsoft Graph", provider.name);
                let remedy =
                    format!("use [\"smtp\"], or set graph in [provider.{}]", provider.name);
                Err(self.error(&via.span(), key, problem, remedy))
            }
            _ => Ok(()),
        }
    }

    /// A pattern is only for an app whose own token opens all of its mailboxes.
    fn pattern(
        &self,
        key: impl Display,
        place: &Range<usize>,
        account: &Account,
    ) -> Result<(), ConfigError> {
        let mailbox = &account.mailbox;
        if !mailbox.contains('*') {
            return Ok(());
        }
        let whole = account
            .pattern()
            .is_some_and(|domain| !domain.is_empty() && !domain.contains(['*', '@']));
        if !whole {
            let problem = format!("{mailbox:?} is no pattern");
            return Err(self.error(place, key, problem, "write \"*@DOMAIN\" or one mailbox"));
        }
        if account.app.grant.is_personal() {
            let problem = format!("{mailbox:?} needs a token that opens every mailbox");
            let remedy = "use an app with grant = \"client_credentials\"";
            return Err(self.error(place, key, problem, remedy));
        }
        if !account.aliases.is_empty() {
            let problem = "aliases of a pattern would name no mailbox";
            return Err(self.error(place, key, problem, "leave the aliases out"));
        }
        Ok(())
    }

    fn app_named(
        &self,
        key: impl Display,
        name: &Spanned<String>,
        apps: &Apps,
    ) -> Result<Arc<App>, ConfigError> {
        apps.get(name.get_ref()).cloned().ok_or_else(|| {
            let problem = format!("there is no app {:?}", name.get_ref());
            let remedy = format!("add a table [app.{}] with its client_id", name.get_ref());
            self.error(&name.span(), key, problem, remedy)
        })
    }
}
