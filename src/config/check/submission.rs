//! Devices, senders, limits, the spool: what the mail on its way out is held to.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use toml::Spanned;

use super::super::error::{ConfigError, line_at};
use super::super::{Account, Config, Device, Limits, SenderRule, SpoolSettings, raw};
use super::Checker;
use crate::vocabulary::Way;

/// The widest networks that a device may have without `i_know`: one subnet, as offices have them.
const WIDEST_IPV4: u8 = 24;
const WIDEST_IPV6: u8 = 64;

impl Checker<'_> {
    pub(super) fn devices(
        &self,
        written: Vec<Spanned<raw::Device>>,
        config: &Config,
    ) -> Result<Vec<Arc<Device>>, ConfigError> {
        let mut devices: Vec<Arc<Device>> = Vec::new();
        for (index, device) in written.into_iter().enumerate() {
            let (key, place) = (format!("device[{index}]"), device.span());
            let device = self.device(&key, &place, device.into_inner(), config)?;
            if let Some(other) = devices.iter().find(|other| other.name == device.name) {
                let problem =
                    format!("{:?} is the device of line {} already", device.name, other.line);
                let remedy = "give each device a name of its own";
                return Err(self.error(&place, format!("{key}.name"), problem, remedy));
            }
            devices.push(Arc::new(device));
        }
        Ok(devices)
    }

    fn device(
        &self,
        key: &str,
        place: &Range<usize>,
        written: raw::Device,
        config: &Config,
    ) -> Result<Device, ConfigError> {
        let key = |name: &str| format!("{key}.{name}");
        let networks = written
            .networks
            .iter()
            .map(|network| self.device_network(&key("networks"), network, written.i_know));
        let networks = networks.collect::<Result<Vec<_>, _>>()?;
        if networks.is_empty() {
            let remedy = "write the device's address, as in [\"192.168.10.21/32\"]";
            return Err(self.error(place, key("networks"), "the list is empty", remedy));
        }
        let mailbox = self.clean(key("mailbox"), &written.mailbox)?;
        let Some(mut account) = config.account(&mailbox) else {
            let problem = format!("there is no account for {mailbox:?}");
            let remedy = "add an [[account]] with this mailbox";
            return Err(self.error(&written.mailbox.span(), key("mailbox"), problem, remedy));
        };
        if let Some(sender) = self.sender(key("sender"), written.sender)? {
            account = Arc::new(Account { sender, ..Account::clone(&account) });
        }
        let recipients = written.recipients.map(|recipients| {
            let recipients = recipients.iter();
            recipients.map(|one| self.clean(key("recipients"), one)).collect::<Result<_, _>>()
        });
        Ok(Device {
            name: self.label(&key("name"), &written.name)?,
            networks,
            account,
            recipients: recipients.transpose()?,
            size: self.size(&key("size"), written.size)?,
            rate: written.rate.filter(|rate| *rate > 0),
            line: line_at(self.text, place.start),
        })
    }

    /// For people: spaces are welcome, what could forge a log line is not.
    fn label(&self, key: &str, written: &Spanned<String>) -> Result<String, ConfigError> {
        let text = written.get_ref().trim();
        if text.is_empty() || text.chars().any(char::is_control) {
            let problem = format!("{text:?} is empty or has a control character");
            return Err(self.error(&written.span(), key, problem, "write what people call it"));
        }
        Ok(text.to_owned())
    }

    /// Not by mistake one from which many could send.
    fn device_network(
        &self,
        key: &str,
        written: &Spanned<String>,
        i_know: bool,
    ) -> Result<IpNet, ConfigError> {
        let network = self.network(key, written)?;
        let widest = if matches!(network, IpNet::V4(_)) { WIDEST_IPV4 } else { WIDEST_IPV6 };
        if network.prefix_len() < widest && !i_know {
            let problem = format!(
                "everybody in {network} could send without a password: it is wider than /{widest}"
            );
            let remedy = "name the devices' own addresses, or set i_know = true on this device";
            return Err(self.error(&written.span(), key, problem, remedy));
        }
        Ok(network)
    }

    pub(super) fn sender(
        &self,
        key: impl Display,
        written: Option<Spanned<raw::Sender>>,
    ) -> Result<Option<SenderRule>, ConfigError> {
        let Some(written) = written else { return Ok(None) };
        let place = written.span();
        let remedy = "write \"keep\", \"mailbox\", or a table of addresses, where \"*@DOMAIN\" and \"*\" stand for many";
        let error = |problem: String| self.error(&place, &key, problem, remedy);
        match written.into_inner() {
            raw::Sender::Word(word) if word == "keep" => Ok(Some(SenderRule::Keep)),
            raw::Sender::Word(word) if word == "mailbox" => Ok(Some(SenderRule::Mailbox)),
            raw::Sender::Word(word) => Err(error(format!("{word:?} means nothing here"))),
            raw::Sender::Map(map) => {
                let odd = |text: &str| text.chars().any(|c| c.is_control() || c.is_whitespace());
                if let Some((from, to)) =
                    map.iter().find(|(from, to)| odd(from) || odd(to) || !to.contains('@'))
                {
                    return Err(error(format!("{from:?} = {to:?} is no pair of addresses")));
                }
                let lower = map.into_iter().map(|(from, to)| (from.to_lowercase(), to));
                Ok(Some(SenderRule::Map(lower.collect::<BTreeMap<_, _>>())))
            }
        }
    }

    pub(super) fn via(
        &self,
        key: impl Display,
        written: Option<Spanned<Vec<Way>>>,
    ) -> Result<Vec<Way>, ConfigError> {
        let Some(written) = written else { return Ok(vec![Way::Smtp]) };
        let twice = |ways: &[Way]| matches!(ways, [one, two, ..] if one == two);
        if written.get_ref().is_empty() || twice(written.get_ref()) || written.get_ref().len() > 2 {
            let problem = "it names no way, or one twice";
            let remedy = "write [\"smtp\"], [\"graph\"] or [\"smtp\", \"graph\"]";
            return Err(self.error(&written.span(), key, problem, remedy));
        }
        Ok(written.into_inner())
    }

    /// `0` is no limit.
    pub(super) fn limits(
        &self,
        key: impl Display,
        written: &raw::Limits,
        default: &Limits,
    ) -> Result<Limits, ConfigError> {
        let or = |written: Option<u32>, default: Option<u32>| {
            written.map_or(default, |limit| (limit > 0).then_some(limit))
        };
        let wait = self.duration(format_args!("{key}.wait"), written.wait.as_ref())?;
        Ok(Limits {
            connections: or(written.connections, default.connections),
            messages_per_minute: or(written.messages_per_minute, default.messages_per_minute),
            recipients_per_day: or(written.recipients_per_day, default.recipients_per_day),
            wait: wait.unwrap_or(default.wait),
        })
    }

    pub(super) fn spool(&self, written: raw::Spool) -> Result<SpoolSettings, ConfigError> {
        let default = SpoolSettings::default();
        let retry = match &written.retry {
            None => default.retry,
            Some(list) => {
                let waits = list.get_ref().iter().map(|wait| {
                    self.duration("spool.retry", Some(&Spanned::new(list.span(), wait.clone())))
                });
                waits.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()
            }
        };
        if let (true, Some(list)) = (retry.is_empty(), &written.retry) {
            let remedy = "write the waits between the attempts: [\"1m\", \"5m\", \"15m\", \"1h\"]";
            return Err(self.error(&list.span(), "spool.retry", "the list is empty", remedy));
        }
        Ok(SpoolSettings {
            size: self.size("spool.size", written.size)?.unwrap_or(default.size),
            message: self.size("spool.message", written.message)?.unwrap_or(default.message),
            retry,
            give_up: self
                .duration("spool.give_up", written.give_up.as_ref())?
                .unwrap_or(default.give_up),
        })
    }

    pub(super) fn duration(
        &self,
        key: impl Display,
        written: Option<&Spanned<String>>,
    ) -> Result<Option<Duration>, ConfigError> {
        let Some(written) = written else { return Ok(None) };
        let duration = humantime::parse_duration(written.get_ref());
        duration.ok().filter(|duration| !duration.is_zero()).map(Some).ok_or_else(|| {
            let problem = format!("{:?} is no time", written.get_ref());
            self.error(&written.span(), key, problem, "write \"30s\", \"15m\", \"1h\" or \"5d\"")
        })
    }

    fn size(
        &self,
        key: &str,
        written: Option<Spanned<String>>,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(written) = written else { return Ok(None) };
        let size = written.get_ref().parse::<ByteSize>();
        size.ok().map(|size| size.as_u64()).filter(|size| *size > 0).map(Some).ok_or_else(|| {
            let problem = format!("{:?} is no size", written.get_ref());
            self.error(&written.span(), key, problem, "write \"25 MB\" or \"2 GiB\"")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const ACCOUNT: &str =
        "[app.a]\nclient_id = \"x\"\n[[account]]\nmailbox = \"scans@contoso.com\"\napp = \"a\"\n";

    fn config(more: &str) -> Result<Config, String> {
        let text = format!("{ACCOUNT}{more}");
        Config::parse(Path::new("gatepost.toml"), &text).map_err(|error| error.to_string())
    }

    fn device(more: &str) -> String {
        format!("[[device]]\nname = \"scanner 3\"\nmailbox = \"scans@contoso.com\"\n{more}\n")
    }

    #[test]
    fn a_device_is_found_by_its_narrowest_network() {
        let wide = device("networks = [\"10.0.0.0/8\"]\ni_know = true");
        let narrow =
            device("networks = [\"10.1.2.3\", \"fd00::/64\"]\nsize = \"25 MB\"\nrate = 10");
        let config =
            config(&format!("{wide}{}", narrow.replace("scanner 3", "scanner 4"))).unwrap();
        let name =
            |peer: &str| config.device(peer.parse().unwrap()).map(|device| device.name.as_str());
        assert_eq!(name("10.9.9.9"), Some("scanner 3"));
        assert_eq!(name("10.1.2.3"), Some("scanner 4"));
        assert_eq!(name("::ffff:10.1.2.3"), Some("scanner 4"));
        assert_eq!(name("fd00::7"), Some("scanner 4"));
        assert_eq!(name("192.168.1.1"), None);
        assert_eq!(config.devices[1].size, Some(25_000_000));
    }

    #[test]
    fn a_wide_network_is_refused() {
        for network in ["10.0.0.0/23", "0.0.0.0/0", "fd00::/63", "::/0"] {
            let error = config(&device(&format!("networks = [\"{network}\"]"))).unwrap_err();
            assert!(error.contains("i_know") && error.contains("device[0].networks"), "{error}");
            assert!(config(&device(&format!("networks = [\"{network}\"]\ni_know = true"))).is_ok());
        }
        for network in ["10.0.0.0/24", "fd00::/64"] {
            assert!(config(&device(&format!("networks = [\"{network}\"]"))).is_ok());
        }
    }

    #[test]
    fn errors_name_the_key() {
        for (text, key) in [
            (device("networks = []"), "device[0].networks"),
            (device("networks = [\"scanner.local\"]"), "device[0].networks"),
            (device("networks = [\"::ffff:10.0.0.0/120\"]"), "device[0].networks"),
            (device("networks = [\"10.0.0.1\"]\nsize = \"big\""), "device[0].size"),
            (device("networks = [\"10.0.0.1\"]").replace("scans", "other"), "device[0].mailbox"),
            ("sender = \"someone\"\n".into(), "account[0].sender"),
            ("sender = { \"a@b\" = \"c\" }\n".into(), "account[0].sender"),
            ("via = []\n".into(), "account[0].via"),
            ("via = [\"smtp\", \"smtp\"]\n".into(), "account[0].via"),
            ("limits = { wait = \"soon\" }\n".into(), "account[0].limits.wait"),
            ("[spool]\nretry = []\n".into(), "spool.retry"),
            ("[spool]\ngive_up = \"never\"\n".into(), "spool.give_up"),
            (
                "[[listener]]\nprotocol = \"imap\"\nlisten = \"127.0.0.1:1\"\ndelivery = \"spool\"\n".into(),
                "listener[0].delivery",
            ),
            (
                "[[listener]]\nprotocol = \"smtp\"\nlisten = \"127.0.0.1:1\"\nbare_lf = \"accept\"\n".into(),
                "listener[0].bare_lf",
            ),
        ] {
            let error = config(&text).unwrap_err();
            assert!(error.contains(key) && error.contains("hint:"), "{key}: {error}");
        }
    }

    #[test]
    fn limits_are_exchanges_unless_set() {
        let limits = |more: &str| config(more).unwrap().accounts[0].limits.clone();
        assert_eq!(limits(""), Limits::default());
        let set = limits("limits = { connections = 0, messages_per_minute = 7, wait = \"5s\" }\n");
        assert_eq!((set.connections, set.messages_per_minute), (None, Some(7)));
        assert_eq!((set.recipients_per_day, set.wait), (Some(10_000), Duration::from_secs(5)));
    }
}
