//! The PowerShell script: an introduction, tables of what the configuration says, and `script.ps1`, which does
//! it.
//!
//! Invariant: what the configuration says stands in the tables alone (and, for people, in the introduction), each
//! name as a [`literal`]; the code is the same for all.

use std::fmt::Write;
use std::sync::Arc;

use uuid::Uuid;

use super::literal::{comment, list, literal};
use super::{EntraError, Made, each, key};
use crate::config::{Account, App, Config, Credential, Grant};
use crate::vocabulary::{Protocol, Way};

/// What does the work.
const CODE: &str = include_str!("script.ps1");

/// Entra's words in place of a tenant that is not named.
const ANY_TENANT: [&str; 3] = ["organizations", "common", "consumers"];

/// What one app needs.
struct Setup<'a> {
    app: &'a App,
    graph: &'a str,
    exchange: &'a str,
    tenant: Option<&'a str>,
    protocols: Vec<Protocol>,
    accounts: Vec<&'a Account>,
}

/// The script for the apps of a configuration, or for the one that is named.
pub fn script(config: &Config, app: Option<&str>) -> Result<Made<String>, EntraError> {
    let Made { made: setups, left_out } = each(config, app, |app| Setup::of(config, app))?;
    let mut text = introduction(config, &setups);
    text.push_str(&cloud(&setups)?);
    text.push_str(&apps(&setups));
    text.push_str(&mailboxes(&setups));
    text.push_str(CODE);
    Ok(Made { made: text, left_out })
}

impl<'a> Setup<'a> {
    fn of(config: &'a Config, app: &'a App) -> Result<Self, EntraError> {
        if app.grant == Grant::JwtBearer {
            return Err(EntraError::Grant {
                app: app.name.clone(),
                grant: app.grant.name(),
                problem: "has no app registration in Entra",
                hint: "permit the service account where its provider keeps it",
            });
        }
        let provider = &app.provider;
        let graph = key(app, &provider.graph_environment, "graph_environment", "Global")?;
        let exchange =
            key(app, &provider.exchange_environment, "exchange_environment", "O365Default")?;
        let serves = |protocol: &Protocol| {
            let mut listeners = config.listeners.iter();
            listeners.any(|listener| {
                listener.protocol == *protocol && listener.provider.shares_tokens_with(provider)
            })
        };
        let protocols: Vec<_> = Protocol::ALL.into_iter().filter(serves).collect();
        if protocols.is_empty() {
            let (app, provider) = (app.name.clone(), provider.name.clone());
            return Err(EntraError::NoListener { app, provider });
        }
        let tenant = app.tenant.as_str();
        let named = !ANY_TENANT.iter().any(|word| word.eq_ignore_ascii_case(tenant));
        let accounts = config.accounts.iter().map(Arc::as_ref);
        let accounts = accounts.filter(|account| account.app.name == app.name).collect();
        Ok(Self { app, graph, exchange, tenant: named.then_some(tenant), protocols, accounts })
    }

    /// The client id, if it is one and not yet to be filled in.
    fn client_id(&self) -> String {
        let id = Uuid::try_parse(&self.app.client_id).ok().filter(|id| !id.is_nil());
        id.map(|id| id.to_string()).unwrap_or_default()
    }

