//! The address at which an administrator consents to an app for the whole tenant.

use url::{Url, form_urlencoded};

use super::{EntraError, Made, each, key};
use crate::config::{App, Config, Grant};
use crate::vocabulary::{Resource, Way};

/// What follows a resource to mean all that an app's registration asks of it.
const ALL: &str = "/.default";

/// Where to consent to one app.
#[derive(Debug)]
pub struct ConsentUrl {
    /// The app.
    pub app: String,
    /// What it is for.
    pub resource: Resource,
    /// Its tenant, as the configuration has it.
    pub tenant: String,
    /// The page where the browser ends.
    pub redirect_uri: String,
    /// The address.
    pub url: Url,
}

/// One for each app, or for the one that is named.
pub fn consent_urls(
    config: &Config,
    app: Option<&str>,
) -> Result<Made<Vec<ConsentUrl>>, EntraError> {
    let Made { made, left_out } = each(config, app, |app| {
        let mut urls = vec![consent_url(app, Resource::Mail, of_mail)?];
        if let Some(scopes) = graph_scopes(config, app) {
            urls.push(consent_url(app, Resource::Graph, |_| Ok(scopes.clone()))?);
        }
        Ok(urls)
    })?;
    Ok(Made { made: made.into_iter().flatten().collect(), left_out })
}

/// What people's sign-ins ask of Graph, where an account sends by it. What an app may send by itself is not consented
/// to, but given in Exchange by the script: for some mailboxes, not for all.
fn graph_scopes(config: &Config, app: &App) -> Option<String> {
    let by_graph = config.accounts.iter().filter(|account| {
        account.app.name == app.name && account.goes_by(Way::Graph) && app.grant.is_delegated()
    });
    let by_graph: Vec<_> = by_graph.collect();
    let shared = by_graph.iter().any(|account| account.signed_in_as.is_some());
    let mut scopes = Vec::new();
    for scope in app.scopes_of(Resource::Graph).iter().filter(|scope| scope.contains('/')) {
        scopes.push(scope.clone());
        if shared && (scope.ends_with("/Mail.Send") || scope.ends_with("/Mail.ReadWrite")) {
            scopes.push(format!("{scope}.Shared"));
        }
    }
    (!by_graph.is_empty() && !scopes.is_empty()).then(|| scopes.join(" "))
}

fn of_mail(app: &App) -> Result<String, EntraError> {
    let derived = || app.scopes.iter().find_map(|scope| all_of_resource(scope));
    let scope = app.provider.consent_scope.clone().or_else(derived);
    key(app, &scope, "consent_scope", "https://ps.outlook.com/.default").map(str::to_owned)
}

fn consent_url(
    app: &App,
    resource: Resource,
    scope: impl Fn(&App) -> Result<String, EntraError>,
) -> Result<ConsentUrl, EntraError> {
    if app.grant == Grant::ManagedIdentity {
        return Err(EntraError::Grant {
            app: app.name.clone(),
            grant: app.grant.name(),
            problem: "is not consented to in a browser",
            hint: "gatepost entra script gives the machine's identity its permissions",
        });
    }
    let example = "https://login.microsoftonline.com/{tenant}/v2.0/adminconsent";
    let template = key(app, &app.provider.consent_url, "consent_url", example)?;
    let scope = scope(app)?;
    let tenant: String = form_urlencoded::byte_serialize(app.tenant.as_bytes()).collect();
    let address = template.replace("{tenant}", &tenant);
    let mut url = Url::parse(&address)
        .map_err(|_| EntraError::NoUrl { app: app.name.clone(), url: address })?;
    let redirect_uri = app.redirect_uri.as_str().to_owned();
    url.query_pairs_mut()
        .append_pair("client_id", &app.client_id)
        .append_pair("redirect_uri", &redirect_uri)
        .append_pair("scope", &scope);
    let (app, tenant) = (app.name.clone(), app.tenant.clone());
    Ok(ConsentUrl { app, resource, tenant, redirect_uri, url })
}

/// `https://outlook.office.com/.default` of `https://outlook.office.com/SMTP.Send`; nothing of `offline_access`.
fn all_of_resource(scope: &str) -> Option<String> {
    let (resource, _) = scope.rsplit_once('/')?;
    Some(format!("{resource}{ALL}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn urls(text: &str, app: Option<&str>) -> Result<Made<Vec<ConsentUrl>>, EntraError> {
        consent_urls(&Config::parse(Path::new("gatepost.toml"), text).unwrap(), app)
    }

    #[test]
    fn tenant_redirect_and_scope() {
        let text = r#"
[provider.own]
token_url   = "https://login.example/{tenant}/token"
consent_url = "https://login.example/{tenant}/consent?prompt=1"
scopes      = ["offline_access", "https://mail.example/IMAP", "https://mail.example/SMTP"]
[app.people]
provider     = "own"
tenant       = "a/../b?c"
client_id    = "an-id&scope=x"
redirect_uri = "http://localhost:8080"
[[account]]
mailbox = "jane@contoso.com"
app     = "people"
"#;
        let urls = urls(text, None).unwrap();
        let expected = "https://login.example/a%2F..%2Fb%3Fc/consent?prompt=1&client_id=an-id%26scope%3Dx\
             &redirect_uri=http%3A%2F%2Flocalhost%3A8080&scope=https%3A%2F%2Fmail.example%2F.default";
        assert_eq!(urls.made[0].url.as_str(), expected);
        assert!(urls.left_out.is_empty());
    }

    #[test]
    fn what_has_none_says_so() {
        let text = r#"
[app.google]
provider  = "gmail"
client_id = "x"
[app.machine]
grant = "managed_identity"
[[account]]
mailbox = "jane@gmail.com"
app     = "google"
[[account]]
mailbox = "support@contoso.com"
app     = "machine"
"#;
        let error = urls(text, Some("google")).unwrap_err().to_string();
        assert!(error.contains("consent_url") && error.contains("[provider.gmail]"), "{error}");
        let error = urls(text, Some("machine")).unwrap_err().to_string();
        assert!(error.contains("managed_identity") && error.contains("entra script"), "{error}");
        let error = urls(text, Some("contoso")).unwrap_err().to_string();
        assert!(error.contains("google, machine"), "{error}");
        assert!(urls(text, None).unwrap_err().to_string().contains("app google"));
        assert!(matches!(urls("", None), Err(EntraError::NoAccount)));
    }

    #[test]
    fn people_who_send_by_graph_have_a_second_one() {
        let text = r#"
[app.people]
client_id = "x"
[app.robot]
tenant    = "contoso.com"
client_id = "y"
grant     = "client_credentials"
client_secret = { env = "NOT_SET" }
[[account]]
mailbox = "jane@contoso.com"
app     = "people"
via     = ["graph"]
[[account]]
mailbox = "scan@contoso.com"
app     = "robot"
via     = ["graph"]
"#;
        let file = Path::new("gatepost.toml");
        let config = Config::parse(file, &text.replace("env = \"NOT_SET\"", "env = \"PATH\""));
        let urls = consent_urls(&config.unwrap(), None).unwrap().made;
        let kinds: Vec<_> = urls.iter().map(|url| (url.app.as_str(), url.resource)).collect();
        let (mail, graph) = (Resource::Mail, Resource::Graph);
        assert_eq!(kinds, [("people", mail), ("people", graph), ("robot", mail)]);
        let scope = "scope=https%3A%2F%2Fgraph.microsoft.com%2FMail.Send+https%3A%2F%2Fgraph.microsoft.com%2FMail.ReadWrite";
        assert!(urls[1].url.as_str().ends_with(scope), "{}", urls[1].url);
    }
}
