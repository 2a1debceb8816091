//! gatepost's own certificate, for listeners that have none: one for all of them, signed by itself.
//!
//! Clients are told to trust this very certificate, so it is made once and then stays, until a person has it made
//! anew.
//!
//! Invariant: the key never leaves the state folder, and stays when the certificate is made anew.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::DnsName;

use super::tls::config_error;
use super::{Certificate, CertificateSource, TlsError};
use crate::config::{CertificateFiles, Listener};
use crate::private_file;

/// Name of the certificate in the state folder, for people to import into their clients.
const CERTIFICATE: &str = "listener.pem";
/// Name of its key.
const KEY: &str = "listener.key";

/// This machine's addresses that a certificate names at most. A machine with containers may have any number, and the
/// whole certificate goes out in each handshake.
const MOST_ADDRESSES: usize = 16;

/// The names of a certificate of gatepost's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNames {
    /// Those that the configuration asks for: without them clients can't be set as it says.
    pub asked: Vec<String>,
    /// What this machine is called besides.
    pub found: Vec<String>,
    /// Why this machine's addresses are not among them, and what to do about it.
    pub unknown: Option<String>,
}

impl OwnNames {
    /// For these listeners on this machine.
    pub fn of(listeners: &[Arc<Listener>]) -> Self {
        let mut names = Self::asked_by(listeners);
        let addresses = || listeners.iter().flat_map(|listener| &listener.addresses);
        let all_of = |any: IpAddr| addresses().any(|address| address.address.ip() == any);
        let (ipv4, ipv6) =
            (all_of(Ipv4Addr::UNSPECIFIED.into()), all_of(Ipv6Addr::UNSPECIFIED.into()));
        let here = match ipv4 || ipv6 {
            true => machine_addresses(),
            false => Ok(Vec::new()),
        };
        names.unknown = here.as_ref().err().map(unknown);
        let reached = here
            .unwrap_or_default()
            .into_iter()
            .filter(|ip| if ip.is_ipv4() { ipv4 } else { ipv6 });
        let reached = reached.take(MOST_ADDRESSES).map(|ip| ip.to_string());
        for name in machine_names().into_iter().chain(reached) {
            if !names.asked.contains(&name) && !names.found.contains(&name) {
                names.found.push(name);
            }
        }
        names
    }

    /// The same without what this machine is called.
    pub fn asked_by(listeners: &[Arc<Listener>]) -> Self {
        let mut asked = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
        let addresses = listeners.iter().flat_map(|listener| &listener.addresses);
        let addresses = addresses.map(|address| address.address.ip().to_canonical());
        let addresses = addresses.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
        let given = listeners.iter().flat_map(|listener| listener.names.iter().cloned());
        for name in addresses.chain(given) {
            if !asked.contains(&name) {
                asked.push(name);
            }
        }
        Self { asked, ..Self::default() }
    }

    /// Those that are asked for, and that `certificate` does not have.
    pub fn missing_in(&self, certificate: &Certificate) -> Vec<&str> {
        let has = |name: &&String| !certificate.names.contains(name);
        self.asked.iter().filter(has).map(String::as_str).collect()
    }
}

impl CertificateSource {
    /// gatepost's own, in `state_dir`.
    pub fn own(state_dir: &Path) -> Self {
        let files = CertificateFiles {
            certificate: state_dir.join(CERTIFICATE),
            private_key: state_dir.join(KEY),
        };
        Self { files, self_made: true }
    }

    /// Makes gatepost's own if there is none yet.
    pub fn make_once(&self, names: impl FnOnce() -> OwnNames) -> Result<(), TlsError> {
        if !self.files.certificate.exists() {
            private_file::create(&self.files.certificate, self.make(&names())?.as_bytes())?;
        }
        Ok(())
    }

    /// Makes gatepost's own anew, for the key that there is.
    pub fn make_anew(&self, names: &OwnNames) -> Result<(), TlsError> {
        let made = self.make(names)?;
        let draft = self.files.certificate.with_extension(format!("{:08x}", fastrand::u32(..)));
        private_file::create(&draft, made.as_bytes())?;
        Ok(std::fs::rename(&draft, &self.files.certificate)
            .map_err(|why| private_file::PrivateFileError::Io { path: draft, why })?)
    }

    /// The key first, and the certificate from the key that is there: another process may do the same.
    fn make(&self, names: &OwnNames) -> Result<String, TlsError> {
        let key = &self.files.private_key;
        let pair = rcgen::KeyPair::generate().map_err(config_error)?;
        private_file::create(key, pair.serialize_pem().as_bytes())?;
        let pem = String::from_utf8(private_file::read(key)?).map_err(config_error)?;
        let pair = rcgen::KeyPair::from_pem(&pem).map_err(config_error)?;
        let names: Vec<String> = names.asked.iter().chain(&names.found).cloned().collect();
        let made = parameters(names)?.self_signed(&pair).map_err(config_error)?;
        Ok(made.pem())
    }
}