    /// What the app may by itself.
    fn roles(&self) -> Vec<&'static str> {
        if self.app.grant.is_delegated() {
            return Vec::new();
        }
        let role = |protocol: &Protocol| match protocol {
            Protocol::Imap => "IMAP.AccessAsApp",
            Protocol::Pop3 => "POP.AccessAsApp",
            Protocol::Smtp => "SMTP.SendAsApp",
        };
        self.protocols.iter().map(role).collect()
    }

    /// What it may for a person.
    fn scopes(&self) -> Vec<&'static str> {
        if !self.app.grant.is_delegated() {
            return Vec::new();
        }
        let scope = |protocol: &Protocol| match protocol {
            Protocol::Imap => "IMAP.AccessAsUser.All",
            Protocol::Pop3 => "POP.AccessAsUser.All",
            Protocol::Smtp => "SMTP.Send",
        };
        // Without the last there are no refresh tokens.
        self.protocols.iter().map(scope).chain(["offline_access"]).collect()
    }

    /// The same for sending by Microsoft Graph, where an account does.
    fn graph_scopes(&self) -> Vec<&'static str> {
        let mut scopes = Vec::new();
        if !self.app.grant.is_delegated() || !self.sends_by_graph(|_| true) {
            return scopes;
        }
        scopes.extend(["Mail.Send", "Mail.ReadWrite"]);
        if self.sends_by_graph(|account| !self.person(account).is_empty()) {
            scopes.extend(["Mail.Send.Shared", "Mail.ReadWrite.Shared"]);
        }
        scopes
    }

    /// What the app may do by itself in Graph: Exchange's roles for applications, which are given for some mailboxes.
    /// A permission in Entra is for all of the tenant's.
    fn graph_roles(&self) -> Vec<&'static str> {
        match !self.app.grant.is_delegated() && self.sends_by_graph(|_| true) {
            true => vec!["Application Mail.Send", "Application Mail.ReadWrite"],
            false => Vec::new(),
        }
    }

    fn sends_by_graph(&self, which: impl Fn(&'a Account) -> bool) -> bool {
        let mut accounts = self.accounts.iter();
        accounts.any(|account| account.goes_by(Way::Graph) && which(account))
    }

    /// Who opens somebody else's mailbox.
    fn person(&self, account: &'a Account) -> &'a str {
        let person = account.signed_in_as.as_deref().unwrap_or_default();
        let own = person.eq_ignore_ascii_case(&account.mailbox);
        if self.app.grant.is_delegated() && !own { person } else { "" }
    }
}

fn introduction(config: &Config, setups: &[Setup]) -> String {
    let mut mailboxes = String::new();
    for setup in setups {
        for account in &setup.accounts {
            let (mailbox, app) = (comment(&account.mailbox), comment(&setup.app.name));
            let _ = write!(mailboxes, "    {mailbox} (app {app}");
            let person = setup.person(account);
            if !person.is_empty() {
                let _ = write!(mailboxes, ", opened by {}", comment(person));
            }
            mailboxes.push_str(")\n");
        }
    }
    format!(
        r#"<#
.SYNOPSIS
Prepares Entra and Exchange Online for gatepost.

.DESCRIPTION
"gatepost entra script" wrote it for the configuration

    {file}

and these mailboxes:

{mailboxes}
It looks at each thing that they need, changes what is missing and nothing else, and checks all of it at the
end: in Entra the app registration with its permissions, the enterprise application and the consent; in
Exchange the service principal, the permissions on exactly these mailboxes, and their protocols.
It can be run again at any time, and has to be when the configuration gets another mailbox.

Run it in PowerShell 7 or Windows PowerShell 5.1, as an Application Administrator who is also an Exchange
Administrator. It needs two modules:

    Install-Module Microsoft.Graph.Applications, ExchangeOnlineManagement -Scope CurrentUser

.PARAMETER NewSecret
Makes a client secret for each app that has one in the configuration, and shows it once.

.PARAMETER IdentityObjectId
The object id of a managed identity that has no client id: in the portal, the virtual machine, Identity.

.EXAMPLE
./gatepost.ps1 -WhatIf

Shows what it would change, and changes nothing.
#>
#Requires -Version 5.1
[CmdletBinding(SupportsShouldProcess)]
param(
    [switch] $NewSecret,
    [string] $IdentityObjectId = ''
)

# ---- What the configuration says -----------------------------------------------------------------------

"#,
        file = comment(&config.file.display().to_string()),
    )
}

/// The one tenant, in its cloud.
fn cloud(setups: &[Setup]) -> Result<String, EntraError> {
    let mut tenant: Option<&Setup> = None;
    for setup in setups {
        let Some(first) = setups.first() else { continue };
        let one = tenant.unwrap_or(first);
        let elsewhere = (one.graph, one.exchange) != (setup.graph, setup.exchange);
        let another = matches!((one.tenant, setup.tenant), (Some(one), Some(other))
            if !one.eq_ignore_ascii_case(other));
        if elsewhere || another {
            let (one, other) = (one.app.name.clone(), setup.app.name.clone());
            return Err(EntraError::ManyTenants { one, other });
        }
        if setup.tenant.is_some() {
            tenant = Some(setup);
        }
    }
    let Some(setup) = tenant.or(setups.first()) else { return Ok(String::new()) };
    let portal = setup.app.provider.portal.as_deref().unwrap_or("the portal of Entra");
    Ok(format!(
        "# The cloud, as Connect-MgGraph and Connect-ExchangeOnline name it.\n\
         $Cloud = @{{\n    Graph    = {}\n    Exchange = {}\n    Portal   = {}\n}}\n\n\
         # The tenant; '' is that of whoever signs in.\n\
         $Tenant = {}\n\n",
        literal(setup.graph),
        literal(setup.exchange),
        literal(portal),
        literal(setup.tenant.unwrap_or_default()),
    ))
}

fn apps(setups: &[Setup]) -> String {
    let mut text = String::from(
        "# The app registrations. One without a client id is found by its title, or made.\n\
         # Roles are what it may by itself, scopes what it may for a person; Graph's are for sending by it.\n\
         $Apps = @(\n",
    );
    for setup in setups {
        let app = setup.app;
        let credential = match &app.credential {
            Some(Credential::Secret(_)) => "client_secret",
            Some(Credential::Certificate(_)) => "client_certificate",
            Some(Credential::FederatedToken(_)) => "federated_token",
            Some(Credential::ServiceAccount(_)) | None => "",
        };
        let fields = [
            ("Name", literal(&app.name)),
            ("Title", literal(&format!("gatepost ({})", app.name))),
            ("ClientId", literal(&setup.client_id())),
            ("Grant", literal(app.grant.name())),
            ("Credential", literal(credential)),
            ("RedirectUri", literal(app.redirect_uri.as_str())),
            ("Protocols", list(setup.protocols.iter().map(|protocol| protocol.name()))),
            ("Roles", list(setup.roles())),
            ("Scopes", list(setup.scopes())),
            ("GraphRoles", list(setup.graph_roles())),
            ("GraphScopes", list(setup.graph_scopes())),
        ];
        text.push_str("    @{\n");
        for (name, value) in fields {
            let _ = writeln!(text, "        {name:<11} = {value}");
        }
        text.push_str("    }\n");
    }
    text.push_str(")\n\n");
    text
}

fn mailboxes(setups: &[Setup]) -> String {
    let mut text = String::from(
        "# '*@DOMAIN' stands for all mailboxes of a domain. The person is who opens somebody else's mailbox.\n\
         $Mailboxes = @(\n",
    );
    for setup in setups {
        for account in &setup.accounts {
            let _ = writeln!(
                text,
                "    @{{ App = {}; Mailbox = {}; Person = {}; Graph = {} }}",
                literal(&setup.app.name),
                literal(&account.mailbox),
                literal(setup.person(account)),
                literal(if account.goes_by(Way::Graph) { "yes" } else { "" }),
            );
        }
    }
    text.push_str(")\n\n");
    text
}
