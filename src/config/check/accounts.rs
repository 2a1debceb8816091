//! App registrations, and the accounts that name them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;

use super::super::error::ConfigError;
use super::super::{Account, App, Grant, raw};
use super::{ANY_TENANT, Apps, Checker, Providers, Secrets};
use crate::secret::Secret;

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
        written: raw::App,
        providers: &Providers,
    ) -> Result<App, ConfigError> {
        let key = |key: &str| format!("app.{name}.{key}");
        let provider = self.named(&key("provider"), place, written.provider, providers)?;
        if let Some(certificate) = &written.client_certificate {
            let problem = "this version authenticates apps by a client secret alone";
            let remedy = "use client_secret = { file = \"…\" }";
            return Err(self.error(
                &certificate.span(),
                key("client_certificate"),
                problem,
                remedy,
            ));
        }
        let app_only = written.grant == Grant::ClientCredentials;
        if app_only && written.client_secret.is_none() {
            let problem = "grant \"client_credentials\" needs a secret";
            let remedy = "add client_secret = { env = \"NAME\" } or { file = \"PATH\" }";
            return Err(self.error(place, key("client_secret"), problem, remedy));
        }
        let tenant = match &written.tenant {
            Some(tenant) => self.clean(&key("tenant"), tenant)?,
            None if app_only && provider.token_url.contains("{tenant}") => {
                let problem = "grant \"client_credentials\" needs the tenant";
                let remedy = "add tenant = \"YOURS.onmicrosoft.com\" or the directory (tenant) id";
                return Err(self.error(place, key("tenant"), problem, remedy));
            }
            None => ANY_TENANT.to_owned(),
        };
        let token_url = Spanned::new(place.clone(), provider.token_url.clone());
        let default_scopes = if app_only { &provider.app_scopes } else { &provider.scopes };
        Ok(App {
            name: name.to_owned(),
            token_url: self.url(&key("tenant"), &token_url, &tenant)?,
            client_id: self.clean(&key("client_id"), &written.client_id)?,
            client_secret: self.secret(&key("client_secret"), written.client_secret)?,
            grant: written.grant,
            scopes: written.scopes.map_or_else(|| default_scopes.clone(), Spanned::into_inner),
            provider,
        })
    }

    fn secret(
        &self,
        key: &str,
        written: Option<Spanned<raw::SecretSource>>,
    ) -> Result<Option<Secret<String>>, ConfigError> {
        let Some(written) = written else { return Ok(None) };
        let place = written.span();
        let remedy = "write { env = \"NAME\" } or { file = \"PATH\" }";
        let error = |problem: String| self.error(&place, key, problem, remedy);
        let source = written.into_inner();
        let secret = match (source.env, source.file) {
            (Some(_), None) | (None, Some(_)) if self.secrets == Secrets::Leave => return Ok(None),
            (Some(name), None) => std::env::var(&name)
                .map_err(|_| error(format!("the environment has no variable {name}")))?,
            (None, Some(file)) => {
                let file = self.path(&file);
                std::fs::read_to_string(&file)
                    .map_err(|cause| error(format!("{}: {cause}", file.display())))?
            }
            _ => return Err(error("it takes one of env and file".into())),
        };
        // A file made by an editor or by echo ends with a line end that is not the secret's.
        let secret = Secret::new(secret.trim_end_matches(['\r', '\n']).to_owned());
        if secret.expose().is_empty() {
            return Err(error("the secret is empty".into()));
        }
        Ok(Some(secret))
    }

    pub(super) fn accounts(
        &self,
        written: Vec<Spanned<raw::Account>>,
        apps: &Apps,
    ) -> Result<Vec<Arc<Account>>, ConfigError> {
        let mut accounts: Vec<Arc<Account>> = Vec::new();
        for (index, account) in written.into_iter().enumerate() {
            let key = |key: &str| format!("account[{index}].{key}");
            let account = account.into_inner();
            let mut names = vec![(key("mailbox"), &account.mailbox)];
            names.extend(account.aliases.iter().map(|alias| (key("aliases"), alias)));
            for (key, name) in names {
                let taken = accounts.iter().find(|other| other.answers_to(name.get_ref()));
                if let Some(other) = taken {
                    let problem = format!("{:?} means {} already", name.get_ref(), other.mailbox);
                    let remedy = "give each account names of its own";
                    return Err(self.error(&name.span(), key, problem, remedy));
                }
            }
            let aliases = account.aliases.iter().map(|alias| self.clean(&key("aliases"), alias));
            let signed_in_as = account.signed_in_as.as_ref();
            accounts.push(Arc::new(Account {
                mailbox: self.clean(&key("mailbox"), &account.mailbox)?,
                aliases: aliases.collect::<Result<_, _>>()?,
                app: self.app_named(&key("app"), &account.app, apps)?,
                signed_in_as: signed_in_as
                    .map(|person| self.clean(&key("signed_in_as"), person))
                    .transpose()?,
            }));
        }
        Ok(accounts)
    }

    fn app_named(
        &self,
        key: &str,
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