fn parameters(names: Vec<String>) -> Result<rcgen::CertificateParams, TlsError> {
    let mut params = rcgen::CertificateParams::new(names).map_err(config_error)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "gatepost");
    // A server's, and no authority's: whoever trusts it trusts it for this server alone.
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    // Devices without a battery begin in a year long past. And Apple's systems refuse certificates of more than 825
    // days that begin after 1 July 2019, also those that people trust by themselves (HT210176).
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    // A service that nobody watches must not stop for its own certificate.
    params.not_after = rcgen::date_time_ymd(2045, 1, 1);
    Ok(params)
}

/// By which names people reach this machine: its host name, that with its domain, that of multicast DNS (RFC 6762).
fn machine_names() -> Vec<String> {
    let Some(host) = gethostname::gethostname().into_string().ok().map(|host| host.to_lowercase())
    else {
        return Vec::new();
    };
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut names = vec![host.clone()];
    names.extend(full_name(&host, &hosts));
    if !host.contains('.') {
        names.push(format!("{host}.local"));
    }
    names.retain(|name| DnsName::try_from(name.as_str()).is_ok());
    names
}

/// The name of `host` with its domain, as the table of hosts has it. The DNS is not asked: a start would wait for it.
fn full_name(host: &str, hosts: &str) -> Option<String> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let lines = lines.map(|line| line.split_whitespace().skip(1).map(str::to_lowercase));
    let mut ours =
        lines.map(Iterator::collect::<Vec<_>>).filter(|names| names.iter().any(|n| n == host));
    ours.find_map(|names| {
        names
            .into_iter()
            .find(|name| name.strip_prefix(host).is_some_and(|rest| rest.starts_with('.')))
    })
}

/// This machine's addresses that others can reach.
fn machine_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs()?;
    let reached = interfaces.iter().filter(|one| !one.is_loopback() && !one.is_link_local());
    Ok(reached.map(if_addrs::Interface::ip).collect())
}

/// Linux tells them by a netlink socket (rtnetlink(7)), which a unit or a container may forbid.
fn unknown(error: &io::Error) -> String {
    format!(
        "this machine's addresses can't be found ({error}), and are not in the certificate: clients that have one as \
         their server refuse it\nhint: write them as names = [\"ADDRESS\"] of the [[listener]] (on Linux, allow \
         AF_NETLINK in RestrictAddressFamilies=), then gatepost certificate --renew"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn listeners(more: &str) -> Vec<Arc<Listener>> {
        let text = format!(
            "[[listener]]\nprotocol = \"imap\"\nlisten = \"192.0.2.1:993\"\ntls = \"implicit\"\n{more}"
        );
        Config::parse(Path::new("gatepost.toml"), &text).unwrap().listeners
    }

    #[test]
    fn names_that_are_asked_for_and_those_of_the_machine() {
        let names = OwnNames::of(&listeners("names = [\"mail.contoso.com\", \"192.0.2.7\"]\n"));
        let asked = ["localhost", "127.0.0.1", "::1", "192.0.2.1", "mail.contoso.com", "192.0.2.7"];
        assert_eq!(names.asked, asked);
        let host = gethostname::gethostname().into_string().unwrap().to_lowercase();
        assert!(names.asked.contains(&host) || names.found.contains(&host), "{names:?}");
        // Nobody listens on all addresses.
        assert!(names.found.iter().all(|name| name.parse::<IpAddr>().is_err()), "{names:?}");
        let any =
            "[[listener]]\nprotocol = \"pop3\"\nlisten = \"0.0.0.0:995\"\ntls = \"implicit\"\n";
        let found = OwnNames::of(&listeners(any)).found;
        for ip in machine_addresses().unwrap().iter().filter(|ip| ip.is_ipv4()).take(MOST_ADDRESSES)
        {
            assert!(found.contains(&ip.to_string()), "{ip} is missing in {found:?}");
        }
    }

    #[test]
    fn addresses_that_are_not_known_are_told() {
        let told = unknown(&io::Error::from_raw_os_error(97));
        let (what, hint) = told.split_once("\nhint: ").unwrap();
        assert!(what.contains("os error 97") && hint.contains("names = "), "{told}");
    }

    #[test]
    fn the_table_of_hosts_knows_the_domain() {
        let hosts =
            "127.0.0.1 localhost\n# 127.0.1.1 pi.old pi\n127.0.1.1\tpi.Lab.example pi # here\n";
        assert_eq!(full_name("pi", hosts).as_deref(), Some("pi.lab.example"));
        assert_eq!(full_name("p", hosts), None);
        assert_eq!(full_name("localhost", hosts), None);
    }

    #[test]
    fn made_once_and_anew_with_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let source = CertificateSource::own(folder.path());
        let names = |name: &str| OwnNames { asked: vec![name.into()], ..OwnNames::default() };
        source.make_once(|| names("one.example")).unwrap();
        source.make_once(|| panic!("it is there")).unwrap();
        let first = source.certificate().unwrap();
        assert_eq!(first.names, ["one.example"]);
        assert_eq!(names("two.example").missing_in(&first), ["two.example"]);
        let key = std::fs::read(&source.files.private_key).unwrap();
        source.make_anew(&names("two.example")).unwrap();
        assert_eq!(source.certificate().unwrap().names, ["two.example"]);
        assert_eq!(std::fs::read(&source.files.private_key).unwrap(), key);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    }
}
