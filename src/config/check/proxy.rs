//! The proxy: an address that can make tunnels, and no password in it.

use toml::Spanned;
use url::Url;

use super::super::error::ConfigError;
use super::super::{Proxy, ProxyServer, raw};
use super::Checker;

impl Checker<'_> {
    pub(super) fn proxy(&self, written: Option<Spanned<raw::Proxy>>) -> Result<Proxy, ConfigError> {
        let Some(written) = written else { return Ok(Proxy::System) };
        let place = written.span();
        let refused = |problem: &str, remedy| self.error(&place, "proxy", problem, remedy);
        let (url, user, password) = match written.into_inner() {
            raw::Proxy::Word(word) if word == "none" => return Ok(Proxy::Never),
            raw::Proxy::Word(url) => (url, None, None),
            raw::Proxy::Server(raw::ProxyServer { url, user, password }) => (url, user, password),
        };
        // The URL is not repeated: it may have a password.
        let url = Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url =
            url.filter(Url::has_host).filter(|url| url.path() == "/" && url.query().is_none());
        let Some(url) = url else {
            let remedy = "write \"http://HOST:PORT\" or \"https://HOST:PORT\", or \"none\"";
            return Err(refused("it is no address of an HTTP proxy", remedy));
        };
        if !url.username().is_empty() || url.password().is_some() {
            let remedy = "write { url = \"http://HOST:PORT\", user = \"NAME\", password = { file = \"PATH\" } }";
            return Err(refused("a user name or password stands in the URL", remedy));
        }
        let user = match (user, password) {
            (None, None) => None,
            (Some(user), Some(password)) => {
                // RFC 7617 section 2.
                if user.is_empty() || user.contains(':') || user.chars().any(char::is_control) {
                    let remedy = "write it as the proxy's administrator gave it";
                    return Err(refused(
                        "user is empty or has a colon or control character",
                        remedy,
                    ));
                }
                let password = Spanned::new(place.clone(), password);
                Some((user, self.secret("proxy.password", password)?))
            }
            _ => {
                let remedy = "write both, or none of them";
                return Err(refused("user and password go together", remedy));
            }
        };
        Ok(Proxy::At(Box::new(ProxyServer { url, user })))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::{Config, Proxy, SecretSource};

    fn proxy(value: &str) -> Result<Proxy, String> {
        let text = format!("proxy = {value}\n");
        let config = Config::parse(Path::new("gatepost.toml"), &text);
        // The providers go by it, the built-in ones too.
        config.map(|config| config.proxy).map_err(|error| error.to_string())
    }

    #[test]
    fn proxies() {
        assert_eq!(Config::parse(Path::new("x"), "").unwrap().proxy, Proxy::System);
        assert_eq!(proxy("\"none\"").unwrap(), Proxy::Never);
        let Proxy::At(server) = proxy("\"http://proxy.contoso.com:3128\"").unwrap() else {
            panic!("a proxy")
        };
        assert_eq!(server.url.as_str(), "http://proxy.contoso.com:3128/");
        assert_eq!(server.user, None);
        let with = "{ url = \"https://p:8443\", user = \"u\", password = { env = \"PATH\" } }";
        let Proxy::At(server) = proxy(with).unwrap() else { panic!("a proxy") };
        assert_eq!(server.user, Some(("u".into(), SecretSource::Env("PATH".into()))));
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_no_password_is_repeated() {
        for (value, told) in [
            ("\"proxy.contoso.com:3128\"", "no address"),
            ("\"socks5://proxy:1080\"", "no address"),
            ("\"http://proxy/path\"", "no address"),
            ("\"\"", "no address"),
            ("\"http://u:s3cret@proxy:3128\"", "stands in the URL"),
            ("{ url = \"http://p\", user = \"u\" }", "together"),
            ("{ url = \"http://p\", user = \"a:b\", password = { env = \"PATH\" } }", "colon"),
            ("{ url = \"http://p\", user = \"u\", password = { env = \"NO_SUCH\" } }", "NO_SUCH"),
            ("{ url = \"http://p\", usr = \"u\" }", "proxy"),
            ("5", "proxy"),
        ] {
            let error = proxy(value).unwrap_err();
            assert!(error.contains(told) && error.contains("line 1"), "{value}: {error}");
            assert!(error.contains("hint:") && !error.contains("s3cret"), "{value}: {error}");
        }
    }
}
