//! Listeners: no two on one address, no password in plain text on a network by mistake.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use ipnet::IpNet;
use toml::Spanned;
use url::Host;

use super::super::error::{ConfigError, line_at};
use super::super::{CertificateFiles, ListenAddress, Listener, raw};
use super::{Checker, Providers};
use crate::vocabulary::{BareLf, Delivery, Protocol, TlsMode};

impl Checker<'_> {
    pub(super) fn listeners(
        &self,
        written: Vec<Spanned<raw::Listener>>,
        providers: &Providers,
    ) -> Result<Vec<Arc<Listener>>, ConfigError> {
        let mut listeners: Vec<Arc<Listener>> = Vec::new();
        for (index, listener) in written.into_iter().enumerate() {
            let (place, key) = (listener.span(), format!("listener[{index}]"));
            let listen = listener.get_ref().listen.span();
            let listener = self.listener(&key, &place, listener.into_inner(), providers)?;
            let clash = listeners.iter().find_map(|other| {
                let mut pairs = listener
                    .addresses
                    .iter()
                    .flat_map(|one| other.addresses.iter().map(move |two| (one, two)));
                pairs.find(|(one, two)| one.clashes_with(two)).map(|(one, _)| (one, other.line))
            });
            if let Some((address, line)) = clash {
                let problem = format!("{address} is taken by the listener of line {line}");
                let remedy = "give each listener an address or port of its own";
                return Err(self.error(&listen, format!("{key}.listen"), problem, remedy));
            }
            listeners.push(Arc::new(listener));
        }
        Ok(listeners)
    }

    fn listener(
        &self,
        key: &str,
        place: &Range<usize>,
        written: raw::Listener,
        providers: &Providers,
    ) -> Result<Listener, ConfigError> {
        let addresses = self.addresses(&format!("{key}.listen"), &written.listen)?;
        let on_lan = addresses.iter().find(|address| !address.is_loopback());
        if let (TlsMode::None, Some(address), false) =
            (written.tls, on_lan, written.allow_plaintext_lan)
        {
            let problem = format!("passwords would cross the network of {address} in plain text");
            let remedy = "set tls = \"starttls\" or \"implicit\" \
                          (or allow_plaintext_lan = true, where a device can't do TLS)";
            return Err(self.error(place, format!("{key}.tls"), problem, remedy));
        }
        let provider =
            self.named(&format!("{key}.provider"), place, written.provider, providers)?;
        let protocol = written.protocol;
        let Some(upstream) = provider.endpoint(protocol).cloned() else {
            let problem = format!("provider {:?} has no {protocol} server", provider.name);
            let remedy = format!("set {protocol} = \"HOST:PORT\" in [provider.{}]", provider.name);
            return Err(self.error(place, format!("{key}.protocol"), problem, remedy));
        };
        let certificate = match (written.certificate, written.private_key) {
            (None, None) => None,
            (Some(certificate), Some(private_key)) => Some(CertificateFiles {
                certificate: self.path(&certificate),
                private_key: self.path(&private_key),
            }),
            _ => {
                let problem = "certificate and private_key go together";
                let remedy = "set both, or neither for a self-signed certificate";
                return Err(self.error(place, format!("{key}.certificate"), problem, remedy));
            }
        };
        let names = self.names(key, &certificate, written.tls, written.names)?;
        let proxy_protocol =
            self.balancers(&format!("{key}.proxy_protocol"), written.proxy_protocol)?;
        let (delivery, bare_lf) =
            self.delivery(key, protocol, written.delivery, written.bare_lf)?;
        let line = line_at(self.text, place.start);
        Ok(Listener {
            protocol,
            addresses,
            tls: written.tls,
            provider,
            upstream,
            certificate,
            names,
            proxy_protocol,
            delivery,
            bare_lf,
            line,
        })
    }

    /// Names for the self-made certificate.
    fn names(
        &self,
        key: &str,
        certificate: &Option<CertificateFiles>,
        tls: TlsMode,
        written: Option<Spanned<Vec<String>>>,
    ) -> Result<Vec<String>, ConfigError> {
        let Some(written) = written else { return Ok(Vec::new()) };
        let key = format!("{key}.names");
        let error = |problem: String, remedy: &str| {
            Err(self.error(&written.span(), key.as_str(), problem, remedy))
        };
        if certificate.is_some() || tls == TlsMode::None {
            let why =
                if certificate.is_some() { "certificate has its own" } else { "there is no TLS" };
            let remedy = "leave it out: the names are for the self-made certificate";
            return error(format!("it means nothing here: {why}"), remedy);
        }
        let mut names = Vec::new();
        for text in written.get_ref() {
            match server_name(text) {
                Some(name) => names.push(name),
                None => {
                    let remedy = "write what clients have as their server: [\"mail.contoso.com\"]";
                    return error(
                        format!("{text:?} is neither a host name nor an address"),
                        remedy,
                    );
                }
            }
        }
        Ok(names)
    }

    /// Who may speak for others. Not everybody: any client could then come from any address.
    fn balancers(
        &self,
        key: &str,
        written: Option<Spanned<Vec<Spanned<String>>>>,
    ) -> Result<Vec<IpNet>, ConfigError> {
        let Some(written) = written else { return Ok(Vec::new()) };
        let error = |problem: String| {
            let remedy = "name the load balancers' own addresses, or leave it out";
            Err(self.error(&written.span(), key, problem, remedy))
        };
        let networks = written.get_ref().iter().map(|network| self.network(key, network));
        let networks = networks.collect::<Result<Vec<IpNet>, _>>()?;
        match networks.iter().find(|network| network.prefix_len() == 0) {
            _ if networks.is_empty() => error("the list is empty".into()),
            Some(network) => error(format!("{network} is everybody")),
            None => Ok(networks),
        }
    }

    /// Each is refused where it would mean nothing.
    fn delivery(
        &self,
        key: &str,
        protocol: Protocol,
        delivery: Option<Spanned<Delivery>>,
        bare_lf: Option<Spanned<BareLf>>,
    ) -> Result<(Delivery, BareLf), ConfigError> {
        if let (Some(delivery), true) = (&delivery, protocol != Protocol::Smtp) {
            let problem = format!("{protocol} delivers nothing");
            let remedy = "leave it out, or set it on a listener with protocol = \"smtp\"";
            return Err(self.error(&delivery.span(), format!("{key}.delivery"), problem, remedy));
        }
        let delivery = delivery.map_or(Delivery::default(), Spanned::into_inner);
        if let (Some(bare_lf), Delivery::Direct) = (&bare_lf, delivery) {
            let problem = "a direct listener changes nothing in a message";
            let remedy = "set delivery = \"spool\" beside it, or leave it out";
            return Err(self.error(&bare_lf.span(), format!("{key}.bare_lf"), problem, remedy));
        }
        Ok((delivery, bare_lf.map_or(BareLf::default(), Spanned::into_inner)))
    }

    fn addresses(
        &self,
        key: &str,
        listen: &Spanned<raw::OneOrMany>,
    ) -> Result<Vec<ListenAddress>, ConfigError> {
        let remedy = "write an IP address and port (\"127.0.0.1:1143\") or \"localhost:1143\"";
        let error = |problem: String| self.error(&listen.span(), key, problem, remedy);
        let mut addresses: Vec<ListenAddress> = Vec::new();
        for text in listen.get_ref().as_slice() {
            for address in ListenAddress::parse(text).map_err(error)? {
                if addresses.iter().any(|other| other.clashes_with(&address)) {
                    return Err(error(format!("{address} stands twice")));
                }
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(error("the list is empty".into()));
        }
        Ok(addresses)
    }
}

