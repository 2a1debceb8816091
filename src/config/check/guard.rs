//! `[guard]`: what is borne of clients that have not logged in.

use toml::Spanned;

use super::super::error::ConfigError;
use super::super::{GuardSettings, raw};
use super::Checker;

impl Checker<'_> {
    pub(super) fn guard(&self, written: &raw::Guard) -> Result<GuardSettings, ConfigError> {
        let default = GuardSettings::default();
        let (of_one, in_all) = (&written.waiting_per_source, &written.waiting);
        Ok(GuardSettings {
            waiting_per_source: self
                .count("guard.waiting_per_source", of_one.as_ref())?
                .unwrap_or(default.waiting_per_source),
            waiting: self.count("guard.waiting", in_all.as_ref())?.unwrap_or(default.waiting),
        })
    }

    /// Nobody could log in with none.
    fn count(
        &self,
        key: &str,
        written: Option<&Spanned<usize>>,
    ) -> Result<Option<usize>, ConfigError> {
        match written {
            Some(zero) if *zero.get_ref() == 0 => {
                let remedy = "write a number from 1 on, or leave it out";
                Err(self.error(&zero.span(), key, "0 would let nobody in", remedy))
            }
            _ => Ok(written.map(|count| *count.get_ref())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::Config;
    use super::*;

    fn guard(text: &str) -> Result<GuardSettings, String> {
        let config = Config::parse(Path::new("gatepost.toml"), text);
        config.map(|config| config.guard).map_err(|error| error.to_string())
    }

    #[test]
    fn each_limit_has_a_default_and_is_not_nothing() {
        assert_eq!(guard("").unwrap(), GuardSettings::default());
        let set = guard("[guard]\nwaiting = 7\n").unwrap();
        assert_eq!(set, GuardSettings { waiting: 7, ..GuardSettings::default() });
        for key in ["waiting", "waiting_per_source"] {
            let error = guard(&format!("[guard]\n{key} = 0\n")).unwrap_err();
            assert!(error.contains(&format!("guard.{key}")) && error.contains("hint:"), "{error}");
        }
    }
}
