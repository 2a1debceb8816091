//! What is known about the portals in which apps are registered.
//!
//! Invariant: it is data; no provider's name is tested for.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::config::{Grant, Provider};

const PORTALS: &str = include_str!("portals.toml");

/// A portal: what it calls the things that are asked for. `portals.toml` describes the keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Portal {
    urls: Vec<String>,
    /// That of the provider.
    #[serde(skip)]
    url: Option<String>,
    pub(super) tenant: String,
    pub(super) client_id: String,
    pub(super) client_secret: String,
    pub(super) client_id_is_guid: bool,
    pub(super) asks_secret: bool,
    pub(super) grants: Option<Vec<Grant>>,
    #[serde(default)]
    needs: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Portals {
    portal: Vec<Portal>,
}

impl Portal {
    /// That of a built-in provider; none: of one that is somebody's own.
    pub(super) fn of(provider: Option<&Provider>) -> Result<Self> {
        let url = provider.and_then(|provider| provider.portal.as_ref());
        let portals: Portals = toml::from_str(PORTALS).context("portals.toml")?;
        let known = |portal: &Portal| url.is_some_and(|url| portal.urls.contains(url));
        let found = portals.portal.into_iter().find(|it| it.urls.is_empty() || known(it));
        let found = found.context("portals.toml has no entry for all others")?;
        Ok(Self { url: url.cloned(), ..found })
    }

    /// Where to go, as a sentence behind what is needed.
    pub(super) fn place(&self) -> String {
        self.url.as_ref().map(|url| format!("\nThe portal: {url}")).unwrap_or_default()
    }

    /// What the app registration must have for `grant`.
    pub(super) fn needs(&self, grant: Grant) -> Option<&str> {
        self.needs.get(grant.name()).map(|needs| needs.trim_start())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn every_built_in_provider_has_a_portal_that_is_known() {
        for provider in Config::built_in_providers().unwrap().values() {
            assert!(!Portal::of(Some(provider)).unwrap().urls.is_empty(), "{}", provider.name);
        }
        let Portals { portal } = toml::from_str(PORTALS).unwrap();
        assert!(portal.last().unwrap().urls.is_empty());
        for needs in portal.iter().flat_map(|portal| portal.needs.values()) {
            assert!(needs.lines().all(|line| line.len() < 84), "{needs}");
        }
    }
}