/// A host name or address as certificates have it: in lower case, other letters in ASCII (RFC 5890).
fn server_name(text: &str) -> Option<String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_canonical().to_string());
    }
    match Host::parse(text).ok()? {
        Host::Domain(name) => {
            let is_label = |label: &str| {
                let inside =
                    label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
                inside
                    && (1..=63).contains(&label.len())
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            };
            (name.len() <= 253 && name.split('.').all(is_label)).then_some(name)
        }
        // As odd as 0x7f.1: a person means something else.
        Host::Ipv4(_) | Host::Ipv6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::Config;

    #[test]
    fn names_are_host_names_or_addresses_of_the_self_made_certificate() {
        let names = |listener: &str, names: &str| {
            let text = format!(
                "[[listener]]\nprotocol = \"imap\"\nlisten = \"127.0.0.1:1\"\n{listener}\nnames = [{names}]\n"
            );
            let config = Config::parse(Path::new("gatepost.toml"), &text);
            config
                .map(|config| config.listeners[0].names.clone())
                .map_err(|error| error.to_string())
        };
        let implicit = "tls = \"implicit\"";
        let good = r#""Mail.Contoso.com", "scanner-gw", "10.1.2.3", "fd00::1", "bücher.example""#;
        let expected =
            ["mail.contoso.com", "scanner-gw", "10.1.2.3", "fd00::1", "xn--bcher-kva.example"];
        assert_eq!(names(implicit, good).unwrap(), expected);
        for bad in
            ["", "*.contoso.com", "a b", "a..b", "-a.example", "[::1]", "0x7f.1", "a_b", "mail:993"]
        {
            let error = names(implicit, &format!("{bad:?}")).unwrap_err();
            assert!(
                error.contains("listener[0].names") && error.contains("hint:"),
                "{bad}: {error}"
            );
        }
        for no_place in ["", "tls = \"implicit\"\ncertificate = \"a\"\nprivate_key = \"b\""] {
            let error = names(no_place, "\"mail.contoso.com\"").unwrap_err();
            assert!(error.contains("means nothing here"), "{error}");
        }
    }
}
