//! Whether an answer makes sense, told at once and in the words of who gives it.
//!
//! Invariant: this only helps people early; what decides is the check of the whole configuration.

use std::path::{Path, PathBuf};

use url::Url;
use uuid::Uuid;

use crate::config::{Endpoint, ListenAddress};

/// Nothing that the configuration would refuse as a name.
pub(super) fn name(typed: &str) -> Result<String, String> {
    let name = typed.trim();
    match name {
        "" => Err("it is empty".into()),
        name if name.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Err("it has a space or a control character in it".into())
        }
        name => Ok(name.to_owned()),
    }
}

pub(super) fn mailbox(typed: &str) -> Result<String, String> {
    let mailbox = name(typed)?;
    match mailbox.contains('*') {
        true => Err("name one mailbox; a pattern can be added to the file later".into()),
        false => Ok(mailbox),
    }
}

pub(super) fn address(typed: &str) -> Result<String, String> {
    let address = mailbox(typed)?;
    match address.split_once('@') {
        Some((user, domain)) if !user.is_empty() && domain.contains('.') => Ok(address),
        _ => Err("write the whole address, as in jane@contoso.com".into()),
    }
}

/// An application id: the portal shows others beside it, and a name above it.
pub(super) fn guid(typed: &str) -> Result<String, String> {
    let id = name(typed)?;
    let shape = id.len() == 36 && Uuid::try_parse(&id).is_ok();
    match shape {
        true => Ok(id.to_lowercase()),
        false => {
            Err("it is no id: 36 characters, as in 5e1f0a3c-6d1b-4f0e-9a57-0c1d5b7e2f44".into())
        }
    }
}

/// A client secret. Where ids are GUIDs the portal shows a secret's own id beside it.
pub(super) fn client_secret(typed: &str, ids_are_guids: bool) -> Result<String, String> {
    let secret = typed.trim();
    match secret {
        "" => Err("it is empty".into()),
        secret if ids_are_guids && guid(secret).is_ok() => {
            Err("that is the secret's id; what is wanted is its Value, in the column before".into())
        }
        secret => Ok(secret.to_owned()),
    }
}

pub(super) fn provider_name(typed: &str) -> Result<String, String> {
    let name = name(typed)?;
    match name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        true => Ok(name),
        false => Err("use letters, digits and hyphens".into()),
    }
}

pub(super) fn url(typed: &str) -> Result<String, String> {
    let text = name(typed)?;
    let url = Url::parse(&text.replace("{tenant}", "tenant"))
        .map_err(|error| format!("it is no URL: {error}"))?;
    match url.scheme() {
        "https" | "http" => Ok(text),
        scheme => Err(format!("it begins with {scheme}:, and not with https:")),
    }
}

pub(super) fn server(typed: &str) -> Result<String, String> {
    let server = typed.trim();
    server.parse::<Endpoint>().map(|_| server.to_owned())
}

pub(super) fn listen_address(typed: &str) -> Result<String, String> {
    let address = typed.trim();
    ListenAddress::parse(address).map(|_| address.to_owned())
}

pub(super) fn ip_address(typed: &str) -> Result<String, String> {
    let address = typed.trim();
    let parsed = address.parse::<std::net::IpAddr>();
    parsed.map(|ip| ip.to_string()).map_err(|_| "it is no IP address".into())
}

pub(super) fn variable(typed: &str) -> Result<String, String> {
    let variable = name(typed)?;
    match std::env::var_os(&variable) {
        Some(value) if !value.is_empty() => Ok(variable),
        _ => Err("the environment has no such variable now; set it, or choose a file".into()),
    }
}

/// A file that is there. People write `~/`, which no shell has seen to here.
pub(super) fn file(typed: &str) -> Result<String, String> {
    let path = expanded(typed.trim());
    match path.is_file() {
        true => Ok(path.to_string_lossy().into_owned()),
        false => Err("there is no such file".into()),
    }
}

fn expanded(typed: &str) -> PathBuf {
    match (typed.strip_prefix("~/"), dirs::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => Path::new(typed).to_owned(),
    }
}

/// What tells an app password from others.
pub(super) fn label(typed: &str) -> Result<String, String> {
    let label = typed.trim();
    match label {
        "" => Err("it is empty".into()),
        label if label.chars().any(char::is_control) => Err("it has a control character".into()),
        label => Ok(label.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_names_and_secrets() {
        let id = "5E1F0A3C-6d1b-4f0e-9a57-0c1d5b7e2f44";
        assert_eq!(guid(&format!("  {id}\n")).unwrap(), id.to_lowercase());
        for wrong in ["", "gatepost", &id[..35], &id.replace('-', ""), &format!("{{{id}}}")] {
            assert!(guid(wrong).is_err(), "{wrong}");
        }
        assert!(client_secret(id, true).unwrap_err().contains("Value"));
        assert!(client_secret(id, false).is_ok() && client_secret("Abc~8Q", true).is_ok());
    }

    #[test]
    fn addresses() {
        assert_eq!(address(" jane@contoso.com ").unwrap(), "jane@contoso.com");
        for wrong in ["jane", "@contoso.com", "jane@", "j ane@contoso.com", "*@contoso.com"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
